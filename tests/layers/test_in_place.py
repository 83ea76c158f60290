"""Masks of plain models: what gets one, and that Keras saves, loads and clones them."""

import copy
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.fit.optimizer import SparseOptimizer
from stugan_tf.layers.in_place import plain_class
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.masked import check_zeros, set_execution
from stugan_tf.sparsity.flops import layer_costs
from stugan_tf.sparsity.rules import RigL
from stugan_tf.sparsity.sparsify import count_weights, sparsify
from tests.helpers.params import first_by_default

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
NUMBERS = np.random.default_rng(0).integers(0, 10, size=(4, 6))
LABELS = np.arange(4) % 3


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A transformer block, as people write it."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.norm = layers.LayerNormalization()
        self.mlp = keras.Sequential([layers.Dense(2 * width, "gelu"), layers.Dense(width)])

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.mlp.build(shape)

    def call(self, inputs):
        outputs = inputs + self.attention(inputs, inputs)
        return outputs + self.mlp(self.norm(outputs))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Without `build` and `get_config`: Keras derives both."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(width, 3, activation="relu")
        self.more = [layers.Flatten(), layers.Dense(3)]

    def call(self, inputs):
        outputs = self.first(inputs)
        for layer in self.more:
            outputs = layer(outputs)
        return outputs


def convolutions():
    images = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(4, 3, activation="relu", name="first")(images)
    outputs = layers.DepthwiseConv2D(3, name="depthwise")(outputs)
    outputs = layers.SeparableConv2D(6, 3, padding="same", name="separable")(outputs)
    outputs = layers.BatchNormalization()(outputs)
    outputs = layers.SpectralNormalization(layers.Conv2D(5, 1), name="norm")(outputs)
    outputs = layers.Conv2DTranspose(4, 2, name="transposed")(outputs)
    outputs = layers.GlobalAveragePooling2D()(outputs)
    return keras.Model(images, layers.Dense(3, name="last")(outputs)), IMAGES


def sequences():
    numbers = keras.Input((6,), dtype="int32")
    outputs = Block(4)(layers.Embedding(10, 4)(numbers))
    outputs = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(outputs)
    outputs = layers.TimeDistributed(layers.Dense(3))(outputs)
    return keras.Model(numbers, layers.Dense(3)(layers.GRU(3)(outputs))), NUMBERS


def sequential():
    model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)])
    model.build((None, 8, 8, 3))
    return model, IMAGES


def subclassed():
    model = Subclassed()
    model(IMAGES)
    return model, IMAGES


def nested():
    images = keras.Input((8, 8, 3))
    inner = keras.Model(images, layers.Conv2D(4, 3, name="inner")(images), name="encoder")
    outputs = layers.Flatten()(inner(layers.Conv2D(3, 1)(images)))
    return keras.Model(images, layers.Dense(3)(outputs)), IMAGES


MODELS = first_by_default(convolutions, subclassed, sequences, sequential, nested)


def masks_of(model):
    return [mask.kernel_mask.numpy() for mask in kernel_masks(model)]


def check_same_masks(model, other):
    for mask, expected in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(mask, expected)
    check_zeros(model)


def train(model, inputs, **kwargs):
    model.fit(inputs, LABELS, shuffle=False, verbose=0, **kwargs)


def trained(make):
    model, inputs = make()
    model = sparsify(model, 0.5)
    # To compile the steps would take longer than to make them.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    # A grown weight may be zero: masks are not where kernels are zero.
    mask = kernel_masks(model)[0]
    mask.assign_mask(tf.roll(mask.kernel_mask.value, 1, 0))
    train(model, inputs)
    return model, inputs


@pytest.mark.parametrize("make", MODELS)
def test_a_loaded_model_is_the_saved_one_and_trains_on_as_it_does(make, tmp_path):
    model, inputs = trained(make)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for _ in range(2):
        check_same_masks(loaded, model)
        np.testing.assert_array_equal(loaded(inputs), model(inputs))
        train(loaded, inputs)
        train(model, inputs)


@pytest.mark.parametrize("make", MODELS)
def test_a_clone_has_the_masks_and_takes_the_weights(make, tmp_path):
    model, inputs = trained(make)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone(inputs)
    check_same_masks(clone, model)
    assert np.any(clone(inputs) != model(inputs))
    for mask in kernel_masks(clone):
        mask.assign_mask(tf.ones(mask.kernel.shape))
    clone.load_weights(tmp_path / "model.weights.h5")
    check_same_masks(clone, model)
    np.testing.assert_array_equal(clone(inputs), model(inputs))
    other = type(model).from_config(model.get_config())
    other(inputs)
    check_same_masks(other, model)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other(inputs), model(inputs))


@pytest.mark.ci
@pytest.mark.parametrize(
    "imports",
    first_by_default(
        "import stugan_tf, keras",
        "import keras, stugan_tf",
        "import stugan_tf, tensorflow, keras",
        in_ci=0,
    ),
)
def test_a_new_process_that_has_imported_the_package_can_load_it(imports, tmp_path):
    model = sparsify(sequential()[0], 0.5)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", IMAGES)
    program = (
        f"{imports}, numpy as np\n"
        f"model = keras.models.load_model(r'{tmp_path}/model.keras')\n"
        f"np.save(r'{tmp_path}/outputs.npy', model(np.load(r'{tmp_path}/inputs.npy')))\n"
        "[mask.check_zeros() for mask in stugan_tf.kernel_masks(model)]\n"
        "print(stugan_tf.count_weights(model).active)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == count_weights(model).active
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), model(IMAGES), rtol=1e-5)


def test_a_model_inside_and_a_part_of_a_model_keep_their_masks(tmp_path):
    model, _ = nested()
    sparsify(model, 0.5)
    encoder = model.get_layer("encoder")
    part = keras.Model(model.inputs, model.layers[1].output)
    for number, saved in enumerate((encoder, part)):
        assert len(kernel_masks(saved)) == 1
        saved.save(tmp_path / f"{number}.keras")
        check_same_masks(keras.models.load_model(tmp_path / f"{number}.keras"), saved)
    check_same_masks(copy.deepcopy(encoder), encoder)


@pytest.mark.ci
@pytest.mark.parametrize("make", [nested, pytest.param(subclassed, marks=pytest.mark.slow)])
def test_a_topology_that_changes_goes_on_after_loading(make, tmp_path):
    model, inputs = make()
    sparsify(model, 0.5)
    rule = RigL(update_interval=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SparseOptimizer(keras.optimizers.Adam(), rule, total_steps=20), loss)
    before = masks_of(model)
    train(model, inputs, epochs=2)
    assert any(np.any(mask != first) for mask, first in zip(masks_of(model), before, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for trained_on in (model, loaded):
        train(trained_on, inputs, epochs=2)
    check_same_masks(loaded, model)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


@pytest.mark.ci
def test_checkpoints_of_tensorflow_have_the_masks(tmp_path):
    model, other = (sparsify(nested()[0], 0.5, seed=seed) for seed in (0, 1))
    path = tf.train.Checkpoint(model).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(other).restore(path).assert_consumed()
    check_same_masks(other, model)


@pytest.mark.ci
def test_callbacks_that_save_keep_masks(tmp_path):
    model, inputs = trained(convolutions)
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "checkpoint.keras"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
    ]
    train(model, inputs, epochs=2, callbacks=callbacks)
    loaded = keras.models.load_model(tmp_path / "checkpoint.keras")
    check_same_masks(loaded, model)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    restored, _ = trained(convolutions)
    kernel_masks(restored)[0].assign_mask(tf.ones(kernel_masks(restored)[0].kernel.shape))
    # All epochs are over: it restores the weights and trains no more.
    train(restored, inputs, epochs=2, callbacks=[callbacks[1]])
    check_same_masks(restored, model)
    np.testing.assert_array_equal(restored(inputs), model(inputs))


def test_weights_of_a_dense_model_are_refused_in_words(tmp_path):
    def dense():
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="only")])

    dense().save_weights(tmp_path / "dense.weights.h5")
    told = "no masks for layer '.*only', so it is of a dense model. Load it into the dense model"
    with pytest.raises(ValueError, match=told):
        sparsify(dense(), 0.5).load_weights(tmp_path / "dense.weights.h5")


def test_a_weight_that_left_its_zero_is_noticed_before_anything_is_saved(tmp_path):
    model, _ = trained(convolutions)
    mask = kernel_masks(model)[0]
    mask.kernel.assign(tf.ones_like(mask.kernel))
    with pytest.raises(InputError, match=r"weights of layer '\w+' are not zero"):
        model.save(tmp_path / "model.keras")


def test_what_multiplies_by_a_kernel_has_a_mask():
    model = sparsify(convolutions()[0], 0.5)
    names = {mask.name.split("/", 1)[0]: mask.kernel.shape for mask in kernel_masks(model)}
    assert set(names) == {"first", "depthwise", "separable", "norm", "transposed", "last"}
    assert len(kernel_masks(model)) == 7
    model = sparsify(sequences()[0], 0.5)
    shapes = sorted(tuple(mask.kernel.shape) for mask in kernel_masks(model))
    attention = [(2, 2, 4), *[(4, 2, 2)] * 3]
    recurrent = [*[(4, 12), (3, 12)] * 2, (3, 9), (3, 9)]
    assert shapes == sorted([*attention, (4, 8), (8, 4), *recurrent, (6, 3), (3, 3)])


def test_layers_keep_their_names_weights_and_what_they_compute():
    model, inputs = convolutions()
    before, layer = model(inputs), model.get_layer("first")
    path, config = layer.kernel.path, layer.get_config()
    assert sparsify(model, 0) is model
    np.testing.assert_array_equal(model(inputs), before)
    assert isinstance(layer, layers.Conv2D)
    assert type(layer).__name__ == "Conv2D"
    assert plain_class(layer) is layers.Conv2D
    assert layer.kernel.path == path
    assert config.items() <= layer.get_config().items()
    paths = [variable.path for variable in model.variables]
    assert f"{path}_mask" in paths
    assert len(paths) == len(set(paths))


def test_costs_see_the_masks():
    model = sparsify(convolutions()[0], 0.5)
    costs = layer_costs(model)
    assert sum(cost.active for cost in costs) == count_weights(model).active
    assert all(cost.masked for cost in costs)


@pytest.mark.parametrize("make", [sequential, subclassed])
def test_execution_on_non_zeros_gives_the_same_numbers(make, operations):
    model, inputs = make()
    sparsify(model, 0.5)
    dense = model(inputs)
    for mask in kernel_masks(set_execution(model, "sparse")):
        assert mask.execution == "sparse"
    outputs = model(inputs)
    np.testing.assert_allclose(outputs, dense, rtol=1e-4, atol=1e-5)
    assert np.any(outputs != dense)
    model.compile("sgd", "mse")
    model.fit(inputs, np.zeros((4, 3)), verbose=0)
    check_zeros(model)
    assert np.any(model(inputs) != outputs)
    set_execution(model, "dense")
    np.testing.assert_allclose(model(inputs), set_execution(model, "auto")(inputs), rtol=1e-4)


def test_a_class_that_has_changed_since_is_told():
    model = sparsify(subclassed()[0], 0.5)
    config = model.get_config()
    changed = type(model).from_config({**config, "width": 5})
    with pytest.raises(InputError, match=r"a Subclassed, does not have the kernels .* changed"):
        changed(IMAGES)
