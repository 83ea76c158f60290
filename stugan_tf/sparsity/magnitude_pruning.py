"""Pruning at once by magnitude: which weights of a trained network stay.

Those of prune-and-finetune are one family, `(kernels, sparsity) -> masks`: float32 kernels of one
network, the fraction of zeros over all of them, one float32 mask for each. Numbers are rounded as
in the authors' code, but counted exactly: 0.9 is nine tenths, not the binary fraction next to it,
and of equal magnitudes those at the lowest flat index stay, earlier kernels first.
"""

import fractions
import math

import gin
import tensorflow as tf

from stugan_tf.contracts import Trial
from stugan_tf.sparsity.topology import top_k_mask


@gin.configurable(denylist=["kernels", "sparsity"])
def prune_jointly(kernels, sparsity):
    """Of all N weights ranked as one, the floor((1 - sparsity) * N) largest stay."""
    size = sum(math.prod(kernel.shape) for kernel in kernels)
    return _largest(kernels, math.floor((1 - _exact(sparsity)) * size))


@gin.configurable(denylist=["kernels", "sparsity"])
def prune_uniformly(kernels, sparsity):
    """Of the n weights of each kernel, the floor(sparsity * n) smallest go."""
    sizes = [math.prod(kernel.shape) for kernel in kernels]
    return [
        top_k_mask(tf.abs(kernel), size - math.floor(_exact(sparsity) * size))
        for kernel, size in zip(kernels, sizes, strict=True)
    ]


def check_pruning(name, pruning):
    """Raises InputError unless `pruning`, by the name of a setting, is of the family above."""
    trial = Trial(name, pruning, "`(kernels, sparsity) -> masks`, a float32 mask for each kernel")
    kernels = [tf.constant([[[[0.5, -0.25, 2.0], [1.0, 0.75, -1.5]]]]), tf.constant([[3.0], [4.0]])]
    masks = trial.of(kernels=kernels, sparsity=0.5)
    if not isinstance(masks, (list, tuple)) or len(masks) != len(kernels):
        raise trial.refusal(f"for {len(kernels)} kernels it returned {masks}")
    for index, (mask, kernel) in enumerate(zip(masks, kernels, strict=True)):
        trial.check_tensor(f"number {index}", mask, kernel.shape)


def prune_remaining(kernels, masks, rate):
    """One round of iterative pruning: of the m weights left, round(rate * m) go.

    All kernels are ranked as one. A half is rounded to even, as in PyTorch's pruning, which the
    code of GAN Tickets calls.

    Args:
        kernels: float32 tensors.
        masks: one for each, ones where a weight is left.
        rate: fraction of the weights left that go.

    Returns:
        The new masks.
    """
    num_left = sum(int(tf.math.count_nonzero(mask)) for mask in masks)
    return _largest(kernels, num_left - round(_exact(rate) * num_left), masks)


def _exact(fraction):
    return fractions.Fraction(repr(float(fraction)))


def _largest(kernels, num_kept, masks=None):
    """Masks of the largest weights of all kernels, of those under `masks` alone if given."""
    among = None if masks is None else _flat(masks) > 0
    kept = top_k_mask(tf.abs(_flat(kernels)), num_kept, among)
    parts = tf.split(kept, [math.prod(kernel.shape) for kernel in kernels])
    return [tf.reshape(part, kernel.shape) for part, kernel in zip(parts, kernels, strict=True)]


def _flat(tensors):
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
