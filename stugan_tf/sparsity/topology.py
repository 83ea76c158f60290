"""Where the weights are: exact top-k and prune-and-regrow (Eq. 3 and 4).

The paper leaves open how to round the number of dropped weights, over what TopK ranks, and ties.
Here, like in the authors' code, the number is rounded up and each layer ranks its own weights
(`prune_and_regrow_globally` ranks all together). Unlike there, counts are exact: ties go to the
lowest index. Scores are ranked by their bits because sorting a large kernel takes seconds.

A weight that is dropped may be grown at once, and keeps its value, like there. What else could be
meant are updates of their own: `prune_and_regrow_elsewhere` and `prune_and_regrow_from_zero`.

Updates of a whole network are one family, `(masks, scores, amount) -> (masks, kept)`, compiled:

- `masks`: list of L float32 masks, one per kernel; so are the new ones.
- `scores`: `Scores`.
- `amount`: float64 tensor, what the topology rule says. For those that regrow it is the drop
  fraction, or [2], the drop fraction and the density to reach. For those that only prune it is the
  sparsity to reach.
- `kept`: list of L float32 masks of the weights that keep their values. Where these are all that
  are active afterwards, it is the new masks themselves.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import gin
import tensorflow as tf

from stugan_tf.contracts import Declared, Trial, called
from stugan_tf.errors import InputError
from stugan_tf.sparsity.criteria import Criterion

_RADIX = 2**16  # an int32 key is two digits


class Scores(NamedTuple):
    """The scores of all masked kernels of a network: two lists of L float32 tensors."""

    drop: list[tf.Tensor]
    grow: list[tf.Tensor] | None = None  # None if no weight ever grows.


@dataclasses.dataclass(frozen=True)
class NetworkUpdate(Declared):
    """An update of a whole network that declares what it needs.

    Attributes:
        function: `(masks, scores, amount) -> (masks, kept)`.
        grows_at_random: whether the scores by which weights grow must be random numbers, uniform in
            [0, 1).
    """

    grows_at_random: bool = False


def network_update(**needs):
    """Decorates a function: it becomes a `NetworkUpdate` with these needs."""
    return lambda function: NetworkUpdate(function, **needs)


def check_update(name, update, amount, grow_scores=None):
    """Raises InputError unless `update` is an update of a network.

    Args:
        name: of a setting.
        update: what it is set to.
        amount: a number or a list of numbers, to try it with.
        grow_scores: the criterion by which weights grow; None if none grow.
    """
    at_random = grow_scores is not None and NetworkUpdate.of(update).grows_at_random
    if at_random and not Criterion.of(grow_scores).is_uniform:
        rule = name.rpartition(".")[0]
        raise InputError(
            f"{name} = {called(update)} grows at random, but {rule}.grow_scores is "
            f"{called(grow_scores)}. Set it to @random_scores, or choose another update."
        )
    if getattr(update, "__module__", None) == __name__:
        return  # One of those below. They are exact for large kernels, and slow for a trial.
    trial = Trial(
        name,
        update,
        "`(masks, scores, amount) -> (masks, kept)`, both lists of float32 masks, one per kernel",
    )
    masks = [tf.constant([[[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]]), tf.constant([[1.0], [0.0]])]
    drop = [tf.constant([[[[0.5, 0.0, 2.0], [0.25, 1.0, 0.0]]]]), tf.constant([[3.0], [0.0]])]
    grow = [tf.constant([[[[0.1, 0.7, 0.3], [0.9, 0.5, 0.2]]]]), tf.constant([[0.4], [0.6]])]
    result = trial.of(
        masks=masks,
        scores=Scores(drop, None if grow_scores is None else grow),
        amount=tf.constant(amount, tf.float64),
    )
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise trial.refusal("it returned something other than a pair")
    for what, found in zip(("masks", "kept"), result, strict=True):
        if not isinstance(found, (tuple, list)) or len(found) != len(masks):
            raise trial.refusal(f"`{what}` should be a list of {len(masks)} for as many kernels")
        for index, (mask, former) in enumerate(zip(found, masks, strict=True)):
            trial.check_tensor(f"`{what}[{index}]`", mask, former.shape)
            if not bool(tf.reduce_all((mask == 0) | (mask == 1))):
                raise trial.refusal(f"`{what}[{index}]` should hold zeros and ones, got {mask}")


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


def prune_and_regrow(
    mask, drop_scores, grow_scores, drop_fraction, density=None, may_return=True, exactly=True
):
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
        may_return: whether what is dropped here may be grown here. If not, no more are dropped than
            there are zeros to grow in their place.
        exactly: whether the highest scores grow, as many as are wanted. Else, of scores drawn from
            [0, 1), each that is below wanted / eligible, so that the number is right on average.

    Returns:
        The new mask, and the mask of what was not dropped.
    """
    num_kept, num_after = _counts(mask, drop_fraction, density)
    if not may_return:
        num_zeros = tf.math.count_nonzero(mask == 0, dtype=tf.int32)
        num_kept = tf.maximum(num_kept, num_after - num_zeros)
    kept = top_k_mask(drop_scores, num_kept, among=mask > 0)
    eligible = (kept if may_return else mask) == 0
    if exactly:
        return kept + top_k_mask(grow_scores, num_after - num_kept, among=eligible), kept
    probability = tf.math.divide_no_nan(
        tf.cast(num_after - num_kept, tf.float64),
        tf.math.count_nonzero(eligible, dtype=tf.float64),
    )
    grown = tf.cast(eligible & (tf.cast(grow_scores, tf.float64) < probability), tf.float32)
    return kept + grown, kept


def _counts(mask, drop_fraction, density):
    """How many weights an exploration of a kernel keeps, and how many are active after growth."""
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    num_drop = tf.math.ceil(_float64(drop_fraction) * tf.cast(num_active, tf.float64))
    num_after = num_active if density is None else _part(mask, density)
    return tf.minimum(num_active - tf.cast(num_drop, tf.int32), num_after), num_after


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


_arguments = ["masks", "scores", "amount"]


@gin.configurable(denylist=_arguments)
def prune_and_regrow_per_layer(masks, scores, amount):
    """`prune_and_regrow` for each of a list of kernels: every layer keeps or gets its density."""
    updated, _ = _per_layer(masks, scores, amount)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_elsewhere(masks, scores, amount):
    """As `prune_and_regrow_per_layer`, but what is dropped does not return in the same update."""
    updated, _ = _per_layer(masks, scores, amount, may_return=False)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_from_zero(masks, scores, amount):
    """As `prune_and_regrow_per_layer`, but what is dropped and returns at once starts from zero.

    So it is if masks are applied to weights after the drop, and not only after growth. The average
    of such a weight goes on: it was never inactive when the average was updated. Where a kernel is
    dense an update changes nothing, and all weights keep their values.
    """
    updated, kept = _per_layer(masks, scores, amount)
    return updated, [
        tf.where(tf.reduce_all(mask > 0), mask, survivors)
        for mask, survivors in zip(masks, kept, strict=True)
    ]


@gin.configurable(denylist=_arguments)
@network_update(grows_at_random=True)
def prune_and_regrow_bernoulli(masks, scores, amount):
    """As `prune_and_regrow_per_layer`, but as many grow as the draw will have it.

    The random growth of the authors' code: of n zeros each grows with the probability dropped / n.
    So the density of a layer drifts.
    """
    updated, _ = _per_layer(masks, scores, amount, exactly=False)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_globally(masks, scores, amount):
    """`prune_and_regrow` for a list of kernels ranked as one: only the total density is known."""
    flat = map(_flattened, (masks, scores.drop, scores.grow))
    updated, _ = prune_and_regrow(*flat, *_fractions(amount))
    updated = _shaped(updated, masks)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_per_layer(masks, scores, amount):
    """`prune` for each of a list of kernels: all layers become as sparse as the whole."""
    pruned = [prune(*layer, amount) for layer in zip(masks, scores.drop, strict=True)]
    return pruned, pruned


@gin.configurable(denylist=_arguments)
def prune_globally(masks, scores, amount):
    """`prune` for a list of kernels ranked as one; a layer may be left without any weight."""
    pruned = _shaped(prune(_flattened(masks), _flattened(scores.drop), amount), masks)
    return pruned, pruned


def _per_layer(masks, scores, amount, **options):
    """`prune_and_regrow` for each kernel: the new masks, and masks of what was not dropped."""
    # A function of its own, so that layers of one shape are traced once.
    regrow = tf.function(functools.partial(prune_and_regrow, **options), autograph=False)
    fractions = _fractions(amount)
    pairs = [
        regrow(*layer, *fractions) for layer in zip(masks, scores.drop, scores.grow, strict=True)
    ]
    return [updated for updated, _ in pairs], [kept for _, kept in pairs]


def _fractions(amount):
    """The drop fraction, and the density to reach; None if that is to stay as it is."""
    amount = _float64(amount)
    return tf.unstack(amount) if amount.shape.rank else (amount, None)


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
