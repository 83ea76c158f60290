"""The topology updates of a whole training, known before its first step.

A rule answers on the host when an update is due and how much it changes. In Keras' `fit` the host
does not come between two steps, so all answers are found beforehand. They are a constant table of
the compiled step.
"""

import dataclasses
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.sparsity.rule import TopologyRule, TrainingState, check_rule

# If a rule gives the same amount at all of these, the amount does not depend on the density.
_DENSITIES = (0.75, 0.25, 0.5)


@dataclasses.dataclass(frozen=True)
class TopologyUpdates:
    """The steps with a topology update, and the amount of each.

    Attributes:
        steps: int64 [n], ascending, counted from 1; n is 0 if the masks stay.
        amounts: float64 [n] or [n, k].
    """

    steps: np.ndarray
    amounts: np.ndarray

    def at(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Looks up a step, in a compiled function.

        Args:
            step: int64 scalar, counted from 1.

        Returns:
            Whether an update is due, a bool scalar, and its amount, float64, a scalar or [k].
        """
        found = tf.equal(tf.constant(self.steps, tf.int64), step)
        amounts = tf.constant(self.amounts, tf.float64)
        return tf.reduce_any(found), tf.gather(amounts, tf.argmax(tf.cast(found, tf.int32)))


def planned_updates(rule: TopologyRule, total_steps: int) -> TopologyUpdates:
    """Asks a rule for all updates of a training.

    Args:
        rule: a `TopologyRule`.
        total_steps: number of weight updates in the training.

    Raises:
        InputError: if the rule breaks its contract, or needs to know more than the step.
    """
    if rule.is_static:
        return TopologyUpdates(np.zeros([0], np.int64), np.zeros([0]))
    kind = type(rule).__name__
    check_rule("rule", rule, total_steps)
    steps, amounts = [], []
    step = rule.next_due(0, total_steps)
    while step is not None:
        answers: list[Any] = [
            rule.amount(TrainingState(step, total_steps, step / total_steps, density, None))
            for density in _DENSITIES
        ]
        if any(not np.array_equal(answer, answers[0]) for answer in answers[1:]):
            raise InputError(
                f"{kind}.amount depends on the density of the network: at step {step} it is "
                f"{answers[0]} at density {_DENSITIES[0]:g} and {answers[1]} at {_DENSITIES[1]:g}. "
                "In `fit` all amounts are fixed before the first step. Use a rule whose amount "
                "depends on the step alone, or train with stugan_tf.Training."
            )
        if answers[0] is not None:
            steps.append(step)
            amounts.append(np.asarray(answers[0], np.float64))
        step = rule.next_due(step, total_steps)
    if not steps:
        warnings.warn(
            f"{kind} should change the topology {rule.when}, but a training of {total_steps:,} "
            "steps has no step for it: the masks stay as they are. Lower its update_interval or "
            "train longer if they should change.",
            stacklevel=2,
        )
        return TopologyUpdates(np.zeros([0], np.int64), np.zeros([0]))
    if len({amount.shape for amount in amounts}) > 1:
        raise InputError(
            f"{kind}.amount returns now a number and now a list, or lists of several lengths: "
            f"{amounts[0]} at step {steps[0]}. In `fit` all amounts must have one shape."
        )
    return TopologyUpdates(np.array(steps, np.int64), np.array(amounts, np.float64))
