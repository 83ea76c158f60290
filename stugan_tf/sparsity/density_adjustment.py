"""ADAPT's discriminator (Wang et al. 2023): as dense as the balance with the generator asks for.

A balance ratio that is too large means that the generator is too strong for the discriminator,
which then grows; too small, and it is pruned. Numbers are those of their code: there the lowest
density is 0.05, in the paper 0.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import gin

from stugan_tf.checks import check_above_zero
from stugan_tf.errors import InputError
from stugan_tf.sparsity import criteria, schedules
from stugan_tf.sparsity.rule import PeriodicRule
from stugan_tf.sparsity.topology import check_update, prune_and_regrow_globally

# An adjustment that ends nearer to a bound than this part of the increment ends at it: rounding to
# whole weights must not cost another one.
_TOLERANCE = 0.1


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DensityAdjustment(PeriodicRule):
    """Dynamic density adjust: when and how the density of one network follows the balance ratio.

    Nothing happens while the window of the balance ratio is not full. ADAPT relaxed is
    `max_density = 1`; strict is 0.5 with `explores_at_max`.

    Attributes:
        update_interval: generator steps between decisions: 1000 in relaxed, 2000 in strict ADAPT.
        start: the first generator step of a decision.
        stop: of decisions, see `PeriodicRule`.
        low: B-; at a balance ratio of at most this the network gets sparser.
        high: B+; at one of at least this it gets denser.
        increment: Delta d, by how much.
        min_density: never sparser than this.
        max_density: never denser than this.
        explores_at_max: whether, where it should be denser but must not, it drops and regrows.
        drop_fraction: `progress -> fraction` of such an exploration.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped.
        grow_scores: `(weight, gradient, seed) -> scores`; the largest are grown.
        update: `(masks, scores, amount) -> (masks, kept)`, where amount is the drop fraction and
            the density: `prune_and_regrow_globally` or another of `sparsity.topology`.
    """

    low: float = 0.45
    high: float = 0.55
    increment: float = 0.05
    min_density: float = 0.05
    max_density: float = 1.0
    explores_at_max: bool = False
    drop_fraction: Callable = schedules.cosine_drop_fraction
    drop_scores: Callable = criteria.magnitude
    grow_scores: Callable = criteria.gradient_magnitude
    update: Callable = prune_and_regrow_globally
    needs_balance_ratio: ClassVar[bool] = True

    def __post_init__(self):
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

    def amount(self, state):
        """What to drop and how dense to be: [drop fraction, density], or None for no change."""
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

    def logged_drop_fraction(self, progress):
        """None: whether an update drops and regrows is known only when it comes."""
        del progress

    def description(self, total_steps, progress):
        """How often it decides, and what."""
        del progress
        at_max = "; there it drops and regrows" if self.explores_at_max else ""
        return (
            f"at most {self.num_updates(total_steps)} topology updates, {self.when}: density "
            f"-{self.increment:g} at a balance ratio of {self.low:g} or less, +{self.increment:g} "
            f"at {self.high:g} or more, from {self.min_density:g} to {self.max_density:g}{at_max}"
        )
