"""The drop fraction p as a function of training progress, from 0 (start) to 1 (end).

All schedules have the signature `(progress) -> p`, with Python floats, on the host. The paper gives
only the initial 0.5. The cosine and its final value come from the authors' code.
"""

import math
from typing import Any

import gin

from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError


@gin.configurable(denylist=["progress"])
def cosine_drop_fraction(progress: float, initial: float = 0.5, final: float = 0.005) -> float:
    """Cosine: p = final + (initial - final) * (1 + cos(pi * progress)) / 2.

    Args:
        progress: the fraction of the training done.
        initial: p at the start.
        final: p at the end.
    """
    return final + (initial - final) * (1 + math.cos(math.pi * progress)) / 2


@gin.configurable(denylist=["progress"])
def linear_drop_fraction(progress: float, initial: float = 0.5, final: float = 0.005) -> float:
    """Linear: p = initial + (final - initial) * progress.

    Args:
        progress: the fraction of the training done.
        initial: p at the start.
        final: p at the end.
    """
    return initial + (final - initial) * progress


@gin.configurable(denylist=["progress"])
def constant_drop_fraction(progress: float, initial: float = 0.5) -> float:
    """Constant: p = initial.

    Args:
        progress: the fraction of the training done.
        initial: p.
    """
    del progress
    return initial


def check_drop_fraction(name: str, schedule: Any) -> None:
    """Raises InputError unless `schedule`, the value of a setting, stays in [0, 1]."""
    trial = Trial(name, schedule, "`(progress) -> p`, p a number in [0, 1]")
    for progress in (0.0, 0.5, 1.0):
        fraction = trial.of(progress=progress)
        trial.check_number("its result", fraction)
        if not 0 <= fraction <= 1:
            raise InputError(
                f"{name} must stay in [0, 1], but is {fraction} at {progress:.0%} of the training."
            )
