"""Scores by which weights are dropped (lowest) and grown (highest): Eq. 3 and 4.

One family, `(weight, gradient, seed) -> scores`: float32 tensors of one shape and a pair of
integers. `gradient` is the dense gradient of the loss with respect to the raw kernel; what is
averaged over steps (momentum growth) is averaged by the caller.
"""

import gin
import tensorflow as tf

from stugan_tf.randomness import draw_uniform


@gin.configurable(denylist=["weight", "gradient", "seed"])
def magnitude(weight, gradient, seed):
    """Eq. 3: the smallest weights matter least."""
    del gradient, seed
    return tf.abs(weight)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def gradient_magnitude(weight, gradient, seed):
    """Eq. 4: the largest dense gradients promise the fastest loss reduction."""
    del weight, seed
    return tf.abs(gradient)


@gin.configurable(denylist=["weight", "gradient", "seed"])
def random_scores(weight, gradient, seed):
    """SET: uniformly random growth; also how Explore D grows."""
    del gradient
    return draw_uniform(tf.shape(weight), seed)
