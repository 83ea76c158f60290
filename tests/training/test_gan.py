"""What the factories of a GAN may return, and the losses that their models bring."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam
from stugan_tf.training.steps import Steps
from tests.helpers.tracing import untraced

SHAPE = (4, 4, 1)


def generator(image_shape, width=2, **options):
    latents = keras.Input([3])
    outputs = layers.Reshape([4, 4, width])(layers.Dense(16 * width, name="l1")(latents))
    convolution = layers.Conv2D(image_shape[-1], 3, padding="same", name="c1", **options)
    return keras.Model(latents, convolution(outputs), name="mine")


def discriminator(image_shape, units=1, after=None, **options):
    images = keras.Input(image_shape)
    outputs = layers.Conv2D(2, 3, padding="same", name="c1", **options)(images)
    outputs = after(outputs) if after else outputs
    logits = layers.Dense(units, name="last")(layers.Flatten()(outputs))
    return keras.Model(images, logits, name="mine")


def build(**settings):
    defaults = {
        "generator": generator,
        "discriminator": discriminator,
        "generator_sparsity": 0.5,
        "discriminator_sparsity": 0.5,
    }
    return GAN(SHAPE, 1, **{**defaults, **settings})


def called(model):
    """A factory that returns `model(images)` for images of the data."""

    def make(image_shape):
        images = keras.Input(image_shape)
        return keras.Model(images, model(images), name="mine")

    return make


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def patches(images):
    return layers.Conv2D(1, 3, padding="same")(images)


def two_outputs(images):
    outputs = layers.Conv2D(2, 3)(images)
    return [layers.Dense(1)(layers.Flatten()(outputs)), layers.Dense(10)(layers.Flatten()(outputs))]


def of_maps(image_shape):
    latents = keras.Input([1, 1, 3])
    return keras.Model(latents, layers.Conv2D(1, 1)(layers.UpSampling2D(4)(latents)), name="mine")


@pytest.mark.parametrize(
    ("name", "factory", "told"),
    [
        (
            "discriminator",
            functools.partial(discriminator, units=10),
            r"one logit for each image, \[B, 1\].* 'mine' makes \[None, 10\].*mean of all",
        ),
        ("discriminator", called(two_outputs), "a model of one output, but 'mine' has 2"),
        (
            "discriminator",
            called(lambda images: layers.Flatten()(patches(images))[:, 0]),
            r"'mine' makes \[None\]",
        ),
        (
            "discriminator",
            lambda shape: discriminator((8, 8, 1)),
            r"takes images \(8, 8, 1\), the data has \(4, 4, 1\)",
        ),
        ("discriminator", lambda shape: Subclassed(), "functional or seq.*got a Subclassed"),
        ("generator", lambda shape: None, "functional or sequential model.*got a NoneType"),
        (
            "generator",
            lambda shape: keras.Sequential([layers.Dense(3)]),
            r"with a keras\.Input, got a Sequential",
        ),
        ("generator", of_maps, r"takes \[None, 1, 1, 3\]\. Begin it with `keras.Input\("),
        ("generator", lambda shape: generator((4, 4, 3)), r"makes images \(4, 4, 3\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(name, factory, told):
    with pytest.raises(InputError, match=told):
        build(**{name: factory})


def test_maps_of_logits_fit():
    gan = build(discriminator=called(patches))
    assert gan.discriminate(tf.zeros([2, *SHAPE]), tf.zeros([2], tf.int32)).shape == (2, 4, 4, 1)


def test_each_network_needs_weights_of_its_own():
    """Otherwise the average would be the live generator."""
    model = generator(SHAPE)
    message = r"GAN.generator returned a model that shares '\S*' with the model of the generator"
    with pytest.raises(InputError, match=message + r".*load_model\(path\)"):
        build(generator=lambda shape: model)
    shared = layers.Conv2D(1, 3, padding="same")
    with pytest.raises(InputError, match="returned a model that shares"):
        build(generator=lambda shape: keras.Sequential([generator(shape), shared]))


def test_a_network_of_a_former_gan_is_refused():
    model = discriminator(SHAPE)
    build(discriminator=lambda shape: model)
    with pytest.raises(InputError, match="already under a mask"):
        build(discriminator=lambda shape: model)


def test_each_network_needs_an_optimizer_of_its_own():
    optimizer = MaskedAdam()
    with pytest.raises(InputError, match=r"built for another model.* a new one in each call"):
        build(generator_optimizer=lambda: optimizer, discriminator_optimizer=lambda: optimizer)


def test_mask_dense_is_true_or_false():
    with pytest.raises(InputError, match=r"GAN\.mask_dense must be True or False, got 'no'"):
        build(mask_dense="no")


@pytest.mark.ci
def test_mask_dense_is_for_any_network():
    def masked(mask_dense):
        gan = build(mask_dense=mask_dense)
        return {name: len(masked_layers(network)) for name, network in gan.networks.items()}

    assert masked(True) == {"generator": 2, "discriminator": 2}
    assert masked(None) == {"generator": 1, "discriminator": 1}
    convolutional = build(mask_dense=True, discriminator=called(patches)).discriminator
    assert len(masked_layers(convolutional)) == 1


class Adding(layers.Layer):
    """Adds the number 5 in each call."""

    def call(self, inputs):
        self.add_loss(tf.constant(5.0) + 0 * tf.reduce_mean(inputs))
        return inputs


class AddingSquares(layers.Layer):
    """Adds losses that have gradients, before and after replicas meet to normalise."""

    def __init__(self):
        super().__init__()
        self.normalise = layers.BatchNormalization(synchronized=True, momentum=0.5)

    def call(self, inputs, training=False):
        self.add_loss(tf.reduce_mean(inputs**2))
        outputs = self.normalise(inputs, training=training)
        self.add_loss([tf.reduce_mean(outputs**4), tf.reduce_mean(outputs**3)])
        return outputs


def losses_of_a_step(strategy=None, rematerialize=False, **settings):
    """The metrics of the first step, the weights before it, and the GAN after it."""
    strategy = strategy or tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        gan = build(
            generator_optimizer=functools.partial(MaskedAdam, epsilon=1.0),
            discriminator_optimizer=functools.partial(MaskedAdam, epsilon=1.0),
            **settings,
        )
        if rematerialize:
            gan.rematerialize()
        algorithm = Algorithm(total_steps=2, batch_size=4, generator_batch_size=4)
        steps = Steps(gan, algorithm, strategy, seed=1, jit_compile=False)
    kernels = {name: model.trainable_variables[0].numpy() for name, model in gan.networks.items()}
    size = 4 // strategy.num_replicas_in_sync
    images = np.random.default_rng(0).uniform(-1, 1, [4, *SHAPE]).astype(np.float32)
    parts = images.reshape(-1, size, *SHAPE), np.zeros([4 // size, size], np.int32)
    batches = strategy.distribute_datasets_from_function(
        lambda _: tf.data.Dataset.from_tensor_slices(parts)
    )
    steps.run(iter(batches), 0, 1)
    metrics = steps.pop_metrics()
    return metrics, kernels, gan


@pytest.fixture(scope="module")
def plain():
    with untraced():
        return losses_of_a_step()


@pytest.mark.usefixtures("untraced")
def test_weight_regularizers_are_part_of_the_loss_and_of_the_gradient(plain):
    strong = functools.partial(discriminator, kernel_regularizer=keras.regularizers.L2(10.0))
    metrics, kernels, gan = losses_of_a_step(discriminator=strong)
    added = 10 * np.sum(kernels["discriminator"] ** 2)
    assert metrics["d_loss"] == pytest.approx(plain[0]["d_loss"] + added, rel=1e-5)
    assert metrics["d_gradient_norm"] > 2 * plain[0]["d_gradient_norm"]
    for layer in masked_layers(gan.discriminator):
        layer.check_zeros()


@pytest.mark.usefixtures("untraced")
def test_losses_that_layers_add_count_once_for_each_call(plain):
    """The discriminator is called on real and on generated images."""
    metrics, *_ = losses_of_a_step(discriminator=lambda shape: discriminator(shape, after=Adding()))
    assert metrics["d_loss"] == pytest.approx(plain[0]["d_loss"] + 10, rel=1e-5)
    assert metrics["d_real"] == pytest.approx(plain[0]["d_real"], rel=1e-5)


@pytest.mark.usefixtures("untraced")
def test_activity_regularizers_of_the_generator_are_part_of_its_loss(plain):
    regular = functools.partial(generator, activity_regularizer=keras.regularizers.L1(100.0))
    metrics, *_ = losses_of_a_step(generator=regular)
    assert metrics["g_loss"] > plain[0]["g_loss"] + 1
    assert metrics["d_loss"] == pytest.approx(plain[0]["d_loss"], rel=1e-5)
    assert metrics["g_gradient_norm"] > 2 * plain[0]["g_gradient_norm"]


ADDING = {
    "generator": functools.partial(generator, activity_regularizer=keras.regularizers.L2(3.0)),
    "discriminator": lambda shape: discriminator(
        shape,
        after=AddingSquares(),
        activity_regularizer=keras.regularizers.L1(2.0),
        kernel_regularizer=keras.regularizers.L2(1.0),
    ),
}


@pytest.fixture(scope="module")
def adding():
    with untraced():
        return losses_of_a_step(**ADDING)


def check_same_step(found, expected):
    """That losses, gradients, weights and moving statistics of a step are these."""
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    for name, model in found[2].networks.items():
        for value, other in zip(model.variables, expected[2].networks[name].variables, strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6, err_msg=value.path)


@pytest.mark.usefixtures("untraced")
def test_rematerialisation_keeps_the_losses_that_layers_add(adding, plain):
    for name in ("d_loss", "d_gradient_norm", "g_loss", "g_gradient_norm"):
        assert adding[0][name] != pytest.approx(plain[0][name], rel=0.1)
    check_same_step(losses_of_a_step(rematerialize=True, **ADDING), adding)


@pytest.mark.ci
@pytest.mark.parametrize("rematerialize", [False, True])
def test_replicas_keep_the_losses_that_layers_add(mirrored, adding, rematerialize):
    """Replicas take turns in the middle of a call, where statistics are made of all images."""
    check_same_step(losses_of_a_step(mirrored, rematerialize, **ADDING), adding)


def test_a_layer_with_an_activity_regularizer_is_not_fused():
    """The fused layers would compute without it."""
    options = {"activity_regularizer": keras.regularizers.L1(1.0)}
    latents, labels = tf.ones([2, 3]), tf.zeros([2], tf.int32)
    gan = build(generator=functools.partial(generator, **options))
    added = []
    expected = gan.generate(latents, labels, training=True, added=added)
    gan.set_execution("sparse")
    images = gan.generate(latents, labels, training=True, added=added)
    np.testing.assert_allclose(images, expected, rtol=1e-5)
    dense, sparse = map(float, added)
    assert sparse == pytest.approx(dense, rel=1e-5)
    assert dense > 0
