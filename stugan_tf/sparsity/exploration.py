"""Exploration: when and how a network drops and regrows weights (Eq. 3 and 4)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import keras

from stugan_tf.checks import check_fraction
from stugan_tf.signatures import Criterion, Schedule
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule, TrainingState
from stugan_tf.sparsity.topology import check_update, prune_and_regrow_per_layer


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration(PeriodicRule):
    """When and how one network drops and regrows weights.

    Attributes:
        update_interval: Delta T, in generator steps.
        start: the first generator step at which an update may happen.
        stop: updates end before this step, see `PeriodicRule`.
        drop_fraction: `progress -> p`, one of `sparsity.schedules`.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped (Eq. 3).
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown (Eq. 4).
        update: `(masks, scores, amount) -> (masks, kept)`, where amount is the drop fraction:
            `prune_and_regrow_per_layer` or another of `sparsity.topology`.
        gradient_momentum: criteria see the gradient averaged over the steps with this decay; with
            0 they see the gradient of the last batch.

    Raises:
        InputError: if a value is impossible, or a function breaks its contract.
    """

    drop_fraction: Schedule = schedules.cosine_drop_fraction
    drop_scores: Criterion = criteria.magnitude
    grow_scores: Criterion = criteria.gradient_magnitude
    update: Callable[..., Any] = prune_and_regrow_per_layer
    gradient_momentum: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        check_fraction("Exploration.gradient_momentum", self.gradient_momentum)
        schedules.check_drop_fraction("Exploration.drop_fraction", self.drop_fraction)
        for name in ("drop_scores", "grow_scores"):
            criteria.check_criterion(f"Exploration.{name}", getattr(self, name))
        check_update("Exploration.update", self.update, 0.5, self.grow_scores)

    def amount(self, state: TrainingState) -> float:
        """The drop fraction p."""
        return self.drop_fraction(state.progress)
