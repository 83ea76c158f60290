"""Structured masks: constant fan-in with neuron ablation (SRigL), and n of m.

A kernel is cut into rows, and each row has its number of ones:

- constant fan-in: a row holds all weights of one neuron, which is an index of the last axis;
- n of m: a row holds m weights, a group, along the axis of inputs, the one before the last. If m
  does not divide the inputs, the last group is shorter. It may have fewer than n weights, all ones.

So the kernels of dense layers and convolutions have their axes where they are expected: (in, out)
and (height, width, in, out). A transposed convolution has (height, width, out, in). There the
fan-out is constant, and groups run along the outputs.

Updates of a whole network have the signature of those in `sparsity.topology`. As there, counts are
exact, ties go to the lowest index, and shapes are static. The weights to drop are chosen among all
weights of a kernel. Then each row keeps its best of those that are left, and grows what it lacks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.randomness import draw_uniform
from stugan_tf.signatures import Seed, Shape
from stugan_tf.sparsity.topology import (
    Scores,
    counts_after,
    monotone_keys,
    top_k_mask,
    traced,
)

_NO_WEIGHT = -1.0  # Below all masks and all scores: fills the rows that are too short.


class _Rows(NamedTuple):
    """How a kernel of one shape is cut into rows."""

    cut: Callable[[tf.Tensor], tf.Tensor]  # A kernel -> [rows, width], filled with `_NO_WEIGHT`.
    join: Callable[[tf.Tensor], tf.Tensor]  # [rows, width] -> the kernel.


def _neurons(shape: Shape) -> _Rows:
    """A row for each neuron."""
    num_neurons = shape[-1]
    return _Rows(
        cut=lambda kernel: tf.transpose(tf.reshape(kernel, [-1, num_neurons])),
        join=lambda rows: tf.reshape(tf.transpose(rows), shape),
    )


def _groups(shape: Shape, m: int) -> _Rows:
    """A row for each `m` inputs of a neuron, at each position of a convolution."""
    *positions, num_inputs, num_neurons = shape
    num_positions = math.prod(positions)
    num_groups = -(-num_inputs // m)
    missing = num_groups * m - num_inputs

    def cut(kernel: tf.Tensor) -> tf.Tensor:
        kernel = tf.reshape(kernel, [num_positions, num_inputs, num_neurons])
        if missing:
            kernel = tf.pad(kernel, [[0, 0], [0, missing], [0, 0]], constant_values=_NO_WEIGHT)
        groups = tf.reshape(kernel, [num_positions, num_groups, m, num_neurons])
        return tf.reshape(tf.transpose(groups, [0, 1, 3, 2]), [-1, m])

    def join(rows: tf.Tensor) -> tf.Tensor:
        groups = tf.reshape(rows, [num_positions, num_groups, num_neurons, m])
        kernel = tf.transpose(groups, [0, 1, 3, 2])
        kernel = tf.reshape(kernel, [num_positions, num_groups * m, num_neurons])
        return tf.reshape(kernel[:, :num_inputs], shape)

    return _Rows(cut, join)


def top_k_of_rows(
    scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None
) -> tf.Tensor:
    """Marks the `k` largest scores of each row with 1, the others with 0; exact even with ties.

    NaN ranks below -inf, -0 equals 0.

    Args:
        scores: float32 [rows, width].
        k: integer, or int32 [rows], of at least 0. A row with fewer candidates marks them all.
        among: bool [rows, width], the candidates; None means all.

    Returns:
        float32 mask [rows, width]. Of equal scores in a row the lowest indices are marked.
    """
    keys = monotone_keys(scores)
    if among is not None:
        keys = tf.where(among, keys, tf.int32.min)
    k = tf.minimum(k, tf.math.count_nonzero(keys > tf.int32.min, axis=1, dtype=tf.int32))
    best_first = tf.sort(keys, axis=1, direction="DESCENDING")  # Of rows, which are short.
    last = tf.gather(best_first, tf.maximum(k - 1, 0), batch_dims=1)
    threshold = tf.where(k > 0, last, tf.int32.max)[:, tf.newaxis]
    above, ties = keys > threshold, keys == threshold
    num_ties = k - tf.math.count_nonzero(above, axis=1, dtype=tf.int32)
    ranks = tf.cumsum(tf.cast(ties, tf.int32), axis=1)
    return tf.cast(above | (ties & (ranks <= num_ties[:, tf.newaxis])), tf.float32)


def regrow_constant_fan_in(
    mask: tf.Tensor,
    drop_scores: tf.Tensor,
    grow_scores: tf.Tensor,
    drop_fraction: float | tf.Tensor,
    min_salient: float = 0.0,
) -> tf.Tensor:
    """Drops and grows weights of one kernel; after it, all neurons have the same number of inputs.

    Neurons without enough salient weights are ablated: they lose all inputs, and the others share
    their weights. A weight is salient if it is among the active weights that the drop spares, or
    among as many weights as are dropped with the largest grow scores. An ablated neuron whose grow
    scores are large returns.

    SRigL (Lasby et al. 2023), with the choices of the authors' code. There the fan-in is
    rounded down, here to the nearest integer. So the number of active weights changes only with the
    number of neurons, by at most half of it.

    Args:
        mask: float32 [..., in, out], ones where a weight is active, else zeros.
        drop_scores: float32 in the shape of `mask`; the active weights with the lowest are dropped.
        grow_scores: float32 in the shape of `mask`; those with the highest are grown.
        drop_fraction: p, in [0, 1]. ceil(p * active weights) are dropped.
        min_salient: gamma_sal, in [0, 1]. A neuron needs max(1, floor(gamma_sal * active weights /
            neurons)) salient weights. With 0 no neuron is ablated.

    Returns:
        The new mask. Each neuron has the same number of ones, at least 1, or none if ablated.
    """
    num_kept, num_active = counts_after(mask, drop_fraction)
    num_neurons = mask.shape[-1]
    fan_in = math.prod(mask.shape[:-1])
    if min_salient:
        survives = _has_enough(
            _num_salient(mask, drop_scores, grow_scores, num_kept),
            num_active,
            fan_in,
            min_salient,
        )
    else:
        survives = tf.reduce_any(mask >= 0, axis=list(range(mask.shape.rank - 1)))
    candidates = (mask > 0) & survives
    num_kept = tf.minimum(num_kept, tf.math.count_nonzero(candidates, dtype=tf.int32))
    kept = top_k_mask(drop_scores, num_kept, among=candidates)
    num_left = tf.math.count_nonzero(survives, dtype=tf.int32)
    size = tf.clip_by_value((num_active + num_left // 2) // num_left, 1, fan_in)
    sizes = tf.where(survives, size, 0)
    return _filled(kept, drop_scores, grow_scores, sizes, _neurons((fan_in, num_neurons)))


def _num_salient(
    mask: tf.Tensor, drop_scores: tf.Tensor, grow_scores: tf.Tensor, num_kept: tf.Tensor
) -> tf.Tensor:
    """The number of salient weights of each neuron, int32 [neurons]."""
    num_active = tf.math.count_nonzero(mask, dtype=tf.int32)
    kept = top_k_mask(drop_scores, num_kept, among=mask > 0)
    grown = top_k_mask(grow_scores, num_active - num_kept)
    axes = list(range(mask.shape.rank - 1))
    return tf.math.count_nonzero(kept + grown, axis=axes, dtype=tf.int32)


def _has_enough(
    num_salient: tf.Tensor, num_active: tf.Tensor, fan_in: int, min_salient: float
) -> tf.Tensor:
    """Which neurons survive, bool [neurons]: at least as many as can hold the active weights."""
    num_neurons = num_salient.shape[0]
    share = min_salient * tf.cast(num_active, tf.float64) / num_neurons
    enough = tf.maximum(1, tf.cast(tf.floor(share), tf.int32))
    num_enough = tf.math.count_nonzero(num_salient >= enough, dtype=tf.int32)
    needed = tf.maximum(1, (num_active + fan_in - 1) // fan_in)
    best = top_k_mask(tf.cast(num_salient, tf.float32), tf.maximum(num_enough, needed))
    return best > 0


def regrow_n_of_m(
    mask: tf.Tensor,
    drop_scores: tf.Tensor,
    grow_scores: tf.Tensor,
    drop_fraction: float | tf.Tensor,
    n: int = 2,
    m: int = 4,
) -> tf.Tensor:
    """Drops and grows weights of one kernel; after it, each group of m inputs has n ones.

    Args:
        mask: float32 [..., in, out], ones where a weight is active, else zeros. Where a group has
            more than n, those with the highest drop scores stay.
        drop_scores: float32 in the shape of `mask`; the active weights with the lowest are dropped.
        grow_scores: float32 in the shape of `mask`; those with the highest are grown.
        drop_fraction: p, in [0, 1]. ceil(p * active weights) are dropped.
        n: ones in a group.
        m: size of a group.

    Returns:
        The new mask.
    """
    num_kept, _ = counts_after(mask, drop_fraction)
    kept = top_k_mask(drop_scores, num_kept, among=mask > 0)
    return _filled(kept, drop_scores, grow_scores, n, _groups(tuple(mask.shape), m))


def _filled(
    kept: tf.Tensor,
    drop_scores: tf.Tensor,
    grow_scores: tf.Tensor,
    sizes: int | tf.Tensor,
    rows: _Rows,
) -> tf.Tensor:
    """Each row keeps at most `sizes` of `kept`, by drop scores, and grows until it has them."""
    shape = kept.shape
    before = rows.cut(kept)
    after = top_k_of_rows(rows.cut(drop_scores), sizes, among=before > 0)
    lacking = sizes - tf.math.count_nonzero(after, axis=1, dtype=tf.int32)
    grown = top_k_of_rows(rows.cut(grow_scores), lacking, among=(before >= 0) & (after == 0))
    return tf.reshape(rows.join(after + grown), shape)


_arguments = ["masks", "scores", "amount"]


@gin.configurable(denylist=_arguments)
def prune_and_regrow_constant_fan_in(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor, min_salient: float = 0.0
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `regrow_constant_fan_in` for each kernel. The last one keeps all its neurons.

    As in the authors' code: the neurons of the last layer are the outputs of the network. A dropped
    weight that returns at once keeps its value.

    Args:
        masks: as in `sparsity.topology`.
        scores: as in `sparsity.topology`.
        amount: the drop fraction.
        min_salient: the fraction of a neuron's inputs that must be salient; 0 ablates none.
    """
    last = len(masks) - 1
    salient = [min_salient if index < last else 0.0 for index in range(len(masks))]
    return _updated(
        masks,
        scores,
        amount,
        [traced(regrow_constant_fan_in, min_salient=least) for least in salient],
    )


@gin.configurable(denylist=_arguments)
def prune_and_regrow_n_of_m(
    masks: Sequence[tf.Tensor], scores: Scores, amount: tf.Tensor, n: int = 2, m: int = 4
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `regrow_n_of_m` for each kernel. A dropped weight that returns keeps its value.

    Args:
        masks: as in `sparsity.topology`.
        scores: as in `sparsity.topology`.
        amount: the drop fraction.
        n: active weights in a group.
        m: size of a group.
    """
    return _updated(masks, scores, amount, [traced(regrow_n_of_m, n=n, m=m)] * len(masks))


def _updated(
    masks: Sequence[tf.Tensor],
    scores: Scores,
    amount: tf.Tensor,
    functions: Sequence[Callable[..., tf.Tensor]],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls a function for each kernel: the new masks, and the same as what keeps its values."""
    amount = tf.convert_to_tensor(amount, tf.float64)
    if amount.shape.rank:
        raise InputError(
            "Structured masks decide themselves how many weights a layer has: the amount of their "
            "topology rule is the drop fraction alone, not a density. Use them with an Exploration."
        )
    grow: Any = scores.grow
    updated = [
        function(*layer, amount)
        for function, *layer in zip(functions, masks, scores.drop, grow, strict=True)
    ]
    return updated, updated


@gin.configurable(denylist=["shape", "density", "seed"])
def constant_fan_in_mask(shape: Shape, density: float, seed: Seed) -> tf.Tensor:
    """Gives each neuron round(density * inputs) ones, at least one, at uniformly random places."""
    fan_in = math.prod(shape[:-1])
    rows = _neurons((fan_in, shape[-1]))
    size = max(1, round(density * fan_in))
    return tf.reshape(rows.join(top_k_of_rows(rows.cut(draw_uniform(shape, seed)), size)), shape)


@gin.configurable(denylist=["shape", "density", "seed"])
def n_of_m_mask(shape: Shape, density: float, seed: Seed, m: int = 4) -> tf.Tensor:
    """Gives each group of m inputs n = round(density * m) ones, at least one, at random places.

    The density of a layer decides n. With the distribution `uniform`, a sparsity of 0.5 and m = 4
    make 2 of 4 in each layer.

    Args:
        shape: shape of the kernel.
        density: the fraction of ones, which gives n.
        seed: two integers.
        m: size of a group.
    """
    rows = _groups(tuple(shape), m)
    drawn = rows.cut(draw_uniform(shape, seed))
    return rows.join(top_k_of_rows(drawn, max(1, round(density * m)), among=drawn >= 0))
