"""A training of four steps of a small GAN on the digits, and evaluators that need no network."""

import functools
from typing import ClassVar

import tensorflow as tf

from stugan_tf.data import digits
from stugan_tf.layers.masked import masked_layers
from stugan_tf.runs.loop import Training
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from tests.helpers.smallest_networks import smallest_discriminator, smallest_generator


def tiny_gan(**settings):
    networks = {
        "generator": functools.partial(smallest_generator, width=4, latent_dim=4),
        "discriminator": functools.partial(smallest_discriminator, width=4),
    }
    return functools.partial(
        GAN, **{**networks, "generator_sparsity": 0.5, "discriminator_sparsity": 0.3, **settings}
    )


def tiny_algorithm(**settings):
    return functools.partial(
        Algorithm,
        **{"total_steps": 4, "batch_size": 4, "generator_batch_size": 4, **settings},
    )


def tiny_training(gan=None, algorithm=None, strategy=None, **settings):
    return Training(
        digits(),
        strategy or tf.distribute.OneDeviceStrategy("CPU:0"),
        gan or tiny_gan(),
        algorithm or tiny_algorithm(),
        **settings,
    )


def kernels(training):
    return [layer.kernel.numpy() for layer in masked_layers(training.gan.generator)]


class StopAtTwoError(Exception):
    """What an evaluator raises to end a run before its end."""


class Scripted:
    """An evaluator that gives the same numbers whatever it is given; `Scripted.of` makes it."""

    protocol: ClassVar = {"id": "scripted"}
    metrics: ClassVar = {"fid": min, "inception_score": max}

    def __init__(self, values):
        self._values = iter(values)

    @classmethod
    def of(cls, values):
        return lambda source, strategy: cls(values)

    def prepare(self):
        pass

    def __call__(self, gan):
        value = next(self._values)
        if isinstance(value, type):
            raise value
        return {"fid": value, "inception_score": value, "protocol": self.protocol}
