"""What most of a training's tests need of a discriminator, and no more to trace and compile."""

import keras
from keras import layers

from stugan_tf.layers.masked import Masked
from stugan_tf.layers.pooling import SumPooling2D
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense


def residual_discriminator(image_shape, width=4):
    """One of the four blocks of SNGAN's: spectral norm, a shortcut, both poolings, a bare head."""
    images = keras.Input(image_shape, name="images")
    outputs = Masked(SpectralConv2D(width, 3, padding="same", name="c1"))(images)
    outputs = Masked(SpectralConv2D(width, 3, padding="same", name="c2"))(layers.ReLU()(outputs))
    shortcut = layers.AveragePooling2D(2)(images)
    shortcut = Masked(SpectralConv2D(width, 1, name="c_sc"))(shortcut)
    # No ReLU here, which may make a zero of what is not a number.
    outputs = layers.Add()([layers.AveragePooling2D(2)(outputs), shortcut])
    logits = SpectralDense(1, use_bias=False, name="last")(SumPooling2D()(outputs))
    return keras.Model(images, logits, name="discriminator")
