"""Changes of masks: exact top-k and prune-and-regrow (Eq. 3 and 4).

The paper leaves open how to round the number of dropped weights, which weights TopK ranks together,
and what happens to ties. As in the authors' code, the number is rounded up and each layer ranks its
own weights (`prune_and_regrow_globally` ranks all together). Unlike there, counts are exact: ties
go to the lowest index. Scores are ranked by their bits because sorting a large kernel takes
seconds.

As in the authors' code, a dropped weight may be grown at once and keeps its value. Other readings
of the paper are `prune_and_regrow_elsewhere` and `prune_and_regrow_from_zero`.

Updates of a whole network have the signature `(masks, scores, amount) -> (masks, kept)`. They are
compiled.

- `masks`: list of L float32 masks, one per kernel. The new masks have the same form.
- `scores`: `Scores`.
- `amount`: float64 tensor, the amount of the topology rule. For updates that regrow it is the drop
  fraction, or [2], the drop fraction and the density to reach. For updates that only prune it is
  the sparsity to reach.
- `kept`: list of L float32 masks of the weights that keep their values. If all active weights keep
  their values, these are the new masks themselves.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import tensorflow as tf

from stugan_tf.contracts import Declared, Trial, called
from stugan_tf.errors import InputError
from stugan_tf.sparsity.criteria import Criterion

_ROW = 4096
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
        grows_at_random: whether grow scores must be random numbers, uniform in [0, 1).
    """

    grows_at_random: bool = False


def network_update(**needs: Any) -> Callable[[Callable[..., Any]], NetworkUpdate]:
    """Decorates a function: it becomes a `NetworkUpdate` with these needs."""
    return lambda function: NetworkUpdate(function, **needs)


def check_update(
    name: str,
    update: Any,
    amount: float | Sequence[float],
    grow_scores: Callable[..., Any] | None = None,
) -> None:
    """Raises InputError unless `update` is an update of a network.

    Args:
        name: name of the setting.
        update: value of the setting.
        amount: a number or a list of numbers, to try it with.
        grow_scores: the criterion by which weights grow; None if no weight grows.
    """
    if (
        grow_scores is not None
        and NetworkUpdate.of(update).grows_at_random
        and not Criterion.of(grow_scores).is_uniform
    ):
        rule = name.rpartition(".")[0]
        raise InputError(
            f"{name} = {called(update)} grows at random, but {rule}.grow_scores is "
            f"{called(grow_scores)}. Set it to @random_scores, or choose another update."
        )
    if getattr(update, "__module__", None) == __name__:
        return  # The functions of this module need no trial, which would be slow.
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


def top_k_mask(scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None) -> tf.Tensor:
    """Marks the `k` largest scores with 1, the others with 0; exactly `k` even with ties.

    Time is linear and shapes are static. NaN ranks below -inf, -0 equals 0.

    Args:
        scores: float32 tensor of any shape with fewer than 2**31 elements.
        k: integer or scalar tensor from 0 to the number of candidates; it is not checked.
        among: bool tensor in the shape of `scores`, the candidates; None means all.

    Returns:
        float32 mask in the shape of `scores`. Of equal scores the lowest flat indices are marked.
    """
    keys = monotone_keys(scores)
    if among is not None:
        keys = tf.where(among, keys, tf.int32.min)
    keys = tf.reshape(keys, [-1])
    threshold, num_ties = _kth_largest(keys, tf.cast(k, tf.int32))
    tie_ranks = tf.where(keys == threshold, -_indices(keys), tf.int32.min)
    last_tie, _ = _kth_largest(tie_ranks, num_ties)
    mask = tf.cast((keys > threshold) | (tie_ranks >= last_tie), tf.float32)
    return tf.reshape(mask, tf.shape(scores))


def prune_and_regrow(
    mask: tf.Tensor,
    drop_scores: tf.Tensor,
    grow_scores: tf.Tensor,
    drop_fraction: float | tf.Tensor,
    density: float | tf.Tensor | None = None,
    may_return: bool = True,
    exactly: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops (Eq. 3) and grows (Eq. 4) weights of one kernel; the number of active weights stays.

    A dropped weight may return at once, because Eq. 4 grows from all weights outside theta'. All
    tensors are float32 and have one shape.

    Args:
        mask: ones where a weight is active, else zeros.
        drop_scores: the active weights with the lowest scores are dropped.
        grow_scores: the weights that are then inactive and have the highest scores are grown.
        drop_fraction: p, in [0, 1], a float or scalar tensor. ceil(p * active weights) are dropped.
        density: a float or scalar tensor. If given, the number of active weights becomes
            round(density * size). If this is less than what p leaves, more are dropped and none
            grow.
        may_return: whether a weight that is dropped here may be grown here. If not, at most as many
            are dropped as there are zeros to grow in their place.
        exactly: if True, exactly the wanted number grows, by the highest scores. If False, scores
            must be drawn from [0, 1), and each weight with a score below wanted / eligible grows:
            the number is right on average.

    Returns:
        The new mask, and the mask of the weights that were not dropped.
    """
    num_kept, num_after = counts_after(mask, drop_fraction, density)
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


def counts_after(
    mask: tf.Tensor, drop_fraction: float | tf.Tensor, density: float | tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """How many weights of a kernel are kept, and how many are active after growth."""
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    num_drop = tf.math.ceil(_float64(drop_fraction) * tf.cast(num_active, tf.float64))
    num_after = num_active if density is None else _part(mask, density)
    return tf.minimum(num_active - tf.cast(num_drop, tf.int32), num_after), num_after


def prune(mask: tf.Tensor, scores: tf.Tensor, sparsity: float | tf.Tensor) -> tf.Tensor:
    """Drops the active weights of one kernel with the lowest scores.

    Args:
        mask: float32, ones where a weight is active, else zeros.
        scores: float32 in the shape of `mask`.
        sparsity: float or scalar tensor in [0, 1]. As in tfmot, round((1 - sparsity) * size)
            weights stay, at least one. If fewer are active, all of them stay.

    Returns:
        The new mask.
    """
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    num_kept = tf.maximum(_part(mask, 1 - _float64(sparsity)), 1)
    return top_k_mask(scores, tf.minimum(num_kept, num_active), among=mask > 0)


_arguments = ["masks", "scores", "amount"]


@gin.configurable(denylist=_arguments)
def prune_and_regrow_per_layer(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `prune_and_regrow` for each kernel: every layer keeps or gets its density."""
    updated, _ = _per_layer(masks, scores, amount)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_elsewhere(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """`prune_and_regrow_per_layer`, but a dropped weight does not return in the same update."""
    updated, _ = _per_layer(masks, scores, amount, may_return=False)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_from_zero(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """`prune_and_regrow_per_layer`, but a weight that returns at once starts from zero.

    This happens if masks are applied to weights after the drop, and not only after growth. The
    average of such a weight continues: it was never inactive when the average was updated. In a
    dense kernel an update changes nothing, and all weights keep their values.
    """
    updated, kept = _per_layer(masks, scores, amount)
    return updated, [
        tf.where(tf.reduce_all(mask > 0), mask, survivors)
        for mask, survivors in zip(masks, kept, strict=True)
    ]


@gin.configurable(denylist=_arguments)
@network_update(grows_at_random=True)
def prune_and_regrow_bernoulli(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """`prune_and_regrow_per_layer`, but the number of grown weights is random.

    This is the random growth of the authors' code: each of n zeros grows with the probability
    dropped / n. So the density of a layer drifts.
    """
    updated, _ = _per_layer(masks, scores, amount, exactly=False)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_and_regrow_globally(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `prune_and_regrow` for all kernels ranked together: only the total density is kept."""
    grow: Any = scores.grow
    flat = map(_flattened, (masks, scores.drop, grow))
    updated, _ = prune_and_regrow(*flat, *_fractions(amount))
    updated = _shaped(updated, masks)
    return updated, updated


@gin.configurable(denylist=_arguments)
def prune_per_layer(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `prune` for each kernel: all layers get the same sparsity."""
    pruned = [prune(*layer, amount) for layer in zip(masks, scores.drop, strict=True)]
    return pruned, pruned


@gin.configurable(denylist=_arguments)
def prune_globally(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `prune` for all kernels ranked together; a layer may lose all its weights."""
    pruned = _shaped(prune(_flattened(masks), _flattened(scores.drop), amount), masks)
    return pruned, pruned


def _per_layer(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor, **options: bool
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """`prune_and_regrow` for each kernel: new masks, and masks of weights that were not dropped."""
    regrow = traced(prune_and_regrow, **options)
    fractions = _fractions(amount)
    grow: Any = scores.grow
    pairs = [regrow(*layer, *fractions) for layer in zip(masks, scores.drop, grow, strict=True)]
    return [updated for updated, _ in pairs], [kept for _, kept in pairs]


@functools.cache
def traced(function: Callable[..., Any], **options: Any) -> Any:
    """`function` with options as one function for all calls, so that each shape is traced once."""
    return tf.function(functools.partial(function, **options), autograph=False)


def _fractions(amount: tf.Tensor) -> Sequence[tf.Tensor | None]:
    """The drop fraction, and the density to reach; None if the density stays."""
    amount = _float64(amount)
    return tf.unstack(amount) if amount.shape.rank else (amount, None)


def _part(mask: tf.Tensor, fraction: float | tf.Tensor) -> tf.Tensor:
    """round(fraction * size), as int32."""
    size = tf.cast(tf.size(mask, out_type=tf.int64), tf.float64)
    return tf.cast(tf.round(_float64(fraction) * size), tf.int32)


def _float64(fraction: float | tf.Tensor) -> tf.Tensor:
    """Casts to float64 exactly; `tf.cast` alone would first round a Python float to float32."""
    return tf.cast(tf.convert_to_tensor(fraction, dtype_hint=tf.float64), tf.float64)


def _flattened(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)


def _shaped(flat: tf.Tensor, masks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Cuts [n] into tensors of the shapes of `masks`."""
    parts = tf.split(flat, [math.prod(mask.shape) for mask in masks])
    return [tf.reshape(part, mask.shape) for part, mask in zip(parts, masks, strict=True)]


def _indices(flat: tf.Tensor) -> tf.Tensor:
    """0, 1, 2, ... as int32, as many as `flat` [n] has elements."""
    # All numbers of `tf.range` would be written into the program, which then is as large as the
    # network. A table needs few: the number of each row, and of each column. TensorFlow would
    # compute it beforehand if it did not seem to depend on what only the step knows.
    nothing = tf.bitwise.bitwise_and(flat[:1], 0)
    size = tf.size(flat)
    rows = tf.range(-(-size // _ROW)) * _ROW + nothing
    return tf.reshape(rows[:, tf.newaxis] + tf.range(_ROW), [-1])[:size]


def monotone_keys(scores: tf.Tensor) -> tf.Tensor:
    """Maps float32 to int32 in the same order, NaN lowest yet above int32.min."""
    bits = tf.bitcast(scores, tf.int32)
    keys = tf.where(bits < 0, tf.int32.min - bits, bits)  # sign and magnitude -> signed, -0 -> 0
    return tf.where(tf.math.is_nan(scores), tf.int32.min + 1, keys)


def _kth_largest(keys: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Radix selection: the k-th largest of int32 `keys` [n], and how many of its equals count.

    For k = 0 the results are int32.max, which is never among the keys, and 0.
    """
    highs = tf.bitwise.right_shift(keys, 16) + _RADIX // 2
    high, k = _kth_largest_digit(highs, k)
    lows = tf.where(highs == high, tf.bitwise.bitwise_and(keys, _RADIX - 1), _RADIX)
    low, k = _kth_largest_digit(lows, k)
    return (high - _RADIX // 2) * _RADIX + low, k


def _kth_largest_digit(digits: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The k-th largest of `digits` below `_RADIX`, and how many of its equals count."""
    counts = tf.raw_ops.DenseBincount(  # `tf.math.bincount` would first look for the maximum
        input=digits, size=_RADIX, weights=tf.zeros([0], tf.int32)
    )
    at_least = tf.cumsum(counts, reverse=True)
    digit = tf.math.count_nonzero(at_least >= k, dtype=tf.int32) - 1
    # `tf.gather`, because XLA needs an index in brackets, and all its inputs, to be constant.
    return digit, k - tf.gather(at_least - counts, digit)
