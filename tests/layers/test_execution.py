"""Sparse execution computes what dense execution does, to rounding, or leaves it to that."""

import copy
import itertools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.kernels import library
from stugan_tf.kernels.convolution import Choice
from stugan_tf.layers import execution
from stugan_tf.layers.execution import gradients_of_zeros
from stugan_tf.layers.masked import Masked, masked_layers, set_execution
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense
from tests.helpers.comparison import assert_same, everything, randomize
from tests.helpers.params import examples

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
CHOICES = [Choice(*parts) for parts in itertools.product([False, True], repeat=3)]
TOLERANCE = 1e-5


class Doubled(layers.Conv2D):
    """What a user may bring: another convolution."""

    def convolution_op(self, inputs, kernel):
        return 2 * super().convolution_op(inputs, kernel)


class DoubledCall(layers.Conv2D):
    """Another use of the usual convolution."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def build(layer, inputs=IMAGES, density=0.4):
    masked = Masked(layer)
    masked(inputs)
    return randomize(masked, density)


def model():
    images = keras.Input((8, 8, 4))
    outputs = Masked(SpectralConv2D(4, 3, padding="same", name="first"))(images)
    outputs = Masked(layers.Conv2D(2, 3, activation="relu", name="second"))(outputs)
    outputs = layers.Flatten()(layers.BatchNormalization(name="norm")(outputs))
    return randomize(keras.Model(images, Masked(layers.Dense(3, name="third"))(outputs)))


@pytest.fixture
def warnings(monkeypatch):
    """What is warned of from here on."""
    lines = []
    monkeypatch.setattr(execution.logging, "warning", lambda text, *args: lines.append(text % args))
    execution.warn_unused.cache_clear()
    return lines


@pytest.fixture
def no_sparse_product(monkeypatch):
    def fail(*arguments):
        raise AssertionError("a sparse product")

    monkeypatch.setattr(execution, "masked_convolution", fail)


@st.composite
def convolutions(draw):
    """A convolution as its settings, and the shape of its inputs."""
    kernel_size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = draw(st.sampled_from(["same", "valid"]))
    least = kernel_size if padding == "valid" else (1, 1)
    shape = [draw(st.integers(1, 3)), *(draw(st.integers(n, 7)) for n in least)]
    return {
        "filters": draw(st.integers(1, 9)),
        "kernel_size": kernel_size,
        "padding": padding,
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "tanh", "softplus"])),
    }, (*shape, draw(st.integers(1, 9)))


def check(layer, inputs, mode, choice, training, unknown):
    """Calls a layer dense, then otherwise, in a function if some sizes are `unknown` to it."""
    masked = build(layer, inputs)
    expected = everything(masked, inputs, masked.variables, training)
    masked.execution = mode
    call = masked
    if unknown is not None:
        signature = [tf.TensorSpec([None] * unknown + list(inputs.shape[unknown:]))]
        function = tf.function(
            lambda inputs: masked(inputs, training=training), input_signature=signature
        )

        def call(inputs, training):
            return function(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution.tuning, "fastest", lambda problem: choice)
        assert_same(everything(call, inputs, masked.variables, training), expected, TOLERANCE)


@pytest.mark.ci
@pytest.mark.usefixtures("operations")
@examples(40)
@given(
    kind=st.sampled_from([layers.Conv2D, SpectralConv2D]),
    problem=convolutions(),
    mode=st.sampled_from(["sparse", "auto"]),
    choice=st.sampled_from(CHOICES),
    training=st.booleans(),
    unknown=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 99),
)
def test_convolutions_are_those_of_dense_execution(
    kind, problem, mode, choice, training, unknown, seed
):
    arguments, shape = problem
    keras.utils.set_random_seed(seed)
    inputs = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    check(kind(**arguments), inputs, mode, choice, training, unknown)


@pytest.mark.ci
@pytest.mark.usefixtures("operations")
@examples(20)
@given(
    kind=st.sampled_from([layers.Dense, SpectralDense]),
    units=st.integers(1, 9),
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    use_bias=st.booleans(),
    activation=st.sampled_from([None, "tanh"]),
    mode=st.sampled_from(["sparse", "auto"]),
    choice=st.sampled_from(CHOICES),
    training=st.booleans(),
    unknown=st.sampled_from([None, 1, -1]),
)
def test_matrix_products_are_those_of_dense_execution(
    kind, units, shape, use_bias, activation, mode, choice, training, unknown
):
    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = kind(units, use_bias=use_bias, activation=activation)
    unknown = len(shape) - 1 if unknown == -1 else unknown  # All but the channels.
    check(layer, inputs, mode, choice, training, unknown)


UNSUPPORTED = {
    "strided": lambda: layers.Conv2D(4, 3, strides=2),
    "spectral strided": lambda: SpectralConv2D(4, 3, strides=(1, 2)),
    "dilated": lambda: layers.Conv2D(4, 3, dilation_rate=2),
    "grouped": lambda: layers.Conv2D(4, 3, groups=2),
    "transposed": lambda: layers.Conv2DTranspose(4, 3),
    "one-dimensional": lambda: layers.Conv1D(4, 3),
    "channels first": lambda: layers.Conv2D(4, 3, data_format="channels_first"),
    "half precision": lambda: layers.Conv2D(4, 3, dtype="mixed_float16"),
    "half precision, dense": lambda: layers.Dense(4, activation="relu", dtype="mixed_float16"),
    "double precision, dense": lambda: layers.Dense(4, dtype="float64"),
    "own convolution": lambda: Doubled(4, 3),
}


def skip_without(layer, inputs):
    """Skips where TensorFlow cannot run a layer: channels first need oneDNN, on some processors."""
    try:
        layer(inputs)
    except tf.errors.UnimplementedError as error:
        pytest.skip(error.message)


@pytest.mark.usefixtures("no_sparse_product")
@pytest.mark.parametrize("mode", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_layers_compute_as_without_a_mask(name, mode):
    inputs = IMAGES[0] if name == "one-dimensional" else IMAGES
    skip_without(UNSUPPORTED[name](), inputs)
    masked = build(UNSUPPORTED[name](), inputs)
    masked.execution = mode
    twin = type(masked.layer).from_config(masked.layer.get_config())
    twin.build(inputs.shape)
    for variable, value in zip(twin.variables, masked.layer.variables, strict=True):
        variable.assign(value)
    outputs, expected = masked(inputs), twin(inputs)
    assert outputs.dtype == expected.dtype
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.usefixtures("operations")
def test_another_use_of_the_usual_convolution_stays_what_it_is():
    masked = build(DoubledCall(4, 3))
    expected = everything(masked, IMAGES, masked.variables)
    masked.execution = "sparse"
    assert_same(everything(masked, IMAGES, masked.variables), expected, TOLERANCE)


@pytest.mark.ci
def test_xla_gets_the_dense_layers_and_one_warning(operations, warnings):
    network = set_execution(model(), "sparse")
    expected = everything(network, IMAGES, network.variables)
    assert warnings == []
    compiled = tf.function(network.__call__, jit_compile=True)
    assert_same(everything(compiled, IMAGES, network.variables), expected, 1e-4)
    (line,) = warnings
    assert line == (
        "The sparse kernels are not used: XLA (jit_compile) cannot run them. "
        "Layers compute as dense ones."
    )


@pytest.mark.parametrize("mode", ["sparse", "auto"])
@pytest.mark.usefixtures("no_sparse_product")
def test_without_kernels_layers_compute_dense_and_one_warning_says_why(mode, warnings, monkeypatch):
    def load():
        raise library.KernelsUnavailableError("there is no compiler 'g++'; install g++ or set CXX")

    monkeypatch.setattr(library, "load", load)
    network = model()
    expected = everything(network, IMAGES, network.variables)
    assert warnings == []
    set_execution(network, mode)
    assert_same(everything(network, IMAGES, network.variables), expected)
    (line,) = warnings
    assert "not used: there is no compiler 'g++'; install g++ or set CXX. Layers" in line


def test_a_misspelt_execution_is_refused_and_changes_nothing():
    network = set_execution(model(), "auto")
    message = r"execution must be one of dense, sparse, auto, got 'spares'\."
    with pytest.raises(InputError, match=message):
        set_execution(network, "spares")
    assert {layer.execution for layer in masked_layers(network)} == {"auto"}


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("kind", [layers.Conv2D, SpectralConv2D])
@pytest.mark.parametrize("wanted", [False, tf.constant(False), tf.constant(True)])
def test_gradients_of_zeros_may_be_left_out_and_all_others_stay(kind, wanted):
    masked = build(kind(4, 3))
    masked.execution = "sparse"
    expected = everything(masked, IMAGES, masked.variables)

    def call(inputs, training):
        with gradients_of_zeros(wanted):
            return masked(inputs, training=training)

    name = f"gradient of {masked.kernel.path}"
    found = everything(call, IMAGES, masked.variables)
    if not wanted:
        mask = masked.kernel_mask.numpy()
        if kind is layers.Conv2D:  # Through sigma, a dense function of W, all have a gradient.
            assert not np.any(found[name][mask == 0])
        found[name], expected[name] = found[name] * mask, expected[name] * mask
    assert_same(found, expected, TOLERANCE)


def test_whether_gradients_of_zeros_are_wanted_is_of_the_innermost_context():
    wanted = execution.zero_gradients
    assert wanted() is True
    with gradients_of_zeros(False):
        assert wanted() is False
        with gradients_of_zeros(True):
            assert wanted() is True
        assert wanted() is False
        with pytest.raises(KeyError), gradients_of_zeros(True):
            raise KeyError
        assert wanted() is False
    assert wanted() is True


def test_whether_gradients_of_zeros_are_wanted_is_of_the_thread():
    seen = []
    with gradients_of_zeros(False):
        thread = threading.Thread(target=lambda: seen.append(execution.zero_gradients()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_saved_model_is_the_same_under_every_execution(tmp_path):
    network = model()
    names = [variable.path for variable in network.variables]
    values = network.get_weights()
    config = network.get_config()
    for mode in ("dense", "sparse"):
        set_execution(network, mode)
        network.save(tmp_path / f"{mode}.keras")
        network.save_weights(tmp_path / f"{mode}.weights.h5")
    assert [variable.path for variable in network.variables] == names
    assert network.get_config() == config
    for mode in ("dense", "sparse"):
        loaded = keras.models.load_model(tmp_path / f"{mode}.keras")
        assert {layer.execution for layer in masked_layers(loaded)} == {"dense"}
        for variable in network.variables:
            variable.assign(tf.zeros_like(variable))
        network.load_weights(tmp_path / f"{mode}.weights.h5")
        for weights in (loaded.get_weights(), network.get_weights()):
            for weight, value in zip(weights, values, strict=True):
                np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, keras.models.clone_model])
def test_a_copied_model_has_weights_and_masks_of_its_own(duplicate):
    network = set_execution(model(), "sparse")
    twin = duplicate(network)
    for variable, value in zip(twin.variables, network.variables, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(twin(IMAGES), network(IMAGES), atol=1e-5)
    before = network(IMAGES).numpy()
    for layer in masked_layers(twin):
        layer.assign_mask(tf.zeros_like(layer.kernel))
    np.testing.assert_array_equal(network(IMAGES), before)
    assert np.any(twin(IMAGES).numpy() != before)


class NotForXLA(layers.Dense):
    """A dense layer that XLA can never compile."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_jit = False


def test_xla_does_not_compile_what_runs_on_non_zeros():
    network = model()
    for mode in ("sparse", "auto"):
        set_execution(network, mode)
        network.compile("sgd", "mse")
        assert not network.jit_compile
        with pytest.warns(UserWarning, match="Model doesn't support `jit_compile=True`"):
            network.compile("sgd", "mse", jit_compile=True)
        assert not network.jit_compile
    set_execution(network, "dense")
    network.compile("sgd", "mse", jit_compile=True)
    assert network.jit_compile


def test_a_layer_that_xla_can_never_compile_stays_so():
    network = keras.Sequential([keras.Input((4,)), Masked(NotForXLA(3))])
    for mode in ("sparse", "dense"):
        set_execution(network, mode)
        assert not network.layers[0].layer.supports_jit


def test_execution_of_a_model_without_masks_is_refused():
    with pytest.raises(InputError, match="'plain' has no masks, so all of it computes densely"):
        set_execution(keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="plain"), "auto")
    with pytest.raises(InputError, match=r"A Keras model is needed, such as .*, got 'model'"):
        set_execution("model", "auto")
