"""What the package relies on inside Keras' optimizers."""

import keras
import numpy as np
import pytest

from stugan_tf.adapters.optimizer_internals import (
    accumulated_gradients,
    average_in_update,
    count_from,
    must_merge_replicas,
    recorded_slots,
)

ADAPTER = "Keras has changed: look at stugan_tf/adapters/optimizer_internals.py"


def variable(*shape, start=0.0):
    return keras.Variable(np.full(shape, start, np.float32))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (keras.optimizers.SGD(0.1, momentum=0.5), {"momentum": 0.0}),
        (
            keras.optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2),
            {"average": 0.0, "gradient_accumulator": 0.0, "momentum": 0.0, "velocity": 0.0},
        ),
        (
            keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.25),
            {"accumulator": 0.25},
        ),
    ],
)
def test_slots_are_recorded_with_their_names_and_initial_values(optimizer, expected):
    one, two = variable(2, 3), variable(4)
    with recorded_slots(optimizer) as slots:
        optimizer.build([one, two])
    for reference in (one, two):
        own = {slot.name: slot for slot in slots if slot.reference is reference}
        assert set(own) == set(expected), ADAPTER
        for name, value in expected.items():
            slot = own[name]
            assert any(slot.variable is found for found in optimizer.variables), ADAPTER
            initial = slot.initializer(reference.shape, dtype="float32")
            np.testing.assert_array_equal(initial, np.full(reference.shape, value))
            np.testing.assert_array_equal(slot.variable, initial)
    assert "add_variable_from_reference" not in vars(optimizer)


def test_accumulated_gradients_are_sums_that_an_update_clears():
    weight = variable(2)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    optimizer.build([weight])
    for expected in ([0, 0], [1, 2], [2, 4], [0, 0]):
        (found,) = accumulated_gradients(optimizer, [weight])
        np.testing.assert_array_equal(found, expected, err_msg=ADAPTER)
        optimizer.apply([np.array([1.0, 2.0], np.float32)], [weight])
    plain = keras.optimizers.SGD(0.1)
    assert accumulated_gradients(plain, [weight]) == [None]


@pytest.mark.parametrize("use_ema", [True, False])
def test_a_constraint_finds_the_average_of_the_optimizer_that_calls_it(use_ema):
    weight, other = variable(2), variable(2)
    found = []

    def constraint(w):
        found.append(average_in_update(weight))
        return w

    weight.constraint = constraint
    optimizer = keras.optimizers.SGD(0.1, use_ema=use_ema)
    multi = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(optimizer))
    multi.apply([np.ones(2, np.float32)] * 2, [other, weight])
    expected = optimizer.variables[-1] if use_ema else None
    assert [one is expected for one in found] == [True], ADAPTER
    assert average_in_update(weight) is None
    with keras.name_scope("layer", caller=keras.layers.Layer()):
        assert average_in_update(weight) is None


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("kind", [keras.optimizers.Adam, keras.optimizers.AdamW])
def test_a_weight_that_is_born_later_moves_like_the_first_steps_of_another(kind, every):
    def make():
        return kind(0.1, gradient_accumulation_steps=every, weight_decay=0.0)

    born = variable(2)
    aged, weight, bias = make(), variable(2), variable(2)
    aged.build([bias, weight])
    count_from(aged, {1: born})
    young, other = make(), variable(2)
    young.build([other])
    for step in range(4 * (every or 1)):
        # The second weight has no gradient, so no moments, before its birth.
        is_born = step >= 2 * (every or 1)
        born.assign([0.0, 2.0 * is_born])
        gradient = np.array([1.0 + step, (1.0 + step) * is_born], np.float32)
        aged.apply([gradient, gradient], [bias, weight])
        if is_born:
            young.apply([gradient], [other])
    assert weight.numpy()[1] == other.numpy()[1], ADAPTER
    assert weight.numpy()[0] == bias.numpy()[0], ADAPTER
    assert weight.numpy()[1] != bias.numpy()[1], ADAPTER
    assert int(aged.iterations) == 4


def test_replicas_on_cpus_meet_in_a_merge_call(mirrored):
    assert not must_merge_replicas()
    with mirrored.scope():
        assert must_merge_replicas(), ADAPTER
