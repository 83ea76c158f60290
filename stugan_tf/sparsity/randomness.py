"""Uniform random numbers that compiling does not change."""

import tensorflow as tf


def draw_uniform(shape, seed):
    """Uniform multiples of 2**-24 in [0, 1).

    They are made of random integers because those are the same eagerly, in a graph and under XLA,
    which `tf.random.stateless_uniform` for floats is not (tensorflow/tensorflow#117644).

    Args:
        shape: integers or an integer tensor.
        seed: int [2].

    Returns:
        float32 tensor of that shape.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24
