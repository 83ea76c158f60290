"""Pruning at once by magnitude: the weights of a trained network that stay.

Prune-and-finetune has functions `(kernels, sparsity) -> masks`. They take the float32 kernels of
one network and the fraction of zeros over all of them, and return a float32 mask for each kernel.
Numbers are rounded as in the authors' code, but counted exactly: 0.9 is nine tenths, not the binary
fraction next to it. Of equal magnitudes the lowest flat indices stay, earlier kernels first.
"""

import fractions
import math
from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from stugan_tf.contracts import Trial
from stugan_tf.sparsity.topology import top_k_mask


@gin.configurable(denylist=["kernels", "sparsity"])
def prune_jointly(kernels: Sequence[tf.Tensor], sparsity: float) -> list[tf.Tensor]:
    """Ranks all N weights together: the floor((1 - sparsity) * N) largest stay."""
    size = sum(math.prod(kernel.shape) for kernel in kernels)
    return _largest(kernels, math.floor((1 - _exact(sparsity)) * size))


@gin.configurable(denylist=["kernels", "sparsity"])
def prune_uniformly(kernels: Sequence[tf.Tensor], sparsity: float) -> list[tf.Tensor]:
    """Prunes each kernel by itself: the floor(sparsity * n) smallest of its n weights go."""
    sizes = [math.prod(kernel.shape) for kernel in kernels]
    return [
        top_k_mask(tf.abs(kernel), size - math.floor(_exact(sparsity) * size))
        for kernel, size in zip(kernels, sizes, strict=True)
    ]


def check_pruning(name: str, pruning: Any) -> None:
    """Raises InputError unless `pruning`, the value of a setting, has the signature above."""
    trial = Trial(name, pruning, "`(kernels, sparsity) -> masks`, a float32 mask for each kernel")
    kernels = [tf.constant([[[[0.5, -0.25, 2.0], [1.0, 0.75, -1.5]]]]), tf.constant([[3.0], [4.0]])]
    masks = trial.of(kernels=kernels, sparsity=0.5)
    if not isinstance(masks, (list, tuple)) or len(masks) != len(kernels):
        raise trial.refusal(f"for {len(kernels)} kernels it returned {masks}")
    for index, (mask, kernel) in enumerate(zip(masks, kernels, strict=True)):
        trial.check_tensor(f"number {index}", mask, kernel.shape)


def prune_remaining(
    kernels: Sequence[tf.Tensor], masks: Sequence[tf.Tensor], rate: float
) -> list[tf.Tensor]:
    """Makes one round of iterative pruning: round(rate * m) of the m remaining weights go.

    All kernels are ranked together. A half is rounded to even, as in PyTorch's pruning, which the
    code of GAN Tickets calls.

    Args:
        kernels: float32 tensors.
        masks: a mask for each kernel, ones where a weight remains.
        rate: the fraction of the remaining weights to prune.

    Returns:
        The new masks.
    """
    num_left = sum(int(tf.math.count_nonzero(mask)) for mask in masks)
    return _largest(kernels, num_left - round(_exact(rate) * num_left), masks)


def _exact(fraction: float) -> fractions.Fraction:
    return fractions.Fraction(repr(float(fraction)))


def _largest(
    kernels: Sequence[tf.Tensor], num_kept: int, masks: Sequence[tf.Tensor] | None = None
) -> list[tf.Tensor]:
    """Masks of the largest weights of all kernels; `masks` are the candidates if given."""
    among = None if masks is None else _flat(masks) > 0
    kept = top_k_mask(tf.abs(_flat(kernels)), num_kept, among)
    parts = tf.split(kept, [math.prod(kernel.shape) for kernel in kernels])
    return [tf.reshape(part, kernel.shape) for part, kernel in zip(parts, kernels, strict=True)]


def _flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
