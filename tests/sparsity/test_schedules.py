import pytest
from hypothesis import given
from hypothesis import strategies as st

from stugan_tf.sparsity.schedules import (
    constant_drop_fraction,
    cosine_drop_fraction,
    linear_drop_fraction,
)


@pytest.mark.parametrize(
    ("generator_step", "drop_fraction"),
    [(1000, 0.499513), (2000, 0.498054), (3000, 0.495627), (49_000, 0.005536), (50_000, 0.005001)],
)
def test_the_cosine_is_that_of_the_authors_log(generator_step, drop_fraction):
    progress = (5 * (generator_step - 1) + 1) / 250_240  # they count discriminator steps
    assert cosine_drop_fraction(progress) == pytest.approx(drop_fraction, abs=5e-7)


def test_a_quarter_of_the_way_by_hand():
    assert cosine_drop_fraction(0.25, 1.0, 0.0) == pytest.approx((2 + 2**0.5) / 4)
    assert linear_drop_fraction(0.25, 1.0, 0.0) == 0.75
    assert constant_drop_fraction(0.25, 0.3) == 0.3


@pytest.mark.parametrize("schedule", [cosine_drop_fraction, linear_drop_fraction])
@given(initial=st.floats(0, 1), final=st.floats(0, 1))
def test_a_schedule_leads_from_initial_over_the_mean_to_final(schedule, initial, final):
    reached = [schedule(progress, initial, final) for progress in (0, 0.5, 1)]
    assert reached == pytest.approx([initial, (initial + final) / 2, final])


@pytest.mark.parametrize(
    "schedule", [cosine_drop_fraction, linear_drop_fraction, constant_drop_fraction]
)
@given(progress=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_the_drop_fraction_never_rises(schedule, progress):
    assert schedule(max(progress)) <= schedule(min(progress)) <= schedule(0) == 0.5
