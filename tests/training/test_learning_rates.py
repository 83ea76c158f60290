import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.training.learning_rates import linear_decay


def test_linear_decay_reaches_zero_after_the_last_update_and_stays_there():
    schedule = linear_decay(initial=2e-4, updates=250_240)
    for update in (0, 1, 125_120, 250_239, 250_240, 250_300):
        expected = 2e-4 * max(0.0, 1 - update / 250_240)
        np.testing.assert_allclose(schedule(update), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"initial": 0.0, "updates": 9}, "linear_decay.initial must be a number above 0, got 0.0"),
        ({"initial": 0.1, "updates": 0}, "linear_decay.updates must be a positive integer, got 0"),
    ],
)
def test_what_would_not_decay_is_refused(settings, told):
    with pytest.raises(InputError, match=told):
        linear_decay(**settings)
