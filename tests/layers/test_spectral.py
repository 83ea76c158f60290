import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense, SpectralEmbedding
from tests.helpers import reference
from tests.helpers.params import first_by_default

LAYERS = {
    "convolution": (lambda: SpectralConv2D(5, (3, 3), padding="same"), (4, 6, 6, 2)),
    "strided": (lambda: SpectralConv2D(3, (3, 2), strides=2, activation="relu"), (4, 7, 6, 2)),
    "pointwise": (lambda: SpectralConv2D(3, 1, use_bias=False), (2, 4, 4, 4)),
    "dense": (lambda: SpectralDense(3, activation="relu"), (4, 7)),
    "logit": (lambda: SpectralDense(1, use_bias=False), (4, 7)),
}


def plain_twin(layer):
    """The Keras layer that computes with the kernel as it is."""
    kind = keras.layers.Conv2D if isinstance(layer, SpectralConv2D) else keras.layers.Dense
    config = layer.get_config()
    del config["epsilon"], config["iterate_in_inference"]
    return kind.from_config(config)


def build(name):
    make, input_shape = LAYERS[name]
    keras.utils.set_random_seed(1)
    layer = make()
    layer.build(input_shape)
    if layer.use_bias:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    twin = plain_twin(layer)
    twin.build(input_shape)
    return layer, twin, np.random.default_rng(0).normal(size=input_shape).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("compiled", first_by_default(False, True), ids=["eager", "graph"])
def test_calls_follow_the_reference(name, compiled):
    """One iteration per call in training mode, none in inference mode, sigma from the result."""
    layer, twin, inputs = build(name)
    call = tf.function(layer.__call__) if compiled else layer
    u, v = layer.u.numpy(), layer.v.numpy()
    for training in (True, False, False, True, True, False):
        normalized, u, v = reference.spectral_norm(layer.kernel.numpy(), u, v, training)
        twin.set_weights([normalized, layer.bias] if layer.use_bias else [normalized])
        np.testing.assert_allclose(call(inputs, training=training), twin(inputs), atol=1e-5)
        np.testing.assert_allclose(layer.u, u, atol=1e-5)
        np.testing.assert_allclose(layer.v, v, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_call_rewrites_neither_kernel_nor_bias(name):
    layer, _, inputs = build(name)
    before = [variable.numpy() for variable in layer.trainable_variables]
    for training in (True, False):
        layer(inputs, training=training)
    for variable, value in zip(layer.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("name", first_by_default(*LAYERS))
def test_sigma_converges_to_the_largest_singular_value(name):
    layer, _, _ = build(name)
    for _ in range(100):
        layer.sigma(training=True)
    matrix = layer.kernel.numpy().reshape(-1, layer.kernel.shape[-1])
    assert float(layer.sigma(training=False)) == pytest.approx(
        np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-4
    )


def test_singular_vectors_start_random_of_length_one():
    first, second = SpectralDense(40), SpectralDense(40)
    for layer in (first, second):
        layer.build((None, 30))
        assert layer.u.shape == (40,)
        assert layer.v.shape == (30,)
        assert np.linalg.norm(layer.u) == pytest.approx(1, rel=1e-5)
        assert np.linalg.norm(layer.v) == pytest.approx(1, rel=1e-5)
        assert not layer.u.trainable
        assert not layer.v.trainable
    assert abs(first.u.numpy() @ second.u.numpy()) < 0.9


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_flows_through_sigma_but_not_through_its_vectors(name, training):
    """d(W / sigma) for constant u, v: G / sigma - <G, W> / sigma^2 * v u', G of the normalised."""
    layer, twin, inputs = build(name)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(3 * layer(inputs, training=training)))
    gradient = tape.gradient(loss, layer.kernel.value)

    kernel, u, v = (x.numpy().astype(np.float64) for x in (layer.kernel, layer.u, layer.v))
    matrix = kernel.reshape(len(v), len(u))
    sigma = v @ matrix @ u
    twin.set_weights([kernel / sigma, layer.bias] if layer.use_bias else [kernel / sigma])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(3 * twin(inputs)))
    outer = tape.gradient(loss, twin.kernel.value).numpy()
    expected = outer / sigma - np.sum(outer * kernel) / sigma**2 * np.outer(v, u).reshape(
        kernel.shape
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    layer, _, inputs = build("dense")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs, training=True) ** 2)
    gradient = tape.gradient(loss, layer.kernel.value).numpy()
    u, v = layer.u.numpy().astype(np.float64), layer.v.numpy().astype(np.float64)

    def loss_of(kernel):
        normalized, _, _ = reference.spectral_norm(kernel, u, v, training=False)
        return np.sum(np.maximum(inputs @ normalized + layer.bias.numpy(), 0) ** 2)

    kernel = layer.kernel.numpy().astype(np.float64)
    for index in np.ndindex(*kernel.shape):
        step = np.zeros_like(kernel)
        step[index] = 1e-5
        difference = (loss_of(kernel + step) - loss_of(kernel - step)) / 2e-5
        assert gradient[index] == pytest.approx(difference, rel=1e-3, abs=1e-4)


BIGGAN = {"epsilon": 1e-6, "iterate_in_inference": True}
BIGGAN_LAYERS = {
    "convolution": (lambda: SpectralConv2D(5, 3, padding="same", **BIGGAN), (4, 6, 6, 2)),
    "dense": (lambda: SpectralDense(3, use_bias=False, **BIGGAN), (4, 7)),
    "embedding": (lambda: SpectralEmbedding(6, 4, **BIGGAN), (3,)),
}


def build_biggan(name):
    make, shape = BIGGAN_LAYERS[name]
    layer = make()
    random = np.random.default_rng(0)
    inputs = random.integers(0, 6, shape) if name == "embedding" else random.normal(size=shape)
    inputs = inputs.astype(np.int32 if name == "embedding" else np.float32)
    layer(inputs)
    return layer, inputs


@pytest.mark.parametrize("name", BIGGAN_LAYERS)
def test_biggans_calls_follow_its_reference(name):
    """One iteration per call from u alone; only training mode stores it."""
    layer, inputs = build_biggan(name)
    u = layer.u.numpy()
    for training in (False, True, False, True, True, False):
        if name == "embedding":
            table, new_u = reference.biggan_spectral_norm(layer.embeddings.numpy().T, u, 1e-6)
            expected = table.T[inputs]
        else:
            kernel, new_u = reference.biggan_spectral_norm(layer.kernel.numpy(), u, 1e-6)
            twin = plain_twin(layer)
            twin.build(inputs.shape)
            twin.set_weights([kernel, layer.bias] if layer.use_bias else [kernel])
            expected = twin(inputs)
        np.testing.assert_allclose(layer(inputs, training=training), expected, atol=1e-5)
        u = new_u if training else u
        np.testing.assert_allclose(layer.u, u, atol=1e-5)


@pytest.mark.parametrize("name", BIGGAN_LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_biggans_gradient_flows_through_sigma_but_not_through_its_vectors(name, training):
    layer, inputs = build_biggan(name)
    weight = layer.trainable_variables[0]
    matrix = weight.numpy().T if name == "embedding" else weight.numpy()
    matrix = matrix.reshape(-1, matrix.shape[-1]).astype(np.float64)
    v = matrix @ layer.u.numpy()
    v = v / np.linalg.norm(v)
    sigma = np.linalg.norm(matrix.T @ v)
    u = matrix.T @ v / sigma
    with tf.GradientTape() as tape:
        value = layer.sigma(training)
    assert float(value) == pytest.approx(sigma, rel=1e-4)
    outer = np.outer(v, u)
    expected = outer.T if name == "embedding" else outer.reshape(weight.shape)
    np.testing.assert_allclose(tape.gradient(value, weight.value), expected, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(3 * layer(inputs, training=training)))
    assert np.all(np.isfinite(tf.convert_to_tensor(tape.gradient(loss, weight.value))))


@pytest.mark.parametrize(("name", "size"), [("convolution", 5), ("dense", 3), ("embedding", 6)])
def test_biggans_layers_hold_one_vector_with_a_number_per_output_drawn_from_n_0_1(name, size):
    layer, _ = build_biggan(name)
    (u,) = layer.non_trainable_variables[:1]
    assert u is layer.u
    assert u.shape == (size,)
    assert layer.v is None
    large = SpectralDense(4000, **BIGGAN)
    large.build((None, 1))
    assert np.std(large.u) == pytest.approx(1, rel=0.05)


def test_where_vectors_vanish_epsilon_bounds_them():
    layer = SpectralDense(2, use_bias=False, epsilon=0.5, iterate_in_inference=True)
    layer.build((None, 2))
    layer.kernel.assign([[0.1, 0], [0, 0]])
    layer.u.assign([1, 1])
    # v = (0.1, 0) / 0.5, W'v = (0.02, 0), u = (0.04, 0), sigma = u W'v.
    assert float(layer.sigma(training=False)) == pytest.approx(0.02 * 0.04, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, BIGGAN], ids=["pytorch", "biggan"])
@pytest.mark.parametrize("kind", first_by_default(SpectralConv2D, SpectralDense, SpectralEmbedding))
def test_a_layer_of_zeros_computes_zero_and_comes_back_to_life(kind, settings):
    """As after pruning that took the whole layer; 0 / 0 would spoil the loss of the network."""
    make = {SpectralConv2D: (4, 3), SpectralDense: (4,), SpectralEmbedding: (6, 4)}[kind]
    shape = {SpectralConv2D: (2, 5, 5, 3), SpectralDense: (2, 3), SpectralEmbedding: (3,)}[kind]
    layer = kind(*make, **settings)
    inputs = np.ones(shape, np.int32 if kind is SpectralEmbedding else np.float32)
    layer(inputs)
    weights = layer.embeddings if kind is SpectralEmbedding else layer.kernel
    alive = weights.numpy()
    for _ in range(20):
        layer.sigma(training=True)
    expected = layer(inputs).numpy()

    weights.assign(tf.zeros_like(weights))
    for training in (True, False, True):
        with tf.GradientTape() as tape:
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(outputs + outputs**2)
        np.testing.assert_array_equal(outputs, tf.zeros_like(outputs))
        gradient = tape.gradient(loss, weights.value)
        np.testing.assert_array_equal(tf.convert_to_tensor(gradient), np.zeros_like(alive))

    weights.assign(alive)
    for _ in range(20):
        layer.sigma(training=True)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, BIGGAN])
def test_a_saved_embedding_goes_on_where_it_was(settings, tmp_path):
    labels = keras.Input([], dtype="int32")
    model = keras.Model(labels, SpectralEmbedding(5, 3, **settings)(labels))
    inputs = np.arange(5, dtype=np.int32)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for training in (False, True, False):
        np.testing.assert_array_equal(
            loaded(inputs, training=training), model(inputs, training=training)
        )


def test_a_scaled_kernel_computes_the_same():
    layer, _, inputs = build("convolution")
    before = layer(inputs, training=False)
    layer.kernel.assign(8 * layer.kernel)
    np.testing.assert_allclose(layer(inputs, training=False), before, rtol=1e-5, atol=1e-5)


def test_a_saved_model_goes_on_where_it_was(tmp_path):
    images = keras.Input((6, 6, 2))
    outputs = Masked(SpectralConv2D(3, 3, name="convolution"))(images)
    outputs = SpectralDense(1, name="dense")(keras.layers.Flatten()(outputs))
    model = keras.Model(images, outputs)
    inputs = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype(np.float32)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for training in (False, True, False):
        np.testing.assert_array_equal(
            loaded(inputs, training=training), model(inputs, training=training)
        )
