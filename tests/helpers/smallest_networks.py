"""Networks of two convolutions each, for commands: quick to build, to trace and to compile."""

import gin
import keras
from keras import layers

from stugan_tf.layers.masked import Masked
from stugan_tf.layers.pooling import SumPooling2D
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense


@gin.configurable(module="tests", denylist=["image_shape"])
def smallest_generator(image_shape, width=8, latent_dim=8):
    """Latents [B, latent_dim] to images [B, H, W, C]; H == W, an even number.

    With a width of 8 and grey images it has 576 + 72 weights that can be masked.
    """
    size = image_shape[0] // 2
    latents = keras.Input([latent_dim], name="latents")
    outputs = layers.Dense(size * size * width, name="l1")(latents)
    outputs = layers.UpSampling2D()(layers.Reshape([size, size, width])(outputs))
    outputs = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="norm")(outputs))
    outputs = Masked(layers.Conv2D(width, 3, padding="same", name="c1"))(outputs)
    last = layers.Conv2D(image_shape[-1], 3, padding="same", name="c2")
    outputs = Masked(last)(layers.ReLU()(outputs))
    images = layers.Activation("tanh", dtype="float32", name="images")(outputs)
    return keras.Model(latents, images, name="generator")


@gin.configurable(module="tests", denylist=["image_shape"])
def smallest_discriminator(image_shape, width=8):
    """Images [B, H, W, C] to logits [B, 1]."""
    images = keras.Input(image_shape, name="images")
    outputs = Masked(SpectralConv2D(width, 3, padding="same", name="c1"))(images)
    outputs = layers.AveragePooling2D(2)(layers.ReLU()(outputs))
    outputs = Masked(SpectralConv2D(width, 3, padding="same", name="c2"))(outputs)
    outputs = SumPooling2D()(layers.ReLU()(outputs))
    logits = SpectralDense(1, use_bias=False, dtype="float32", name="last")(outputs)
    return keras.Model(images, logits, name="discriminator")
