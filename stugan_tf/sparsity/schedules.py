"""The drop fraction p as a function of training progress, from 0 (start) to 1 (end).

One family, `(progress) -> p`, in Python floats on the host. The paper gives only the initial 0.5;
the cosine and its final value are the authors' code.
"""

import math

import gin

from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError


@gin.configurable(denylist=["progress"])
def cosine_drop_fraction(progress, initial=0.5, final=0.005):
    """Cosine: p = final + (initial - final) * (1 + cos(pi * progress)) / 2."""
    return final + (initial - final) * (1 + math.cos(math.pi * progress)) / 2


@gin.configurable(denylist=["progress"])
def linear_drop_fraction(progress, initial=0.5, final=0.005):
    """Linear: p = initial + (final - initial) * progress."""
    return initial + (final - initial) * progress


@gin.configurable(denylist=["progress"])
def constant_drop_fraction(progress, initial=0.5):
    """Constant: p = initial."""
    del progress
    return initial


def check_drop_fraction(name, schedule):
    """Raises InputError unless `schedule`, by the name of a setting, stays in [0, 1]."""
    trial = Trial(name, schedule, "`(progress) -> p`, p a number in [0, 1]")
    for progress in (0.0, 0.5, 1.0):
        fraction = trial.of(progress=progress)
        trial.check_number("its result", fraction)
        if not 0 <= fraction <= 1:
            raise InputError(
                f"{name} must stay in [0, 1], but is {fraction} at {progress:.0%} of the training."
            )
