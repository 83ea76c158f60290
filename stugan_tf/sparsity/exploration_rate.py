"""How much of a network its masks have visited (ITOP's R_s), and how fast they change.

`ever_active` of a kernel is the union of its masks so far, with the initial one:
`tf.maximum(ever_active, mask)` after each topology update.
"""

from collections.abc import Sequence

import tensorflow as tf


def exploration_rate(ever_active: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """R_s: the fraction of weights that have been active at any time.

    Args:
        ever_active: list of the unions of L kernels, 0/1 tensors.

    Returns:
        R_s per layer, float64 [L], and over all layers together, float64 scalar.
    """
    visited = tf.stack([tf.math.count_nonzero(union) for union in ever_active])
    sizes = tf.stack([tf.size(union, out_type=tf.int64) for union in ever_active])
    return visited / sizes, tf.reduce_sum(visited) / tf.reduce_sum(sizes)


def churn(old_mask: tf.Tensor, new_mask: tf.Tensor) -> tf.Tensor:
    """The fraction of active weights that are new, float64 scalar; 0 without active weights."""
    num_new = tf.math.count_nonzero((new_mask > 0) & (old_mask == 0))
    num_active = tf.math.count_nonzero(new_mask)
    return tf.math.divide_no_nan(tf.cast(num_new, tf.float64), tf.cast(num_active, tf.float64))
