"""A GAN and an extractor small enough to check by hand."""

import types

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError

SIZE = 8
LATENT_DIM = 6


class Projection:
    """Features and logits are fixed random projections of the pixels."""

    name, sha256, channels, num_features, num_logits = "projection", "0" * 64, 1, 5, 3

    def __init__(self):
        shape = [SIZE * SIZE, self.num_features + self.num_logits]
        self._kernel = tf.constant(np.random.default_rng(0).normal(size=shape) / SIZE, tf.float32)

    @property
    def protocol(self):
        return {"name": self.name, "sha256": self.sha256[:16], "preprocessing": {}}

    def __call__(self, images):
        if images.shape[-1] != 1:
            raise InputError("Projection takes grey images")
        pixels = tf.cast(tf.reshape(images, [-1, SIZE * SIZE]), tf.float32) / 127.5 - 1
        outputs = tf.matmul(pixels, self._kernel)
        return outputs[:, : self.num_features], outputs[:, self.num_features :]


def generator(scale=1.0, momentum=0.9):
    """Latents through batch norm first, so that its statistics are those of the latents."""
    latents = keras.Input([LATENT_DIM])
    outputs = keras.layers.BatchNormalization(momentum=momentum, name="norm")(latents)
    outputs = keras.layers.Dense(SIZE * SIZE, activation="tanh", name="pixels")(outputs)
    outputs = keras.layers.Rescaling(scale)(keras.layers.Reshape([SIZE, SIZE, 1])(outputs))
    return keras.Model(latents, outputs)


class SmallGAN:
    """What evaluation knows of a `training.gan.GAN`; make it inside a strategy's scope."""

    latent_dim, num_classes = LATENT_DIM, 1

    def __init__(self, scale=1.0, momentum=0.9):
        keras.utils.set_random_seed(1)
        self.generator = generator(scale, momentum)
        self.averaged = types.SimpleNamespace(model=generator(scale, momentum))
        for model in (self.generator, self.averaged.model):
            norm = model.get_layer("norm")
            norm.moving_mean.assign(np.linspace(-0.5, 0.5, LATENT_DIM))
            norm.moving_variance.assign(np.linspace(0.5, 2.0, LATENT_DIM))

    def generate(self, latents, labels, training, averaged):
        return (self.averaged.model if averaged else self.generator)(latents, training=training)
