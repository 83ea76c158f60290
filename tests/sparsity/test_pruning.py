"""Gradual pruning follows tfmot's schedules to the weight."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule as tfmot
from test_exploration import SEED, build, kernels_of, masks_of, random_gradients

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.sparsity.criteria import connection_sensitivity
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.pruning import GradualPruning, constant_sparsity, polynomial_sparsity
from stugan_tf.sparsity.rule import TrainingState
from stugan_tf.sparsity.topology import prune_globally


def decay(final=0.9, begin=10, end=50, frequency=8, initial=0.0):
    """A schedule with numbers of its own."""
    return lambda *_: tfmot.PolynomialDecay(initial, final, begin, end, frequency=frequency)


def wanted_sparsities(schedule, total_steps):
    """What tfmot asks for, asked step by step: the highest sparsity so far."""
    highest, sparsities = 0.0, []
    for step in range(1, total_steps + 1):
        prunes, sparsity = schedule(tf.constant(step))
        highest = max(highest, float(sparsity)) if prunes else highest
        sparsities.append(highest)
    return sparsities


@pytest.mark.parametrize(
    "make",
    [
        decay(),
        decay(initial=0.5),
        decay(final=0.3, begin=0, end=7, frequency=3),
        lambda *_: tfmot.ConstantSparsity(0.7, 20, frequency=10),
        lambda *_: tfmot.ConstantSparsity(0.7, 0, 30, frequency=10),
    ],
)
def test_the_sparsity_after_each_step_is_that_of_the_schedule(make):
    total = 60
    rule, expected = GradualPruning(schedule=make), wanted_sparsities(make(), 60)
    assert [rule.sparsity_after(step, total) for step in range(1, total + 1)] == expected
    assert rule.sparsity_after(0, total) == 0
    changes = np.flatnonzero(np.diff(expected, prepend=0.0)) + 1
    assert [step for step in range(total + 9) if rule.is_due(step, total)] == changes.tolist()
    assert rule.num_updates(total) == len(changes)
    for step in range(total + 1):
        following = min((int(change) for change in changes if change > step), default=None)
        assert rule.next_due(step, total) == following


@given(
    total=st.integers(1, 3000),
    interval=st.integers(1, 200),
    begin=st.integers(0, 10),
    length=st.integers(0, 10),
    final=st.integers(1, 99),
)
def test_a_decay_as_fractions_of_the_training_ends_at_its_final_sparsity(
    total, interval, begin, length, final
):
    end = min(begin + length, 10)
    schedule = polynomial_sparsity(
        total, interval, final=final / 100, begin=begin / 10, end=end / 10
    )
    assert schedule.begin_step == int(begin / 10 * total)
    prunes, sparsity = schedule(tf.constant(schedule.end_step))
    assert prunes
    assert float(sparsity) == np.float32(final / 100)
    assert schedule.end_step <= max(int(end / 10 * total), schedule.begin_step + interval)


def prune_along(rule, model, total):
    """Runs a rule's updates of a training; returns the counts of the layers after each."""
    explorer = Explorer(model, rule)
    counts, step = {}, rule.next_due(0, total)
    while step is not None:
        explorer.observe(random_gradients(model, step))
        amount = rule.amount(TrainingState(step, total, step / total, explorer.density(), None))
        explorer.update(tf.constant(amount, tf.float64), SEED)
        counts[step] = [int(mask.sum()) for mask in masks_of(model)]
        step = rule.next_due(step, total)
    return counts


def dense_model():
    model = build()
    for layer, kernel in zip(masked_layers(model), kernels_of(build(1)), strict=True):
        layer.kernel_mask.assign(tf.ones_like(layer.kernel_mask))
        layer.kernel.assign(kernel + np.random.default_rng(0).normal(size=kernel.shape))
    return model


def test_every_layer_has_exactly_the_weights_that_the_schedule_leaves():
    total, rule, model = 60, GradualPruning(schedule=decay()), dense_model()
    kernels = kernels_of(model)
    sizes = [kernel.size for kernel in kernels]
    wanted = wanted_sparsities(decay()(), total)
    for step, counts in prune_along(rule, model, total).items():
        assert counts == [round((1 - wanted[step - 1]) * size) for size in sizes]
    for kernel, former, mask in zip(kernels_of(model), kernels, masks_of(model), strict=True):
        np.testing.assert_array_equal(kernel, former * mask)
        assert np.abs(former[mask > 0]).min() >= np.abs(former[mask == 0]).max()


def test_globally_only_the_network_has():
    total, model = 60, dense_model()
    rule = GradualPruning(schedule=decay(), update=prune_globally)
    kernels = np.concatenate([np.abs(kernel).ravel() for kernel in kernels_of(model)])
    wanted = wanted_sparsities(decay()(), total)
    for step, counts in prune_along(rule, model, total).items():
        assert sum(counts) == round((1 - wanted[step - 1]) * kernels.size)
    masks = np.concatenate([mask.ravel() for mask in masks_of(model)])
    assert kernels[masks > 0].min() >= kernels[masks == 0].max()
    assert len({mask.mean() for mask in masks_of(model)}) > 1


def test_it_drops_by_any_criterion():
    model = dense_model()
    rule = GradualPruning(schedule=decay(), drop_scores=connection_sensitivity)
    explorer = Explorer(model, rule)
    gradients = random_gradients(model, 3)
    explorer.observe(gradients)
    kernels = kernels_of(model)
    explorer.update(tf.constant(0.5, tf.float64), SEED)
    for kernel, gradient, mask in zip(
        kernels, explorer.kernel_gradients(gradients), masks_of(model), strict=True
    ):
        scores = np.abs(kernel * gradient.numpy())
        assert scores[mask > 0].min() >= scores[mask == 0].max()


def test_a_constant_sparsity_prunes_once():
    rule = GradualPruning(schedule=constant_sparsity, update_interval=7)
    assert [step for step in range(41) if rule.is_due(step, 40)] == [20]
    assert rule.amount(TrainingState(20, 40, 0.5, 1.0, None)) == np.float32(0.95)


def test_the_plan_says_where_it_ends():
    rule = GradualPruning(schedule=decay(final=0.9))
    assert rule.description(60, None) == (
        "pruned in 5 topology updates from step 18 to 50, from sparsity 0.4392 to 0.9"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradualPruning(update_interval=0), "update_interval must be a positive integer"),
        (lambda: GradualPruning(schedule=0.9), "GradualPruning.schedule must be a function"),
        (lambda: polynomial_sparsity(9, 1, final=95), r"final must be in \[0, 1\), got 95. Write"),
        (lambda: polynomial_sparsity(9, 1, begin=100, end=200), "as fractions .* got 100 and 200"),
        (lambda: constant_sparsity(9, 1, begin=5), "constant_sparsity must begin and end within"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_without_tfmot_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, tfmot.__package__, None)
    monkeypatch.setitem(sys.modules, tfmot.__name__, None)
    with pytest.raises(InputError, match=r"pip install 'stugan_tf\[pruning\]'"):
        polynomial_sparsity(100, 10)
