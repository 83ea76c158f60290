"""A small GAN trained by `fit`, and the same training as a run."""

import functools

import numpy as np
import tensorflow as tf

from stugan_tf.data import digits
from stugan_tf.fit.gan import SparseGAN
from stugan_tf.runs.loop import Training
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.losses import non_saturating
from stugan_tf.training.masked_adam import MaskedAdam
from tests.helpers.smallest_networks import smallest_discriminator, smallest_generator

NETWORKS = {
    "generator": functools.partial(smallest_generator, width=4, latent_dim=4),
    "discriminator": functools.partial(smallest_discriminator, width=4),
}
SPARSITIES = {"generator_sparsity": 0.5, "discriminator_sparsity": 0.3}
ADAM = functools.partial(MaskedAdam, 1e-2, beta_1=0.5)
SETTINGS = {
    "generator_exploration": Exploration(update_interval=2),
    "average_decay": 0.5,
}
BATCH_SIZE, EPOCHS, PER_EPOCH = 4, 2, 2


def made(**settings):
    gan = SparseGAN(**NETWORKS, **SPARSITIES, image_shape=(8, 8, 1), seed=3)
    gan.compile(ADAM(), ADAM(), **{"loss": non_saturating(), **SETTINGS, **settings})
    return gan


def fitted(gan, data=None, **settings):
    settings = {
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "steps_per_epoch": PER_EPOCH,
        "verbose": 0,
        **settings,
    }
    return gan.fit(digits() if data is None else data, **settings).history


def run(path, strategy=None, **settings):
    """The same training as a run."""
    training = Training(
        digits(),
        strategy or tf.distribute.OneDeviceStrategy("CPU:0"),
        functools.partial(
            GAN,
            **NETWORKS,
            **SPARSITIES,
            generator_optimizer=ADAM,
            discriminator_optimizer=ADAM,
        ),
        functools.partial(
            Algorithm,
            batch_size=BATCH_SIZE,
            generator_batch_size=BATCH_SIZE,
            loss=non_saturating(),
            **{"total_steps": EPOCHS * PER_EPOCH, **SETTINGS, **settings},
        ),
        seed=3,
        log_every=PER_EPOCH,
        trackers=[],
    )
    training.run(path, "")
    return training


def everything(gan):
    """All values that a training ends with, by name."""
    values = {}
    for name, network in {**gan.networks, "average": gan.averaged.model}.items():
        values |= {f"{name}/{i}": v.numpy() for i, v in enumerate(network.variables)}
    for name, optimizer in gan.optimizers.items():
        values |= {f"{name} optimizer/{i}": v.numpy() for i, v in enumerate(optimizer.variables)}
    return values | {f"seen/{i}": v.numpy() for i, v in enumerate(gan.averaged.seen)}


def assert_same(actual, expected):
    actual, expected = everything(actual), everything(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def assert_close(actual, expected):
    """The same up to rounding."""
    actual, expected = everything(actual), everything(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
