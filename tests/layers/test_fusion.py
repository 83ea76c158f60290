"""A fused model is the model, to rounding: outputs, gradients, moving statistics, iterations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.layers.fusion import FusedConvolution, fuse
from stugan_tf.layers.masked import Masked, masked_layers, set_execution
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.models.biggan import biggan_discriminator, biggan_generator
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from tests.helpers.comparison import assert_same, everything, randomize
from tests.helpers.params import examples, first_by_default

pytestmark = pytest.mark.usefixtures("operations")

CHANNELS = 4
# Statistics of a batch and all that follows from them lose a digit or two.
TOLERANCE = 1e-4


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def convolution(kernel_size=3, kind=layers.Conv2D, **settings):
    return Masked(kind(CHANNELS, kernel_size, **{"padding": "same", **settings}))


def normalization(**settings):
    return layers.BatchNormalization(**settings)


def functional(outputs_of, size=(8, 8)):
    images = keras.Input((*size, CHANNELS))
    return randomize(keras.Model(images, outputs_of(images)))


def num_fused(model):
    return sum(isinstance(layer, FusedConvolution) for layer in model.layers)


def settle(model, inputs):
    """Until the estimates of singular values are of a usual size: small ones magnify rounding."""
    for _ in range(5):
        model(inputs, training=True)


def check(model, inputs, modes=(True, False)):
    """That fusing changes nothing; returns the fused model."""
    variables = list(model.variables)
    trainable, masked = list(model.trainable_variables), masked_layers(model)
    expected = {mode: everything(model, inputs, variables, mode) for mode in modes}
    fused = fuse(set_execution(model, "sparse"))
    for mode in modes:
        assert_same(everything(fused, inputs, variables, mode), expected[mode], TOLERANCE)
    assert {id(v) for v in fused.variables} == {id(v) for v in variables}
    assert {id(v) for v in fused.trainable_variables} == {id(v) for v in trainable}
    assert {id(layer) for layer in masked_layers(fused)} == {id(layer) for layer in masked}
    assert [id(v) for v in model.variables] == [id(v) for v in variables]
    return fused


@pytest.mark.parametrize("size", [16, 32])
def test_the_generator_is_the_same_and_all_around_its_convolutions_is_fused(size):
    model = randomize(sngan_generator((size, size, 3), width=8, latent_dim=5))
    fused = check(model, draw(4, 5))
    kinds = {type(layer) for layer in fused.layers}
    assert kinds == {
        layers.InputLayer,
        layers.Dense,
        layers.Reshape,
        FusedConvolution,
        layers.Activation,
    }
    assert num_fused(fused) == len(masked_layers(model))


@pytest.mark.parametrize("size", first_by_default(16, 32))
def test_the_discriminator_is_the_same_and_all_around_its_convolutions_is_fused(size):
    model = randomize(sngan_discriminator((size, size, 3), width=8))
    images = draw(4, size, size, 3)
    settle(model, images)
    fused = check(model, images)
    assert not any(isinstance(layer, layers.Add) for layer in fused.layers)
    assert num_fused(fused) == len(masked_layers(model))


# A generator for 64x64 would differ from that for 32x32 in one more block alone.
BIGGANS = {
    ("generator", "cifar"): ((32, 32, 3), {"latent_dim": 6}),
    ("generator", "imagenet"): (
        (32, 32, 3),
        {"latent_dim": 12, "shared_dim": 4, "hierarchical": True, "attention_sizes": (16,)},
    ),
    ("discriminator", "cifar"): ((32, 32, 3), {}),
    ("discriminator", "imagenet"): ((64, 64, 3), {"attention_sizes": (16,)}),
}


@pytest.mark.ci
@pytest.mark.parametrize(("network", "kind"), first_by_default(*reversed(BIGGANS), in_ci=0))
def test_biggan_is_the_same_though_conditional_normalization_is_not_fused(network, kind):
    shape, settings = BIGGANS[network, kind]
    if network == "generator":
        model = biggan_generator(shape, num_classes=5, width=2, **settings)
    else:
        model = biggan_discriminator(shape, num_classes=5, width=4, **settings)
    model = randomize(model)
    inputs = [draw(2, *model.inputs[0].shape[1:]), np.array([4, 0], np.int32)]
    settle(model, inputs)
    fused = check(model, inputs)
    assert num_fused(fused) == len(masked_layers(model))


def any_model(draw):
    """Blocks of optional layers, each from the last block or from any tensor before it."""
    keras.utils.set_random_seed(draw(st.integers(0, 9)))
    flags = st.booleans()
    images = keras.Input((*draw(st.sampled_from([(4, 4), (6, 4), (5, 6)])), CHANNELS))
    tensors = [images]
    for _ in range(draw(st.integers(1, 4))):
        x = tensors[-1] if draw(flags) else draw(st.sampled_from(tensors))
        made = []
        if draw(flags):
            norm = normalization(scale=draw(flags), center=draw(flags), momentum=0.8)
            norm.trainable = draw(flags)
            made.append(norm)
        if draw(flags):
            made.append(draw(st.sampled_from([layers.ReLU, lambda: layers.Activation("relu")]))())
        if draw(flags) and x.shape[1] < 8:
            interpolation = draw(st.sampled_from(["nearest", "nearest", "bilinear"]))
            made.append(layers.UpSampling2D(interpolation=interpolation))
        made.append(
            convolution(
                draw(st.sampled_from([1, 3])),
                draw(st.sampled_from([layers.Conv2D, SpectralConv2D])),
                use_bias=draw(flags),
            )
        )
        if draw(flags) and min(x.shape[1:3]) > 1:
            made.append(layers.AveragePooling2D(2))
        for layer in made:
            x = layer(x)
            tensors.append(x)
        for pools in (False, True):
            others = [other for other in tensors if other.shape == x.shape]
            if draw(flags):
                other = draw(st.sampled_from(others))
                x = layers.Add()([x, other] if draw(flags) else [other, x])
                tensors.append(x)
            if pools and draw(flags) and min(x.shape[1:3]) > 1:
                x = layers.AveragePooling2D(2)(x)
                tensors.append(x)
    outputs = [x, draw(st.sampled_from(tensors[1:]))] if draw(flags) else x
    return randomize(keras.Model(images, outputs), seed=draw(st.integers(0, 9)))


def check_any_model(data, training):
    model = any_model(data.draw)
    images = draw(3, *model.inputs[0].shape[1:])
    settle(model, images)
    check(model, images, modes=(training,))


@examples(4)
@given(data=st.data(), training=st.booleans())
def test_any_model_is_the_same(data, training):
    check_any_model(data, training)


@pytest.mark.slow
@examples(100)
@given(data=st.data(), training=st.booleans())
def test_any_of_many_models_is_the_same(data, training):
    check_any_model(data, training)


def shared_normalization(images):
    outputs = layers.ReLU()(normalization()(images))
    return layers.Concatenate()([convolution()(outputs), convolution(1)(outputs)])


def normalization_that_is_an_output(images):
    outputs = normalization()(images)
    return [convolution()(outputs), outputs]


def shared_spectral_convolution(images):
    outputs = convolution(kind=SpectralConv2D)(images)
    total = layers.Add()([outputs, images])
    return layers.Concatenate()([layers.AveragePooling2D(2)(x) for x in (outputs, total)])


def added_to_itself(images):
    outputs = convolution(kind=SpectralConv2D)(images)
    return layers.Add()([outputs, outputs])


@pytest.mark.parametrize(
    "outputs_of",
    [
        shared_normalization,
        normalization_that_is_an_output,
        shared_spectral_convolution,
        added_to_itself,
    ],
)
def test_what_two_layers_need_is_computed_once(outputs_of):
    """Else moving statistics and power iterations would move twice."""
    check(functional(outputs_of), draw(3, 8, 8, CHANNELS))


def test_layers_may_be_called_twice():
    norm, conv = normalization(), convolution(kind=SpectralConv2D)
    model = functional(lambda images: conv(layers.ReLU()(norm(conv(norm(images))))))
    assert num_fused(check(model, draw(3, 8, 8, CHANNELS))) == 2


class Doubled(layers.Conv2D):
    """Another use of the usual convolution."""

    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: convolution(activation="tanh"),
        lambda: convolution(strides=2),
        lambda: convolution(dilation_rate=2),
        lambda: convolution(groups=2),
        lambda: convolution(kind=layers.Conv2DTranspose),
        lambda: convolution(kind=Doubled),
        lambda: Masked(layers.Dense(CHANNELS)),
        lambda: layers.Conv2D(CHANNELS, 3),
    ],
    ids=["activation", "strided", "dilated", "grouped", "transposed", "own", "dense", "unmasked"],
)
def test_other_layers_are_not_fused(make):
    dense = Masked(layers.Dense(CHANNELS))  # So that the model has a mask.
    model = functional(lambda images: dense(make()(layers.ReLU()(images))))
    assert num_fused(check(model, draw(3, 8, 8, CHANNELS))) == 0


@pytest.mark.parametrize(
    "layer",
    [
        layers.ReLU(max_value=1.0),
        layers.LeakyReLU(),
        normalization(axis=1),
        normalization(renorm=True),
        layers.UpSampling2D((2, 1)),
        layers.UpSampling2D(interpolation="bilinear"),
    ],
    ids=lambda layer: layer.name,
)
def test_what_the_operation_does_not_do_stays_before_it(layer):
    model = functional(lambda images: convolution()(layer(images)))
    fused = check(model, draw(3, 8, 8, CHANNELS))
    assert num_fused(fused) == 1
    assert layer in fused.layers


@pytest.mark.parametrize(
    "layer",
    [layers.AveragePooling2D(3), layers.AveragePooling2D(2, 1), layers.MaxPooling2D()],
    ids=lambda layer: layer.name,
)
def test_what_the_operation_does_not_do_stays_after_it(layer):
    fused = check(functional(lambda images: layer(convolution()(images))), draw(3, 8, 8, CHANNELS))
    assert layer in fused.layers


def test_an_odd_number_of_rows_is_pooled_without_the_last():
    model = functional(
        lambda images: layers.AveragePooling2D(2)(convolution()(layers.ReLU()(images))), (7, 8)
    )
    check(model, draw(3, 7, 8, CHANNELS))


def test_a_normalization_called_for_inference_stays_so():
    check(
        functional(lambda images: convolution()(normalization()(images, training=False))),
        draw(3, 8, 8, CHANNELS),
    )


def test_images_may_have_any_size():
    model = functional(
        lambda images: layers.AveragePooling2D(2)(
            convolution()(layers.UpSampling2D()(layers.ReLU()(normalization()(images))))
        ),
        (None, None),
    )
    fused = check(model, draw(3, 6, 8, CHANNELS))
    set_execution(model, "auto")
    np.testing.assert_allclose(
        fused(draw(2, 4, 4, CHANNELS)), model(draw(2, 4, 4, CHANNELS)), atol=1e-5
    )


def test_layers_of_one_precision_are_fused_whatever_the_policy_of_new_layers():
    model = functional(lambda images: convolution()(layers.ReLU()(normalization()(images))))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert num_fused(check(model, draw(3, 8, 8, CHANNELS))) == 1
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_model_of_several_inputs_is_the_same():
    images, labels = keras.Input((8, 8, CHANNELS)), keras.Input((), dtype="int32")
    maps = layers.Reshape((8, 8, 1))(layers.Embedding(5, 64)(labels))
    outputs = layers.Concatenate()([images, maps])
    outputs = convolution()(layers.ReLU()(normalization()(outputs)))
    outputs = layers.Add()([images, layers.AveragePooling2D(2)(layers.UpSampling2D()(outputs))])
    model = randomize(keras.Model([images, labels], outputs))
    labels = np.array([4, 0, 4], np.int32)
    assert num_fused(check(model, [draw(3, 8, 8, CHANNELS), labels])) == 1


def test_a_sequential_model_is_fused_once_it_knows_its_inputs():
    def make():
        return [normalization(), layers.ReLU(), convolution(), layers.AveragePooling2D(2)]

    unbuilt = keras.Sequential(make())
    assert fuse(unbuilt) is unbuilt
    model = randomize(keras.Sequential([keras.Input((8, 8, CHANNELS)), *make()]))
    fused = check(model, draw(3, 8, 8, CHANNELS))
    assert [type(layer) for layer in fused.layers] == [layers.InputLayer, FusedConvolution]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = convolution()

    def call(self, inputs):
        return tf.nn.relu(self.convolution(inputs))


def test_a_subclassed_model_is_returned_as_it_is_even_when_nested():
    model = Subclassed()
    model(draw(3, 8, 8, CHANNELS))
    assert fuse(randomize(model)) is model
    nested = functional(lambda images: convolution()(layers.ReLU()(model(images))))
    fused = check(nested, draw(3, 8, 8, CHANNELS))
    assert model in fused.layers
    assert num_fused(fused) == 1


def test_a_model_is_saved_as_before(tmp_path):
    model = functional(lambda images: convolution()(layers.ReLU()(normalization()(images))))
    inputs = draw(3, 8, 8, CHANNELS)
    expected = model(inputs)
    fuse(model)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras")(inputs), expected
    )


def gradients_of_gradients(model, inputs):
    images = tf.constant(inputs)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images)
        norm = tf.norm(tape.gradient(outputs, images))
    return outer.gradient(norm, [layer.kernel.value for layer in masked_layers(model)])


def test_gradients_of_gradients_are_the_same_or_refused_with_advice():
    model = functional(lambda images: convolution()(layers.ReLU()(convolution()(images))))
    inputs = draw(3, 8, 8, CHANNELS)
    expected = gradients_of_gradients(model, inputs)
    fused = fuse(set_execution(model, "sparse"))
    pairs = zip(gradients_of_gradients(fused, inputs), expected, strict=True)
    for gradient, expected_gradient in pairs:
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)
    model = functional(lambda images: convolution()(layers.UpSampling2D()(images)))
    fused = fuse(set_execution(model, "sparse"))
    with pytest.raises(NotImplementedError, match="Call the model itself, not `fuse"):
        gradients_of_gradients(fused, inputs)
