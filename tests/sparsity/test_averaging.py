import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stugan_tf.sparsity.averaging import ema, literal_sema, masked_ema, sema

DECAY = 0.75


def averages(member, weights, masks, average=0.0, seen=False):
    """The averages after each update of one weight, by default inactive from the start."""
    average, seen = tf.constant([average]), tf.constant([seen])
    history = []
    for weight, mask in zip(weights, masks, strict=True):
        average, seen = member(average, tf.constant([weight]), tf.constant([mask]), seen, DECAY)
        history.append(float(average[0]))
    return history


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (sema, [0, 0, 4, 0.75 * 4 + 0.25 * 8]),
        (literal_sema, [0, 0, 1, 0.75 * 1 + 0.25 * 8]),
        (masked_ema, [0, 0, 1, 0.75 * 1 + 0.25 * 8]),
        (ema, [0, 0, 1, 0.75 * 1 + 0.25 * 8]),
    ],
)
def test_inactive_then_grown_then_two_updates(member, expected):
    assert averages(member, weights=[0.0, 0.0, 4.0, 8.0], masks=[0.0, 1.0, 1.0, 1.0]) == expected


@pytest.mark.parametrize("member", [sema, literal_sema, masked_ema])
def test_a_dropped_weight_loses_its_history(member):
    assert averages(member, [0.0], [0.0], average=4.0, seen=True) == [0]


def test_the_ordinary_average_of_a_dropped_weight_decays():
    assert averages(ema, [0.0], [0.0], average=4.0, seen=True) == [3]


@pytest.mark.parametrize("member", [sema, literal_sema, masked_ema, ema])
def test_dropped_and_regrown_in_one_update_continues(member):
    """The mask is only looked at after the exploration, and the weight has kept its value."""
    assert averages(member, [8.0, 8.0], [1.0, 1.0], average=4.0, seen=True) == [5, 5.75]


def test_regrown_after_an_absence_starts_anew():
    history = averages(sema, [8.0, 0.0, 0.0, 2.0], [1.0, 0.0, 1.0, 1.0], average=4.0, seen=True)
    assert history == [5, 0, 0, 2]


def test_a_weight_that_passes_through_zero_keeps_its_average():
    assert averages(sema, [0.0, 4.0], [1.0, 1.0], average=4.0, seen=True) == [3, 3.25]


def test_without_a_mask_sema_is_the_ordinary_average():
    assert averages(sema, [8.0, 0.0], [1.0, 1.0], average=4.0, seen=True) == averages(
        ema, [8.0, 0.0], [1.0, 1.0], average=4.0, seen=True
    )


small = st.sampled_from([-2.0, 0.0, 1.0, 3.0])
histories = st.integers(1, 6).flatmap(
    lambda length: st.tuples(
        arrays(np.float32, (length, 5), elements=small),
        arrays(np.float32, (length, 5), elements=st.sampled_from([0.0, 1.0])),
    )
)


@given(history=histories)
def test_sema_follows_equation_5(history):
    """Against Eq. 5 with a counter T per weight, which starts once the grown weight is trained."""
    weights, masks = history[0] * history[1], history[1]
    average = expected = weights[0]
    seen = masks[0] > 0
    active_steps = np.where(seen, 2, 0)  # the average starts as the weights
    for weight, mask in zip(weights, masks, strict=True):
        started = (active_steps > 0) | (weight != 0)
        active_steps = np.where(mask == 0, 0, active_steps + started)
        blended = DECAY * expected + (1 - DECAY) * weight
        expected = np.select([active_steps == 0, active_steps == 1], [0.0, weight], blended)
        average, seen = sema(average, weight, mask, seen, DECAY)
        np.testing.assert_allclose(average, expected, rtol=1e-6)
        np.testing.assert_array_equal(seen, active_steps > 0)
