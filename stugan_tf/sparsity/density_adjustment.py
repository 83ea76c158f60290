"""ADAPT's discriminator (Wang et al. 2023): its density follows the balance with the generator.

If the balance ratio is too large, the generator is too strong, and the discriminator grows. If it
is too small, the discriminator is pruned. The numbers come from the authors' code: there the lowest
density is 0.05, in their paper it is 0.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gin
import keras

from stugan_tf.checks import check_above_zero
from stugan_tf.errors import InputError
from stugan_tf.signatures import Criterion, Schedule
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule, TrainingState
from stugan_tf.sparsity.topology import check_update, prune_and_regrow_globally

# A density that ends within this part of the increment of a bound is set to the bound. Otherwise
# rounding to whole weights could cost another adjustment.
_TOLERANCE = 0.1


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class DensityAdjustment(PeriodicRule):
    """Dynamic density adjust: the density of one network follows the balance ratio.

    Nothing happens until the window of the balance ratio is full. ADAPT relaxed has
    `max_density = 1`, ADAPT strict has 0.5 and `explores_at_max`.

    Attributes:
        update_interval: generator steps between decisions: 1000 in relaxed, 2000 in strict ADAPT.
        start: the first generator step of a decision.
        stop: decisions end before this step, see `PeriodicRule`.
        low: B-; at this balance ratio or below the network gets sparser.
        high: B+; at this balance ratio or above the network gets denser.
        increment: Delta d, the change of density in one topology update.
        min_density: the lowest density.
        max_density: the highest density.
        explores_at_max: whether the network drops and regrows where it should get denser but is at
            `max_density`.
        drop_fraction: `progress -> p`, the drop fraction of such an update.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped.
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown.
        update: `(masks, scores, amount) -> (masks, kept)`, where amount is the drop fraction and
            the density: `prune_and_regrow_globally` or another of `sparsity.topology`.

    Raises:
        InputError: if a value is impossible, or a function breaks its contract.
    """

    low: float = 0.45
    high: float = 0.55
    increment: float = 0.05
    min_density: float = 0.05
    max_density: float = 1.0
    explores_at_max: bool = False
    drop_fraction: Schedule = schedules.cosine_drop_fraction
    drop_scores: Criterion = criteria.magnitude
    grow_scores: Criterion = criteria.gradient_magnitude
    update: Callable[..., Any] = prune_and_regrow_globally
    needs_balance_ratio: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the values."""
        super().__post_init__()
        if not self.low < self.high:
            raise InputError(
                "DensityAdjustment.low must be below high, got "
                f"{self.low!r} and {self.high!r}. The paper has 0.45 and 0.55."
            )
        check_above_zero("DensityAdjustment.increment", self.increment)
        if not 0 < self.min_density <= self.max_density <= 1:
            raise InputError(
                "DensityAdjustment must have 0 < min_density <= max_density <= 1, got "
                f"{self.min_density!r} and {self.max_density!r}. They are fractions of weights "
                "kept: write 0.05 for 95% sparse."
            )
        schedules.check_drop_fraction("DensityAdjustment.drop_fraction", self.drop_fraction)
        for name in ("drop_scores", "grow_scores"):
            criteria.check_criterion(f"DensityAdjustment.{name}", getattr(self, name))
        check_update("DensityAdjustment.update", self.update, [0.0, 0.5], self.grow_scores)

    def amount(self, state: TrainingState) -> Sequence[float] | None:
        """[drop fraction, density to reach], or None for no change."""
        ratio, density = state.balance_ratio, state.density
        if ratio is None or self.low < ratio < self.high:
            return None
        slack = _TOLERANCE * self.increment
        if ratio <= self.low:
            target = density - self.increment
            target = self.min_density if target < self.min_density + slack else target
            return [0.0, target] if target < density - slack else None
        target = density + self.increment
        target = self.max_density if target > self.max_density - slack else target
        if target > density + slack:
            return [0.0, target]
        if self.explores_at_max:
            return [self.drop_fraction(state.progress), density]
        return None

    def logged_drop_fraction(self, progress: float) -> float | None:
        """None: an update may drop and regrow, but only its step decides."""
        del progress
        return None

    def description(self, total_steps: int, progress: Callable[[int], float]) -> str:
        """One line about the decisions: how many, and at which balance ratios."""
        del progress
        at_max = "; there it drops and regrows" if self.explores_at_max else ""
        return (
            f"at most {self.num_updates(total_steps)} topology updates, {self.when}: density "
            f"-{self.increment:g} at a balance ratio of {self.low:g} or less, +{self.increment:g} "
            f"at {self.high:g} or more, from {self.min_density:g} to {self.max_density:g}{at_max}"
        )
