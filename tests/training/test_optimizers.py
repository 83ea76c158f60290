"""Any optimizer of Keras as that of a player."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.training.optimizers import player_optimizer

WHERE = np.array([[True, False, False], [False, True, False]])


@pytest.mark.parametrize(
    ("optimizer", "initial"),
    [
        (keras.optimizers.Adam(0.1), 0.0),
        (keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.5), 0.5),
    ],
)
def test_a_copy_steps_as_the_optimizer_does_and_restarts_slots_where_it_should(optimizer, initial):
    ours, theirs = (keras.Variable(np.ones([2, 3], np.float32)) for _ in range(2))
    copy = player_optimizer("mine", optimizer)
    copy.build([ours])
    optimizer.build([theirs])
    gradient = tf.constant([[1.0, 2.0, -3.0], [4.0, 0.5, 6.0]])
    for _ in range(2):
        copy.apply([gradient], [ours])
        optimizer.apply([gradient], [theirs])
    np.testing.assert_array_equal(ours, theirs)
    copy.restart(ours, tf.constant(WHERE))
    slots = [v for v in copy.variables if tuple(v.shape) == (2, 3)]
    expected = [v for v in optimizer.variables if tuple(v.shape) == (2, 3)]
    assert len(slots) == len(expected) > 0
    for slot, other in zip(slots, expected, strict=True):
        np.testing.assert_array_equal(slot, np.where(WHERE, initial, other))
