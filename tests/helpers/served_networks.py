"""Generators whose every weight and statistic matters, and commands run within this process."""

import functools

import gin
import keras
import numpy as np

from stugan_tf.layers.conditional import ConditionalBatchNormalization
from stugan_tf.layers.masked import Masked, masked_layers
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.models.biggan import biggan_generator
from stugan_tf.models.sngan import sngan_generator
from stugan_tf.serving.interface import Interface
from tests.helpers import commands
from tests.helpers.commands import STATIC
from tests.helpers.projection import projection_discriminator

CONDITIONAL = (
    "GAN.conditional = True",
    "GAN.generator = @served_generator",
    f"GAN.discriminator = @{projection_discriminator.__name__}",
)
CLASSES = 10


@gin.configurable(module="serving_test", denylist=["image_shape", "num_classes"])
def served_generator(image_shape, num_classes=CLASSES):
    """The smallest conditional generator with a block of BigGAN."""
    latents, labels = keras.Input([8]), keras.Input([], dtype="int32")
    outputs = keras.layers.Reshape([4, 4, 4])(keras.layers.Dense(64)(latents))
    gain, bias = (
        keras.layers.Embedding(num_classes, 4, embeddings_initializer="normal")(labels)
        for _ in range(2)
    )
    outputs = ConditionalBatchNormalization(momentum=0.5)(outputs, gain, bias)
    outputs = keras.layers.UpSampling2D()(keras.layers.ReLU()(outputs))
    outputs = Masked(SpectralConv2D(image_shape[-1], 3, padding="same"))(outputs)
    return keras.Model([latents, labels], keras.layers.Activation("tanh")(outputs), name="mine")


def unlike_new(model, density=0.1, seed=0):
    """Gives masks of a density, and random values to whatever starts as zeros or ones."""
    random = np.random.default_rng(seed)
    for layer in masked_layers(model):
        mask = random.random(layer.kernel.shape) < density
        mask[..., 0, :] |= mask.sum(axis=tuple(range(mask.ndim - 1))) == 0  # W / sigma of zeros
        layer.assign_mask(mask.astype(np.float32))
    for variable in model.variables:
        name = variable.path.split("/")[-1]
        if name in ("bias", "beta", "gamma", "moving_mean", "embeddings"):
            variable.assign(variable + random.normal(0, 0.3, variable.shape))
        elif name == "moving_variance":
            variable.assign(random.uniform(0.5, 2, variable.shape))
    return model


@functools.cache
def generator(name):
    """`sngan`, `biggan`, or `biggan_imagenet`: shared embedding, hierarchical, attention."""
    keras.utils.set_random_seed(0)
    if name == "sngan":
        return unlike_new(sngan_generator((8, 8, 3), width=8, latent_dim=8))
    if name == "biggan":
        return unlike_new(biggan_generator((32, 32, 3), CLASSES, width=2, latent_dim=8))
    return unlike_new(
        biggan_generator(
            (32, 32, 3),
            CLASSES,
            width=2,
            latent_dim=16,
            shared_dim=4,
            hierarchical=True,
            attention_sizes=(16,),
        )
    )


def interface_of(model):
    return Interface(
        model.inputs[0].shape[-1],
        tuple(model.output_shape[1:]),
        CLASSES,
        len(model.inputs) > 1,
    )


def inputs_of(model, num=5, seed=0):
    """Latents and labels (None of an unconditional model), arrays."""
    random = np.random.default_rng(seed)
    latents = random.normal(size=[num, model.inputs[0].shape[-1]]).astype(np.float32)
    return latents, np.arange(num, dtype=np.int32) if len(model.inputs) > 1 else None


def images_of(model, latents, labels):
    return model(latents if labels is None else [latents, labels], training=False).numpy()


def train(workdir, *bindings):
    """Trains a run of one step; returns its workdir."""
    return commands.train(workdir, *STATIC, *bindings)
