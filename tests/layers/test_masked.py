import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import (
    CONVOLUTIONS,
    Masked,
    check_zeros,
    mask_layers,
    masked_layers,
    unmasked_dense_layers,
    unmasked_kernels,
)
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
CHECKERBOARD = (np.indices((3, 3, 3, 4)).sum(axis=0) % 2).astype(np.float32)


def convolution(name="convolution"):
    return layers.Conv2D(4, 3, padding="same", name=name)


def functional():
    images = keras.Input((8, 8, 3))
    outputs = convolution()(images)
    outputs = layers.ReLU()(layers.BatchNormalization()(outputs)) + 1
    outputs = layers.Conv2DTranspose(2, 3, strides=2, name="transposed")(outputs)
    return keras.Model(images, layers.Dense(5, name="dense")(layers.Flatten()(outputs)))


def sequential():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), convolution(), layers.ReLU(), layers.Dense(5, name="dense")]
    )


def test_a_mask_of_ones_is_the_plain_layer():
    plain = convolution()
    masked = Masked(plain)
    np.testing.assert_array_equal(masked(IMAGES), plain(IMAGES))
    assert masked.num_active() == 3 * 3 * 3 * 4
    assert masked.name == "convolution"
    assert masked.trainable_variables == plain.trainable_variables
    assert masked.compute_output_shape((2, 8, 8, 3)) == (2, 8, 8, 4)


def test_a_mask_zeroes_the_kernel_and_keeps_the_rest():
    masked = Masked(convolution())
    masked.build(IMAGES.shape)
    kernel = masked.kernel.numpy()
    masked.assign_mask(CHECKERBOARD)
    np.testing.assert_array_equal(masked.kernel, kernel * CHECKERBOARD)
    np.testing.assert_array_equal(masked.kernel_mask, CHECKERBOARD)
    assert masked.num_active() == CHECKERBOARD.sum()


def test_zeros_stay_zeros_when_the_mask_grows_back():
    masked = Masked(convolution())
    masked.build(IMAGES.shape)
    kernel = masked.kernel.numpy()
    masked.assign_mask(CHECKERBOARD)
    masked.assign_mask(np.ones_like(CHECKERBOARD))
    np.testing.assert_array_equal(masked.kernel, kernel * CHECKERBOARD)


@pytest.mark.parametrize("kind", [layers.Conv2D, SpectralConv2D])
def test_the_gradient_is_dense(kind):
    """It is the gradient of the layer without a mask, at the kernel that holds the zeros."""
    masked = Masked(kind(4, 3, padding="same"))
    masked.build(IMAGES.shape)
    masked.assign_mask(CHECKERBOARD)
    gradients = []
    for layer in (masked, masked.layer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(IMAGES)))
        gradients.append(tape.gradient(loss, masked.kernel.value))
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert np.all(np.abs(gradients[0]) > 1e-6)


def test_training_mode_reaches_the_wrapped_layer():
    masked = Masked(SpectralConv2D(4, 3))
    masked.build(IMAGES.shape)
    u = masked.layer.u.numpy()
    masked(IMAGES, training=False)
    np.testing.assert_array_equal(masked.layer.u, u)
    masked(IMAGES, training=True)
    assert np.any(masked.layer.u.numpy() != u)


@pytest.mark.parametrize("layer", [layers.BatchNormalization(), layers.SeparableConv2D(4, 3)])
def test_a_layer_without_one_kernel_is_refused(layer):
    with pytest.raises(InputError, match=r"needs a layer with one `kernel`, got \w+ '\w+'\. Wrap"):
        Masked(layer).build((None, 8, 8, 3))


def test_the_configuration_describes_the_layer():
    masked = Masked(SpectralConv2D(4, 3, padding="same", name="inner"), name="outer")
    copy = Masked.from_config(masked.get_config())
    assert copy.get_config() == masked.get_config()
    assert copy.name == "outer"
    assert isinstance(copy.layer, SpectralConv2D)


def test_a_saved_model_keeps_its_masks(tmp_path):
    model = mask_layers(functional())
    for seed, layer in enumerate(masked_layers(model)):
        rng = np.random.default_rng(seed)
        layer.assign_mask(rng.integers(0, 2, layer.kernel.shape).astype(np.float32))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    pairs = zip(masked_layers(loaded), masked_layers(model), strict=True)
    for loaded_layer, layer in pairs:
        np.testing.assert_array_equal(loaded_layer.kernel_mask, layer.kernel_mask)
        np.testing.assert_array_equal(loaded_layer.kernel, layer.kernel)


@pytest.mark.parametrize("make", [functional, sequential])
@pytest.mark.parametrize("mask_dense", [False, True])
def test_wrapping_changes_no_output_and_shares_the_weights(make, mask_dense):
    model = make()
    masked = mask_layers(model, mask_dense)
    np.testing.assert_array_equal(masked(IMAGES), model(IMAGES))
    kinds = (*CONVOLUTIONS, layers.Dense) if mask_dense else CONVOLUTIONS
    wrapped = {layer.layer for layer in masked_layers(masked)}
    assert wrapped == {layer for layer in model.layers if isinstance(layer, kinds)}
    masked.get_layer("convolution").assign_mask(CHECKERBOARD)
    assert np.all(model.get_layer("convolution").kernel.numpy()[CHECKERBOARD == 0] == 0)
    np.testing.assert_array_equal(masked(IMAGES), model(IMAGES))


def test_dense_layers_go_under_masks_beside_those_whose_author_chose():
    """And the bare convolution stays bare: its author chose that, too."""
    images = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(3, 3, name="bare")(Masked(layers.Conv2D(3, 3, name="own"))(images))
    inner = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2, name="in")])
    model = keras.Model(images, layers.Dense(1, name="out")(inner(outputs)))
    assert [layer.name for layer in unmasked_dense_layers(model)] == ["in", "out"]
    masked = mask_layers(model, mask_dense=True)
    assert {layer.name for layer in masked_layers(masked)} == {"own", "in", "out"}
    assert unmasked_dense_layers(masked) == []
    np.testing.assert_array_equal(masked(IMAGES), model(IMAGES))


def test_each_layer_of_a_nested_model_is_wrapped_and_listed_once():
    images = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inner = keras.Sequential([keras.Input((8, 8, 3)), shared, layers.ReLU()], name="inner")
    outputs = convolution("last")(shared(inner(shared(inner(images)))))
    model = keras.Model(images, outputs)
    masked = mask_layers(model)
    assert sorted(layer.name for layer in masked_layers(masked)) == ["last", "shared"]
    np.testing.assert_allclose(masked(IMAGES), model(IMAGES), rtol=1e-5)


def test_masks_inside_a_custom_layer_are_found():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = Masked(convolution("first")), Masked(convolution("second"))

        def call(self, inputs):
            return self.second(self.first(inputs))

    model = keras.Sequential([Block(), Block()])
    model.build((None, 8, 8, 3))
    assert len(masked_layers(model)) == 4


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.convolution = convolution()

    def call(self, inputs):
        return self.convolution(inputs)


def test_a_subclassed_model_is_refused_even_when_nested():
    subclassed = Subclassed()
    images = keras.Input((8, 8, 3))
    message = r"layers of 'mine', a Subclassed: only functional and .* Masked\(keras\.layers\."
    for model in (subclassed, keras.Model(images, subclassed(images), name="outer")):
        with pytest.raises(InputError, match=message):
            mask_layers(model)


@pytest.mark.parametrize("kind", [layers.Dense, SpectralDense])
def test_a_matrix_product_of_many_axes_is_that_of_its_rows(kind):
    """Of this shape `tf.matmul` writes to memory that is not its own (TensorFlow 2.21, oneDNN)."""
    inputs = np.random.default_rng(0).normal(size=(9, 1, 2, 6)).astype(np.float32)
    masked = Masked(kind(1))
    rows = masked(inputs.reshape(-1, 6))
    np.testing.assert_allclose(masked(inputs), tf.reshape(rows, [9, 1, 2, 1]), rtol=1e-5)


def test_a_weight_that_left_its_zero_is_noticed_before_anything_is_saved(tmp_path):
    """As it does when `compile` gets an optimizer that does not know the masks."""
    model = mask_layers(functional())
    layer = model.get_layer("convolution")
    layer.assign_mask(CHECKERBOARD)
    check_zeros(model)
    layer.kernel.assign_add(np.where(CHECKERBOARD == 0, 1e-3, 0).astype(np.float32))
    message = f"{np.sum(CHECKERBOARD == 0)} weights of layer 'convolution' are not zero"
    with pytest.raises(InputError, match=message):
        check_zeros(model)
    with pytest.raises(InputError, match=message):
        model.save(tmp_path / "mine.keras")
    layer.assign_mask(CHECKERBOARD)
    model.save(tmp_path / "mine.keras")
    layer.kernel_mask.assign(0.5 * np.ones_like(CHECKERBOARD))
    with pytest.raises(InputError, match="values other than 0 and 1"):
        check_zeros(model)


def test_kernels_without_a_mask_are_listed_once_with_what_holds_them():
    images = keras.Input((3, 8, 8, 3))
    outputs = layers.TimeDistributed(layers.Conv2D(2, 3, name="each"))(images)
    outputs = layers.SpectralNormalization(layers.Conv3D(2, 1, name="norm"))(outputs)
    outputs = Masked(layers.Conv3D(2, 1))(layers.BatchNormalization()(outputs))
    outputs = layers.Dense(5, name="last")(layers.Flatten()(outputs))
    assert unmasked_kernels(keras.Model(images, outputs)) == [
        ("each", "TimeDistributed(Conv2D)", 9 * 3 * 2, 4),
        ("norm", "SpectralNormalization(Conv3D)", 4, 5),
        ("last", "Dense", 3 * 6 * 6 * 2 * 5, 2),
    ]
