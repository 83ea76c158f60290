"""Where the weights are: exact top-k and prune-and-regrow (Eq. 3 and 4).

The paper leaves open how to round the number of dropped weights, over what TopK ranks, and ties.
Here, like in the authors' code, the number is rounded up and each layer ranks its own weights
(`prune_and_regrow_globally` ranks all together). Unlike there, counts are exact: ties go to the
lowest index. Scores are ranked by their bits because sorting a large kernel takes seconds.
"""

import math

import gin
import tensorflow as tf

_RADIX = 2**16  # an int32 key is two digits


def top_k_mask(scores, k, among=None):
    """Marks the `k` largest scores with 1, the rest with 0; exactly `k` even in ties.

    Time is linear and shapes are static. NaN ranks below -inf, -0 equals 0.

    Args:
        scores: float32 tensor of any shape with fewer than 2**31 elements.
        k: integer or scalar tensor from 0 to the number of candidates; it is not checked.
        among: bool tensor like `scores`, the candidates; all of them if None.

    Returns:
        float32 mask like `scores`. Of equal scores the lowest flat indices are marked.
    """
    keys = _monotone_keys(scores)
    if among is not None:
        keys = tf.where(among, keys, tf.int32.min)
    keys = tf.reshape(keys, [-1])
    threshold, num_ties = _kth_largest(keys, tf.cast(k, tf.int32))
    tie_ranks = tf.where(keys == threshold, -tf.range(tf.size(keys)), tf.int32.min)
    last_tie, _ = _kth_largest(tie_ranks, num_ties)
    mask = tf.cast((keys > threshold) | (tie_ranks >= last_tie), tf.float32)
    return tf.reshape(mask, tf.shape(scores))


def prune_and_regrow(mask, drop_scores, grow_scores, drop_fraction, density=None):
    """One exploration of one kernel: Eq. 3, then Eq. 4; the number of active weights stays.

    A weight dropped here may return at once, for Eq. 4 grows from all outside theta'. All tensors
    are float32 and share one shape.

    Args:
        mask: ones where a weight is active, else zeros.
        drop_scores: the lowest of the active weights are dropped.
        grow_scores: the highest of the weights then inactive are grown.
        drop_fraction: p, in [0, 1], a float or scalar tensor. ceil(p * active weights) are dropped.
        density: the number of active weights does not stay but becomes round(density * size): if
            that is fewer than p leaves, more are dropped and none grow. A float or scalar tensor.

    Returns:
        The new mask.
    """
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    num_drop = tf.math.ceil(_float64(drop_fraction) * tf.cast(num_active, tf.float64))
    num_kept = num_active - tf.cast(num_drop, tf.int32)
    num_after = num_active if density is None else _part(mask, density)
    num_kept = tf.minimum(num_kept, num_after)
    kept = top_k_mask(drop_scores, num_kept, among=mask > 0)
    grown = top_k_mask(grow_scores, num_after - num_kept, among=kept == 0)
    return kept + grown


def prune(mask, scores, sparsity):
    """Drops the lowest of the active weights of one kernel until so many are zero.

    Args:
        mask: float32, ones where a weight is active, else zeros.
        scores: float32 like `mask`.
        sparsity: float or scalar tensor in [0, 1]. As in tfmot, round((1 - sparsity) * size)
            weights stay, but never none; where fewer are active, all stay.

    Returns:
        The new mask.
    """
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    num_kept = tf.maximum(_part(mask, 1 - _float64(sparsity)), 1)
    return top_k_mask(scores, tf.minimum(num_kept, num_active), among=mask > 0)


_exploration_inputs = ["masks", "drop_scores", "grow_scores", "drop_fraction", "density"]


@gin.configurable(denylist=_exploration_inputs)
def prune_and_regrow_per_layer(masks, drop_scores, grow_scores, drop_fraction, density=None):
    """`prune_and_regrow` for each of a list of kernels: every layer keeps or gets its density."""
    # A function of its own, so that layers of one shape are traced once.
    regrow = tf.function(prune_and_regrow, autograph=False)
    return [
        regrow(*layer, drop_fraction, density)
        for layer in zip(masks, drop_scores, grow_scores, strict=True)
    ]


@gin.configurable(denylist=_exploration_inputs)
def prune_and_regrow_globally(masks, drop_scores, grow_scores, drop_fraction, density=None):
    """`prune_and_regrow` for a list of kernels ranked as one: only the total density is known."""
    flat = map(_flattened, (masks, drop_scores, grow_scores))
    return _shaped(prune_and_regrow(*flat, drop_fraction, density), masks)


@gin.configurable(denylist=["masks", "scores", "sparsity"])
def prune_per_layer(masks, scores, sparsity):
    """`prune` for each of a list of kernels: all layers become as sparse as the whole."""
    return [prune(*layer, sparsity) for layer in zip(masks, scores, strict=True)]


@gin.configurable(denylist=["masks", "scores", "sparsity"])
def prune_globally(masks, scores, sparsity):
    """`prune` for a list of kernels ranked as one; a layer may be left without any weight."""
    return _shaped(prune(_flattened(masks), _flattened(scores), sparsity), masks)


def _part(mask, fraction):
    """round(fraction * size), as int32."""
    size = tf.cast(tf.size(mask, out_type=tf.int64), tf.float64)
    return tf.cast(tf.round(_float64(fraction) * size), tf.int32)


def _float64(fraction):
    """Beyond 2**24 float32 cannot count, and `tf.cast` alone would round a Python float to it."""
    return tf.cast(tf.convert_to_tensor(fraction, dtype_hint=tf.float64), tf.float64)


def _flattened(tensors):
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _shaped(flat, masks):
    """Cuts [n] into tensors of the shapes of `masks`."""
    parts = tf.split(flat, [math.prod(mask.shape) for mask in masks])
    return [tf.reshape(part, mask.shape) for part, mask in zip(parts, masks, strict=True)]


def _monotone_keys(scores):
    """Maps float32 to int32 in the same order, NaN lowest yet above int32.min."""
    bits = tf.bitcast(scores, tf.int32)
    keys = tf.where(bits < 0, tf.int32.min - bits, bits)  # sign and magnitude -> signed, -0 -> 0
    return tf.where(tf.math.is_nan(scores), tf.int32.min + 1, keys)


def _kth_largest(keys, k):
    """Radix selection: the k-th largest of int32 `keys` [n], and how many of its equals are in.

    For k = 0 it is int32.max, which no caller has among its keys, and 0.
    """
    highs = tf.bitwise.right_shift(keys, 16) + _RADIX // 2
    high, k = _kth_largest_digit(highs, k)
    lows = tf.where(highs == high, tf.bitwise.bitwise_and(keys, _RADIX - 1), _RADIX)
    low, k = _kth_largest_digit(lows, k)
    return (high - _RADIX // 2) * _RADIX + low, k


def _kth_largest_digit(digits, k):
    """The k-th largest of `digits` below `_RADIX`, and how many of its equals are in."""
    counts = tf.raw_ops.DenseBincount(  # `tf.math.bincount` would first look for the maximum
        input=digits, size=_RADIX, weights=tf.zeros([0], tf.int32)
    )
    at_least = tf.cumsum(counts, reverse=True)
    digit = tf.math.count_nonzero(at_least >= k, dtype=tf.int32) - 1
    # `tf.gather`, for XLA compiles an index in brackets, and all it depends on, as a constant.
    return digit, k - tf.gather(at_least - counts, digit)
