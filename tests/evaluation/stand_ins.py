"""A GAN and an extractor small enough to check by hand."""

import types

import keras
import numpy as np
import tensorflow as tf

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


def small_gan(scale=1.0, momentum=0.9, seed=1):
    """What evaluation knows of a `training.gan.GAN`; make it inside a strategy's scope."""
    keras.utils.set_random_seed(seed)
    models = {"live": generator(scale, momentum), "averaged": generator(scale, momentum)}
    for model in models.values():
        norm = model.get_layer("norm")
        norm.moving_mean.assign(np.linspace(-0.5, 0.5, LATENT_DIM))
        norm.moving_variance.assign(np.linspace(0.5, 2.0, LATENT_DIM))
    return types.SimpleNamespace(
        generator=models["live"],
        averaged=types.SimpleNamespace(model=models["averaged"]),
        latent_dim=LATENT_DIM,
        num_classes=1,
        generate=lambda latents, labels, training, averaged: models[
            "averaged" if averaged else "live"
        ](latents, training=training),
    )
