"""The run whose checkpoints lie in `checkpoint_format_1`: of both players, and with momentum.

They are of steps 3 and 4, written when variables were named by their position.
"""

import functools
import pathlib

import keras

from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.sparsity.criteria import random_scores
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.balance import BalanceRatio
from stugan_tf.training.gan import GAN
from stugan_tf.training.masked_adam import MaskedAdam

FOLDER = pathlib.Path(__file__).parent / "checkpoint_format_1"


def generator(image_shape):
    latents = keras.Input([3])
    outputs = keras.layers.Reshape([4, 4, 2])(keras.layers.Dense(32, name="first")(latents))
    outputs = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.UpSampling2D()(outputs))
    outputs = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(outputs)
    outputs = keras.layers.Conv2D(image_shape[-1], 3, padding="same", activation="tanh")(outputs)
    return keras.Model(latents, outputs)


def discriminator(image_shape):
    images = keras.Input(image_shape)
    outputs = SpectralConv2D(4, 3, strides=2, activation="relu", name="c1")(images)
    outputs = SpectralConv2D(3, 3, activation="relu")(outputs)
    return keras.Model(images, keras.layers.Dense(1)(keras.layers.Flatten()(outputs)))


gan = functools.partial(
    GAN,
    generator=generator,
    discriminator=discriminator,
    generator_sparsity=0.5,
    discriminator_sparsity=0.4,
    generator_optimizer=functools.partial(MaskedAdam, beta_1=0.5, learning_rate=0.01),
    discriminator_optimizer=functools.partial(MaskedAdam, moments="active", learning_rate=0.01),
)
algorithm = functools.partial(
    Algorithm,
    total_steps=5,
    batch_size=8,
    generator_batch_size=8,
    accumulation_steps=2,
    discriminator_steps=2,
    generator_position=1,
    generator_exploration=Exploration(update_interval=2, gradient_momentum=0.5),
    discriminator_exploration=Exploration(update_interval=4, grow_scores=random_scores),
    balance_ratio=BalanceRatio(every=1, window=2),
    average_decay=0.9,
)
settings = {"checkpoint_every": 1, "log_every": 9, "sample_every": 9, "keep_checkpoints": 9}
