"""What changes the topology of a network, and when: drop-and-grow, pruning, density adjustment."""

import abc
import dataclasses
import types
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

from stugan_tf.checks import check_fraction, check_natural
from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.sparsity.criteria import check_criterion
from stugan_tf.sparsity.schedules import check_drop_fraction
from stugan_tf.sparsity.topology import check_update


class TrainingState(NamedTuple):
    """What the host knows when a topology update is due."""

    step: int  # Generator steps done.
    total_steps: int
    progress: float  # How much of the training is done, in discriminator updates, in (0, 1].
    density: float  # Of all weights under masks of the network.
    balance_ratio: float | None  # The mean of a full window; None before, or if not measured.


class TopologyRule(abc.ABC):
    """When the masks of one network change, and how.

    The host asks `is_due` and `amount`; the compiled `update` does the work, on scores by
    `drop_scores` and `grow_scores`. A rule keeps no state: a resumed run asks the same questions
    again. One of your own:

        class SlowGrowth(TopologyRule):
            drop_scores = magnitude
            grow_scores = gradient_magnitude
            update = prune_and_regrow_globally

            def is_due(self, step, total_steps):
                return step % 100 == 0 and step < total_steps

            def amount(self, state):
                return 0.1 * state.progress

    Its settings may be fields of a frozen dataclass, as those of `Exploration` are.

    Attributes:
        drop_scores: a criterion, one of `sparsity.criteria`, or a method of its signature.
        grow_scores: a criterion; None if no weight ever grows.
        drop_fraction: `progress -> p`, one of `sparsity.schedules`, or None. It is what logs show
            as the drop fraction, see `logged_drop_fraction`.
        gradient_momentum: criteria see an average of the gradient of this decay over the steps; 0
            is the gradient of the last batch.
        needs_balance_ratio: whether `amount` asks for it.
    """

    drop_scores: Callable
    grow_scores: Callable | None = None
    drop_fraction: Callable | None = None
    gradient_momentum: float = 0.0
    needs_balance_ratio: ClassVar[bool] = False

    def __new__(cls, *arguments, **settings):
        """Refuses a class in which a method is missing.

        Raises:
            InputError: if the class does not define all of `is_due`, `amount` and `update`.
        """
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise InputError(
                f"{cls.__name__} does not define {', '.join(missing)}. A TopologyRule defines "
                "is_due(step, total_steps), amount(state) and update(masks, scores, amount)."
            )
        return super().__new__(cls)

    def __init_subclass__(cls, **options):
        """Keeps functions that are named in the body of the class from becoming methods."""
        super().__init_subclass__(**options)
        for name in ("drop_scores", "grow_scores", "drop_fraction", "update"):
            value = vars(cls).get(name)
            if (
                isinstance(value, types.FunctionType)
                and value.__qualname__ != f"{cls.__qualname__}.{name}"
            ):
                setattr(cls, name, staticmethod(value))

    @abc.abstractmethod
    def is_due(self, step, total_steps):
        """Whether an update may happen at generator step `step`, counted from 1."""

    @abc.abstractmethod
    def amount(self, state):
        """How much an update changes.

        Args:
            state: `TrainingState`.

        Returns:
            A number or a list of numbers; None leaves all as it is.
        """

    @abc.abstractmethod
    def update(self, masks, scores, amount):
        """A topology update, compiled; one of `sparsity.topology`, or calls one.

        Args:
            masks: list of L float32 masks, one per masked kernel.
            scores: `sparsity.topology.Scores`.
            amount: what `amount` returned, as a float64 tensor.

        Returns:
            `(masks, kept)`: the new masks, and masks of the weights that keep their values. Other
            weights become zero.
        """

    def next_due(self, step, total_steps):
        """The first step after `step` at which an update may happen, or None."""
        later = range(step + 1, total_steps + 1)
        return next(
            (later_step for later_step in later if self.is_due(later_step, total_steps)), None
        )

    def num_updates(self, total_steps):
        """How many updates a training of `total_steps` generator steps makes, at most."""
        found, step = 0, self.next_due(0, total_steps)
        while step is not None:
            found, step = found + 1, self.next_due(step, total_steps)
        return found

    @property
    def when(self):
        """When it is due, in a few words."""
        return f"when {type(self).__name__}.is_due says so"

    def logged_drop_fraction(self, progress):
        """The drop fraction at `progress` for logs; None if there is none to log."""
        return None if self.drop_fraction is None else self.drop_fraction(progress)

    def description(self, total_steps, progress):
        """What it is going to do, in a line.

        Args:
            total_steps: generator steps of the training.
            progress: function of a step, see `TrainingState`.
        """
        del progress
        return f"at most {self.num_updates(total_steps)} topology updates, {self.when}"


def check_rule(name, rule, total_steps):
    """Raises InputError unless a rule keeps the contract of `TopologyRule`.

    Args:
        name: what the rule is called in a gin file.
        rule: a `TopologyRule`.
        total_steps: generator steps of the training.
    """
    kind = type(rule).__name__
    if not hasattr(rule, "drop_scores"):
        raise InputError(
            f"{name}, a {kind}, has no drop_scores. Set it in the class, e.g. to "
            "stugan_tf.sparsity.criteria.magnitude."
        )
    check_criterion(f"{kind}.drop_scores", rule.drop_scores)
    if rule.grow_scores is not None:
        check_criterion(f"{kind}.grow_scores", rule.grow_scores)
    if rule.drop_fraction is not None:
        check_drop_fraction(f"{kind}.drop_fraction", rule.drop_fraction)
    check_fraction(f"{kind}.gradient_momentum", rule.gradient_momentum)
    trial = Trial(f"{kind}.is_due", rule.is_due, "`(step, total_steps) -> bool`")
    answer = trial.of(step=1, total_steps=total_steps)
    if not isinstance(answer, (bool, np.bool_)):
        raise trial.refusal(f"at step 1 it returned {answer!r}")
    trial = Trial(
        f"{kind}.next_due",
        rule.next_due,
        "`(step, total_steps) -> step`, the first later step at which is_due is True, or None",
    )
    due = trial.of(step=0, total_steps=total_steps)
    if due is None:
        return  # Never due: a training says so, with the advice that fits it.
    if not isinstance(due, int) or not rule.is_due(due, total_steps):
        raise trial.refusal(f"after step 0 it returned {due!r}")
    trial = Trial(
        f"{kind}.amount", rule.amount, "`(state) -> amount`, a number, a list of numbers, or None"
    )
    # A rule that goes by the balance may have nothing to do at one ratio, but hardly at all three.
    for ratio in (0.0, 0.5, 1.0) if rule.needs_balance_ratio else (None,):
        state = TrainingState(due, total_steps, due / total_steps, 0.5, ratio)
        amount = trial.of(state=state)
        if amount is None:
            continue
        try:
            values = np.asarray(amount, np.float64)
        except (TypeError, ValueError):
            values = None
        if values is None or values.ndim > 1 or np.isnan(values).any():
            raise trial.refusal(f"it returned {amount!r}")
        check_update(f"{kind}.update", rule.update, amount, rule.grow_scores)


@dataclasses.dataclass(frozen=True)
class PeriodicRule(TopologyRule):
    """A rule that is due at all multiples of an interval.

    Attributes:
        update_interval: Delta T, in generator steps.
        start: the first generator step at which an update may happen.
        stop: updates happen before this generator step; None is the last one, whose new weights
            would stay untrained. A step after the end lets the last one have its update, too.
    """

    update_interval: int = 1000
    start: int = 0
    stop: int | None = None

    def __post_init__(self):
        """Checks the values."""
        name = type(self).__name__
        if not isinstance(self.update_interval, int) or self.update_interval < 1:
            raise InputError(
                f"{name}.update_interval must be at least 1 generator step, got "
                f"{self.update_interval!r}. To explore never, set the exploration itself to None."
            )
        check_natural(f"{name}.start", self.start)
        if self.stop is not None:
            check_natural(f"{name}.stop", self.stop)

    def is_due(self, step, total_steps):
        """Whether an update may happen at generator step `step`, counted from 1."""
        return step % self.update_interval == 0 and self.start <= step < self._stop(total_steps)

    def next_due(self, step, total_steps):
        """The first step after `step` at which an update may happen, or None."""
        candidate = max(step + 1, self.start, 1)
        candidate = -(-candidate // self.update_interval) * self.update_interval
        return candidate if self.is_due(candidate, total_steps) else None

    @property
    def when(self):
        """When it is due, in a few words."""
        return f"every {self.update_interval} steps"

    def _stop(self, total_steps):
        return total_steps if self.stop is None else min(self.stop, total_steps + 1)
