"""Rules under the field's names: each is what its paper says, and is saved with a model."""

import dataclasses
import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf import config
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import mask_layers, masked_layers
from stugan_tf.sparsity.criteria import random_scores
from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.pruning import GradualPruning, polynomial_sparsity
from stugan_tf.sparsity.rule import TrainingState, check_rule
from stugan_tf.sparsity.rules import GMP, NM, SET, STU, MomentumGrowth, RigL, SRigL, Static
from stugan_tf.sparsity.schedules import constant_drop_fraction, cosine_drop_fraction
from tests.helpers.tiny_training import tiny_algorithm, tiny_training

RULES = [
    Static(),
    SET(update_interval=7, drop_fraction=0.2),
    RigL(start=3, stop=0.5),
    STU(update_interval=2),
    MomentumGrowth(gradient_momentum=0.5, slots="zero"),
    SRigL(min_salient=0.05),
    NM(n=1, m=3),
    GMP(final_sparsity=0.9, start=0.1),
]
names = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def state(step, total_steps):
    return TrainingState(step, total_steps, step / total_steps, 0.5, None)


@pytest.fixture(scope="module")
def model():
    images = keras.Input((6, 6, 4))
    outputs = keras.layers.Conv2D(5, 1)(keras.layers.Conv2D(6, 3)(images))
    return mask_layers(keras.Model(images, outputs))


def updates(model, rule, total_steps=8):
    """Masks and kernels after each update of a training whose gradients are random numbers."""
    rng = np.random.default_rng(0)
    for index, layer in enumerate(masked_layers(model)):
        layer.assign_mask(tf.ones(layer.kernel.shape))
        layer.kernel.assign(rng.normal(size=layer.kernel.shape))
        layer.assign_mask(exact_mask(tuple(layer.kernel.shape), 0.5, (0, index)))
    explorer = Explorer(model, rule)
    found = []
    for step in range(1, total_steps + 1):
        gradients = [
            tf.constant(rng.normal(size=variable.shape), tf.float32)
            for variable in model.trainable_variables
        ]
        explorer.observe(gradients)
        if rule.is_due(step, total_steps):
            amount = tf.constant(rule.amount(state(step, total_steps)), tf.float64)
            explorer.update(amount, tf.constant([0, step], tf.int64))
            found += [layer.kernel_mask.numpy() for layer in masked_layers(model)]
            found += [layer.kernel.numpy() for layer in masked_layers(model)]
    return found


@pytest.mark.parametrize(
    ("rule", "exploration"),
    [
        (
            RigL(update_interval=2, stop=None),
            Exploration(
                update_interval=2,
                drop_fraction=functools.partial(cosine_drop_fraction, initial=0.3, final=0.0),
            ),
        ),
        (
            SET(update_interval=2, stop=0.6),
            Exploration(
                update_interval=2,
                stop=5,
                drop_fraction=functools.partial(constant_drop_fraction, initial=0.3),
                grow_scores=random_scores,
            ),
        ),
        (STU(update_interval=2), Exploration(update_interval=2)),
        (
            MomentumGrowth(update_interval=2),
            Exploration(update_interval=2, gradient_momentum=0.9),
        ),
    ],
    ids=["RigL", "SET", "STU", "MomentumGrowth"],
)
def test_a_named_rule_is_the_exploration_with_its_settings(model, rule, exploration):
    found = updates(model, rule)
    expected = updates(model, exploration)
    assert len(found) >= 8
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rigl_is_due_and_drops_as_in_its_paper():
    """f(t) = alpha / 2 (1 + cos(t pi / T_end)) every Delta T steps before T_end."""
    rule, total = RigL(), 2000
    due = [step for step in range(1, total + 1) if rule.is_due(step, total)]
    assert due == list(range(100, 1500, 100))
    for step in due:
        expected = 0.3 / 2 * (1 + math.cos(step * math.pi / 1500))
        assert rule.amount(state(step, total)) == pytest.approx(expected, rel=1e-12)
    assert rule.logged_drop_fraction(0.9) == 0.0


def test_stu_is_the_default_exploration_of_the_base_files():
    rule = STU()
    assert rule.update_interval == Exploration().update_interval == 1000
    assert rule.logged_drop_fraction(0.25) == cosine_drop_fraction(0.25)


def test_srigl_makes_all_fan_ins_equal_and_nm_all_groups(model):
    fan_in = updates(model, SRigL(update_interval=2, stop=None))[-4:-2]
    for mask in fan_in:
        per_neuron = mask.reshape(-1, mask.shape[-1]).sum(axis=0)
        assert len(set(per_neuron[per_neuron > 0])) == 1
    groups = updates(model, NM(update_interval=2, n=1, m=2))[-4:-2]
    for mask in groups:
        pairs = mask.reshape(-1, mask.shape[-2] // 2, 2, mask.shape[-1])
        assert np.all(pairs.sum(axis=2) == 1)


@pytest.mark.parametrize(("start", "total"), [(0, 1000), (0.2, 1000), (300, 1000), (0.0, 100)])
def test_gradual_pruning_follows_the_cubic_of_its_paper(start, total):
    rule = GMP(update_interval=10, start=start, stop=0.75, final_sparsity=0.9)
    due = [step for step in range(1, total + 1) if rule.is_due(step, total)]
    first = start if isinstance(start, int) else round(start * total)
    for step in due:
        expected = 0.9 - 0.9 * (1 - (step - first) / (due[-1] - first)) ** 3
        assert rule.amount(state(step, total)) == pytest.approx(expected, rel=1e-12)
    assert rule.amount(state(due[-1], total)) == 0.9


def test_gradual_pruning_is_that_of_tfmot():
    pytest.importorskip("tensorflow_model_optimization")
    ours = GMP(update_interval=10, stop=751)
    theirs = GradualPruning(functools.partial(polynomial_sparsity, end=0.75), update_interval=10)
    due = [step for step in range(1, 1001) if ours.is_due(step, 1000)]
    assert due == [step for step in range(1, 1001) if theirs.is_due(step, 1000)]
    for step in due:
        expected = theirs.amount(state(step, 1000))
        assert ours.amount(state(step, 1000)) == pytest.approx(expected, rel=1e-6)


def test_gradual_pruning_at_once_reaches_its_sparsity():
    rule = GMP(update_interval=10, start=10, stop=20)
    assert rule.amount(state(10, 100)) == 0.95


@names
def test_a_rule_keeps_the_contract_and_is_saved_by_keras(rule):
    check_rule("generator_exploration", rule, 1000)
    saved = keras.saving.serialize_keras_object(rule)
    assert saved["registered_name"] == f"stugan_tf>{type(rule).__name__}"
    assert keras.saving.deserialize_keras_object(saved) == rule
    assert dataclasses.replace(rule) == rule


@names
def test_a_rule_can_be_set_by_gin(rule):
    name = type(rule).__name__
    settings = {key: value for key, value in rule.get_config().items() if value is not None}
    try:
        config.parse_gin(bindings=[f"{name}.{key} = {value!r}" for key, value in settings.items()])
        assert type(rule)() == rule
    finally:
        config.parse_gin()


def test_the_gan_loop_takes_named_rules_and_static_ones():
    training = tiny_training(
        algorithm=tiny_algorithm(
            generator_exploration=RigL(update_interval=1), discriminator_exploration=Static()
        )
    )
    assert training.algorithm.next_topology_update(0) == 1
    assert Static().num_updates(100) == 0
    (remark,) = tiny_algorithm(generator_exploration=RigL())().idle_rules()
    assert "change every 100 steps, but the training of 4 steps" in remark


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RigL(drop_fraction=1.5), r"RigL.drop_fraction must be in \[0, 1\], got 1.5"),
        (lambda: RigL(drop_fraction="0.3"), r"RigL.drop_fraction must be in \[0, 1\], got '0.3'"),
        (lambda: SET(drop_fraction=None), r"SET.drop_fraction must be in \[0, 1\], got None"),
        (lambda: RigL(drop_fraction=cosine_drop_fraction), "must be a number.* got a function"),
        (lambda: SET(stop=5000), r"SET.stop must be a fraction .* got 5000. Exploration.stop can"),
        (lambda: STU(stop=0.0), "STU.stop must be a fraction"),
        (lambda: STU(stop=1.5), r"STU.stop must be a step.* or a fraction .* got 1.5"),
        (lambda: RigL(slots="zeros"), "RigL.slots must be one of keep, zero, age, got 'zeros'"),
        (lambda: MomentumGrowth(gradient_momentum=1.0), "MomentumGrowth.gradient_momentum must"),
        (lambda: SRigL(min_salient=1.0), r"SRigL.min_salient must be in \[0, 1\).* ablates no"),
        (lambda: NM(n=4, m=2), "NM must have n <= m, got 4 of 2"),
        (lambda: NM(n=0), "NM.n must be a positive integer, got 0"),
        (lambda: GMP(final_sparsity=90), r"GMP.final_sparsity must be in \[0, 1\), got 90. Write"),
        (lambda: GMP(final_sparsity=0.5, initial_sparsity=0.6), "must not be above final_spar"),
        (lambda: GMP(power=0), "GMP.power must be a number above 0, got 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
