"""Pruning at once, against NumPy that sorts."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from stugan_tf.sparsity.magnitude_pruning import prune_jointly, prune_remaining, prune_uniformly
from tests.helpers.params import examples

SHAPES = [(3, 3, 2, 4), (1, 1, 4, 4), (5, 3)]
SIZE = 72 + 16 + 15


def draw(seed, levels=None):
    """Kernels of `SHAPES`; of few levels, so that magnitudes tie, if `levels` is given."""
    generator = np.random.default_rng(seed)
    kernels = [generator.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return kernels if levels is None else [np.round(k * levels) / levels for k in kernels]


def largest(values, num_kept):
    """Marks the largest magnitudes, of equal ones the first."""
    order = np.argsort(-np.abs(values), kind="stable")
    marks = np.zeros(len(values))
    marks[order[:num_kept]] = 1
    return marks


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


@pytest.mark.ci
@examples(12)
@hypothesis.given(
    st.integers(0, 1000), st.sampled_from([None, 2]), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95])
)
def test_the_largest_weights_of_all_kernels_stay_or_of_each(seed, levels, sparsity):
    kernels = draw(seed, levels)
    percent = round(100 * sparsity)
    masks = prune_jointly(kernels, sparsity)
    assert [mask.shape for mask in masks] == SHAPES
    kept = SIZE * (100 - percent) // 100
    np.testing.assert_array_equal(flat(masks), largest(flat(kernels), kept))
    for kernel, mask in zip(kernels, prune_uniformly(kernels, sparsity), strict=True):
        kept = kernel.size - kernel.size * percent // 100
        np.testing.assert_array_equal(np.ravel(mask), largest(np.ravel(kernel), kept))


def test_a_sparsity_is_the_decimal_it_is_written_as():
    # In binary, 1000 * (1 - 0.9) is 99.99999999999998, and 100 * 0.29 is 28.999999999999996.
    kernel = tf.reshape(tf.range(1000, dtype=tf.float32), [10, 100])
    assert tf.reduce_sum(prune_jointly([kernel], 0.9)[0]) == 100
    assert tf.reduce_sum(prune_uniformly([kernel[:1]], 0.29)[0]) == 100 - 29


@pytest.mark.parametrize("levels", [None, 2])
def test_each_round_removes_a_fifth_of_what_is_left(levels):
    masks = [tf.ones(shape) for shape in SHAPES]
    left = SIZE
    for number in range(1, 11):
        kernels = [kernel * mask for kernel, mask in zip(draw(number, levels), masks, strict=True)]
        former, left = flat(masks), left - round(0.2 * left)
        masks = prune_remaining(kernels, masks, 0.2)
        candidates = np.where(former > 0, np.abs(flat(kernels)), -1)
        order = np.argsort(-candidates, kind="stable")[:left]
        np.testing.assert_array_equal(np.flatnonzero(flat(masks)), np.sort(order))
        assert left == pytest.approx(SIZE * 0.8**number, abs=2)  # Rounding adds up to 1 / 0.4.


def test_a_half_is_rounded_to_even_as_in_pytorch():
    kernel = tf.range(1.0, 6.0)
    (mask,) = prune_remaining([kernel], [tf.ones([5])], 0.5)  # 2.5 of 5 go: 2.
    np.testing.assert_array_equal(mask, [0, 0, 1, 1, 1])
