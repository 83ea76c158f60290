"""ADAPT's discriminator: the decisions of fidelity.md, section 5.1, and what follows from them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from test_exploration import SEED, build, kernel_gradients, kernels_of, masks_of, random_gradients

from stugan_tf.errors import InputError
from stugan_tf.sparsity.density_adjustment import DensityAdjustment
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.rule import TrainingState
from stugan_tf.sparsity.schedules import cosine_drop_fraction
from tests.helpers import reference

RELAXED = DensityAdjustment()
STRICT = DensityAdjustment(max_density=0.5, explores_at_max=True)


def state(ratio, density, progress=0.5):
    return TrainingState(1000, 2000, progress, density, ratio)


@pytest.mark.parametrize("rule", [RELAXED, STRICT])
@pytest.mark.parametrize("ratio", [None, 0.4500001, 0.5, 0.5499999])
def test_nothing_changes_before_the_window_is_full_or_in_balance(rule, ratio):
    assert rule.amount(state(ratio, 0.3)) is None


@pytest.mark.parametrize(
    ("rule", "ratio", "density", "expected"),
    [
        (RELAXED, 0.55, 0.3, [0, 0.35]),
        (RELAXED, 0.45, 0.3, [0, 0.25]),
        (RELAXED, 7.0, 0.98, [0, 1.0]),
        (RELAXED, 7.0, 1.0, None),
        (RELAXED, -2.0, 0.07, [0, 0.05]),
        (RELAXED, -2.0, 0.05, None),
        (STRICT, 0.55, 0.3, [0, 0.35]),
        (STRICT, 0.55, 0.48, [0, 0.5]),
        (STRICT, 0.55, 0.5, [(0.5 + 0.005) / 2, 0.5]),
        (STRICT, 0.45, 0.5, [0, 0.45]),
        # Rounded to whole weights a density is near what it should be; it counts as that.
        (RELAXED, 0.55, 0.9501, [0, 1.0]),
        (RELAXED, 0.55, 0.9499, [0, 1.0]),
        (RELAXED, 0.45, 0.1001, [0, 0.05]),
        (RELAXED, 0.55, 0.9999, None),
        (STRICT, 0.55, 0.4999, [(0.5 + 0.005) / 2, 0.4999]),
    ],
)
def test_decisions_are_those_of_the_table(rule, ratio, density, expected):
    amount = rule.amount(state(ratio, density))
    assert amount == (expected if expected is None else pytest.approx(expected))


def density_of_adapt(density, ratio, highest):
    """The density they keep as a number of its own, after one decision."""
    if ratio >= 0.55:
        return min(highest, max(density + 0.05, 0.05))
    if ratio <= 0.45:
        return max(0.05, density - 0.05)
    return density


@given(
    start=st.integers(1, 10),
    ratios=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40),
    strict=st.booleans(),
    size=st.integers(2000, 5_000_000),
)
def test_densities_in_whole_weights_follow_those_of_adapt(start, ratios, strict, size):
    rule, highest = (STRICT, 0.5) if strict else (RELAXED, 1.0)
    expected = start / 20
    active = round(size * expected)
    for ratio in ratios:
        amount = rule.amount(state(ratio, active / size))
        at_highest = expected == pytest.approx(highest) and ratio == 1.0
        assert (amount is not None and amount[0] > 0) == (strict and at_highest)
        expected = density_of_adapt(expected, ratio, highest)
        active = active if amount is None else round(amount[1] * size)
        assert active == pytest.approx(expected * size, abs=len(ratios))


@pytest.mark.parametrize(("ratio", "sign"), [(0.9, 1), (0.1, -1)])
def test_density_moves_globally_by_the_largest_gradients_or_smallest_weights(ratio, sign):
    model = build()
    explorer = Explorer(model, DensityAdjustment(increment=0.1))
    gradients = random_gradients(model, 1)

    def flat(tensors):
        return np.concatenate([np.abs(tensor).ravel() for tensor in tensors])

    mask, weights = flat(masks_of(model)), flat(kernels_of(model))
    kernels = kernels_of(model)
    explorer.observe(gradients)
    amount = explorer.rule.amount(state(ratio, explorer.density()))
    explorer.update(tf.constant(amount, tf.float64), SEED)
    num_after = round((mask.mean(dtype=np.float64) + sign * 0.1) * mask.size)
    if sign > 0:
        scores = flat(kernel_gradients(model, gradients))
        grown = reference.mark_largest(scores, num_after - int(mask.sum()), mask == 0)
        expected = mask + grown
    else:
        expected = reference.mark_largest(weights, num_after, mask > 0)
    np.testing.assert_array_equal(flat(masks_of(model)), expected)
    assert expected.sum() == num_after
    for kernel, former, new in zip(kernels_of(model), kernels, masks_of(model), strict=True):
        np.testing.assert_array_equal(kernel, former * new)
    for union, new in zip(explorer.ever_active, masks_of(model), strict=True):
        assert np.all(union.numpy() >= new)


def test_at_its_highest_density_a_strict_one_drops_and_regrows():
    model = build()
    explorer = Explorer(model, STRICT)
    masks = masks_of(model)
    explorer.observe(random_gradients(model, 1))
    amount = explorer.rule.amount(state(0.9, 0.5, progress=0.1))
    assert amount[0] == cosine_drop_fraction(0.1)
    explorer.update(tf.constant([amount[0], explorer.density()], tf.float64), SEED)
    assert sum(mask.sum() for mask in masks_of(model)) == sum(mask.sum() for mask in masks)
    assert any(np.any(new != old) for new, old in zip(masks_of(model), masks, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_interval": 0}, "DensityAdjustment.update_interval must be at least 1"),
        ({"low": 0.6}, "low must be below high, got 0.6 and 0.55"),
        ({"increment": 0.0}, "increment must be a number above 0"),
        ({"min_density": 0.0}, "0 < min_density <= max_density <= 1, got 0.0 and 1.0"),
        ({"max_density": 50}, "got 0.05 and 50. They are fractions"),
        ({"drop_fraction": lambda _: 2}, "drop_fraction must stay in"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DensityAdjustment(**settings)
