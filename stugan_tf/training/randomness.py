"""Random numbers as a function of (seed, attempt, purpose, step).

A run, its resumption and the same run on another number of replicas draw the same numbers: each
replica draws those of the global batch and takes its slice.
"""

import enum
import math

import tensorflow as tf

from stugan_tf.sparsity.randomness import draw_uniform

ALGORITHM = "philox"  # Left to itself, TensorFlow chooses by device.


class Purpose(enum.IntEnum):
    """What a random number is for."""

    DISCRIMINATOR_UPDATE = 0
    GENERATOR_UPDATE = 1
    DISCRIMINATOR_EXPLORATION = 2
    GENERATOR_EXPLORATION = 3
    SAMPLES = 4


def fold(seed, *data):
    """Folds integers into a seed.

    Args:
        seed: int [2].
        *data: integers or integer scalars.

    Returns:
        int64 [2].
    """
    seed = tf.cast(seed, tf.int64)
    for value in data:
        seed = tf.random.experimental.stateless_fold_in(
            seed, tf.cast(value, tf.int64), alg=ALGORITHM
        )
    return seed


def draw_latents(num, latent_dim, num_classes, seed):
    """Latents and labels of `num` generated images.

    Compiled by XLA or not, they are the same but for rounding: Box and Muller make them of
    `draw_uniform`, because `tf.random.stateless_normal` is another sequence under XLA.

    Args:
        num: number of images.
        latent_dim: length of a latent vector.
        num_classes: number of labels.
        seed: int [2].

    Returns:
        Latents float32 [num, latent_dim] from N(0, I), labels int32 [num], uniform.
    """
    radius, angle = tf.unstack(draw_uniform([2, num, latent_dim], fold(seed, 0)))
    latents = tf.sqrt(-2 * tf.math.log(1 - radius)) * tf.cos(2 * math.pi * angle)
    labels = tf.random.stateless_uniform(
        [num], fold(seed, 1), 0, num_classes, tf.int32, alg=ALGORITHM
    )
    return latents, labels
