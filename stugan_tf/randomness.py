"""Random numbers as a function of (seed, attempt, purpose, step).

A run, its resumption and the same run on another number of replicas draw the same numbers. Each
replica draws the numbers of the global batch and takes its slice.
"""

import enum
import math
from typing import Any

import tensorflow as tf

from stugan_tf.signatures import Seed

ALGORITHM = "philox"  # By default TensorFlow's choice depends on the device.


class Purpose(enum.IntEnum):
    """What a random number is for."""

    DISCRIMINATOR_UPDATE = 0
    GENERATOR_UPDATE = 1
    DISCRIMINATOR_TOPOLOGY = 2
    GENERATOR_TOPOLOGY = 3
    SAMPLES = 4
    EVALUATION = 5
    REAL_AUGMENTATION = 6
    FAKE_AUGMENTATION = 7
    GENERATOR_AUGMENTATION = 8


def fold(seed: Seed, *data: Any) -> tf.Tensor:
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


def draw_uniform(shape: Any, seed: Seed) -> tf.Tensor:
    """Draws uniform multiples of 2**-24 in [0, 1).

    They are made from random integers, which are the same eagerly, in a graph and under XLA. The
    floats of `tf.random.stateless_uniform` are not (tensorflow/tensorflow#117644).

    Args:
        shape: integers or an integer tensor.
        seed: int [2].

    Returns:
        float32 tensor of the shape `shape`.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg=ALGORITHM)
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def draw_latents(
    num: int,
    latent_dim: int,
    num_classes: int,
    seed: Seed,
    truncation: float | tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws latents and labels for `num` generated images.

    With and without XLA they are the same up to rounding. They come from `draw_uniform` by the Box
    and Muller method, because `tf.random.stateless_normal` gives other numbers under XLA.

    Args:
        num: number of images.
        latent_dim: length of a latent vector.
        num_classes: number of labels.
        seed: int [2].
        truncation: a number or a scalar tensor. If given, the normal distribution is cut off at
            this absolute value, which trades variety for quality (Brock et al. 2019, section 3.1).
            A seed then draws other images than without truncation, however large the number is.

    Returns:
        Latents float32 [num, latent_dim] from N(0, I), labels int32 [num], uniform.
    """
    radius, angle = tf.unstack(draw_uniform([2, num, latent_dim], fold(seed, 0)))
    if truncation is None:
        latents = tf.sqrt(-2 * tf.math.log(1 - radius)) * tf.cos(2 * math.pi * angle)
    else:
        # The inverse of the distribution function draws once; rejection would draw again.
        if tf.is_tensor(truncation):
            inside = tf.cast(
                tf.math.erf(tf.cast(truncation, tf.float64) / math.sqrt(2)), tf.float32
            )
        else:
            inside = math.erf(truncation / math.sqrt(2))
        centred = 2 * radius - 1 + 2.0**-24  # In (-1, 1): at the ends erfinv is infinite.
        latents = math.sqrt(2) * tf.math.erfinv(centred * inside)
    labels = tf.random.stateless_uniform(
        [num], fold(seed, 1), 0, num_classes, tf.int32, alg=ALGORITHM
    )
    return latents, labels
