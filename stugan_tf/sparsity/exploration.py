"""Exploration: when a network drops and regrows weights, and how (Eq. 3 and 4)."""

import dataclasses
from collections.abc import Callable

import gin

from stugan_tf.checks import check_fraction
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule
from stugan_tf.sparsity.topology import check_update, prune_and_regrow_per_layer


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Exploration(PeriodicRule):
    """When and how one network drops and regrows weights.

    Attributes:
        update_interval: Delta T, in generator steps.
        start: the first generator step at which an update may happen.
        stop: see `PeriodicRule`.
        drop_fraction: `progress -> fraction`, one of `sparsity.schedules`.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped (Eq. 3).
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown (Eq. 4).
        update: `(masks, scores, amount) -> (masks, kept)`, where amount is the drop fraction:
            `prune_and_regrow_per_layer` or another of `sparsity.topology`.
        gradient_momentum: criteria see an average of the gradient of this decay over the steps;
            0 is the gradient of the last batch.
    """

    drop_fraction: Callable = schedules.cosine_drop_fraction
    drop_scores: Callable = criteria.magnitude
    grow_scores: Callable = criteria.gradient_magnitude
    update: Callable = prune_and_regrow_per_layer
    gradient_momentum: float = 0.0

    def __post_init__(self):
        """Checks the values."""
        super().__post_init__()
        check_fraction("Exploration.gradient_momentum", self.gradient_momentum)
        schedules.check_drop_fraction("Exploration.drop_fraction", self.drop_fraction)
        for name in ("drop_scores", "grow_scores"):
            criteria.check_criterion(f"Exploration.{name}", getattr(self, name))
        check_update("Exploration.update", self.update, 0.5, self.grow_scores)

    def amount(self, state):
        """The drop fraction p."""
        return self.drop_fraction(state.progress)

    def description(self, total_steps, progress):
        """The number of updates, and the drop fraction from the first to the end."""
        first = self.next_due(0, total_steps)
        return (
            f"{self.num_updates(total_steps)} topology updates, {self.when}; drop fraction "
            f"{self.drop_fraction(progress(first)):.4g} at step {first}, "
            f"{self.drop_fraction(progress(total_steps)):.4g} at the end"
        )
