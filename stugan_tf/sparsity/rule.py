"""Topology rules: when and how the masks of a network change.

Drop-and-grow, pruning and density adjustment are rules.
"""

import abc
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_fraction, check_natural
from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.signatures import Criterion, Schedule
from stugan_tf.sparsity.criteria import check_criterion
from stugan_tf.sparsity.schedules import check_drop_fraction
from stugan_tf.sparsity.settings import from_plain, to_plain
from stugan_tf.sparsity.topology import Scores, check_update

SLOTS = ("keep", "zero", "age")


class TrainingState(NamedTuple):
    """The state of a training when a topology update is due."""

    step: int  # Generator steps done.
    total_steps: int
    progress: float  # The fraction of the training done, in discriminator updates, in (0, 1].
    density: float  # The fraction of ones in all masks of the network.
    balance_ratio: float | None  # The mean of a full window; None before, or if not measured.


class TopologyRule(abc.ABC):
    """When and how the masks of one network change.

    The host calls `is_due` and `amount`. The compiled `update` changes the masks by the scores of
    `drop_scores` and `grow_scores`. A rule keeps no state: a resumed run asks the same questions
    again. A rule of your own:

        class SlowGrowth(TopologyRule):
            drop_scores = magnitude
            grow_scores = gradient_magnitude
            update = prune_and_regrow_globally

            def is_due(self, step, total_steps):
                return step % 100 == 0 and step < total_steps

            def amount(self, state):
                return 0.1 * state.progress

    A rule may be a frozen dataclass with its settings as fields, like `Exploration`.

    Attributes:
        drop_scores: a criterion, one of `sparsity.criteria`, or a method of the same signature.
        grow_scores: a criterion, or None if no weight ever grows.
        drop_fraction: `progress -> p`, one of `sparsity.schedules`, or None. Logs show it as the
            drop fraction. A rule with a number here says by `logged_drop_fraction` what becomes of
            it.
        gradient_momentum: criteria see the gradient averaged over the steps with this decay; with 0
            they see the gradient of the last batch.
        slots: what an update does to the optimizer's slots, such as moments, of the weights that it
            drops or grows. "keep": they go on. "zero": they start again at their initial value.
            "age": as "zero", and the bias correction of Adam counts from the weight's own
            activation.
        needs_balance_ratio: whether `amount` uses the balance ratio.
        is_static: whether the masks are meant to stay: no update is ever due.
    """

    drop_scores: Criterion
    grow_scores: Criterion | None = None
    drop_fraction: Schedule | float | None = None
    gradient_momentum: float = 0.0
    slots: str = "keep"
    needs_balance_ratio: ClassVar[bool] = False
    is_static: ClassVar[bool] = False

    def __new__(cls, *arguments: Any, **settings: Any) -> "TopologyRule":
        """Refuses a class in which a method is missing, or a setting would be ignored.

        Raises:
            InputError: if the class does not define all of `is_due`, `amount` and `update`, or sets
                in its body what a dataclass below it sets for each object.
        """
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise InputError(
                f"{cls.__name__} does not define {', '.join(missing)}. A TopologyRule defines "
                "is_due(step, total_steps), amount(state) and update(masks, scores, amount)."
            )
        for name in _hidden_settings(cls):
            raise InputError(
                f"{cls.__name__} sets {name} in its body, but {name} is a field, which is set for "
                f"each object: yours would be ignored. Write `{name}: ... = ...`, with a type, and "
                "@dataclasses.dataclass(frozen=True) above the class."
            )
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps functions that are assigned in the body of the class from becoming methods."""
        super().__init_subclass__(**options)
        for name in ("drop_scores", "grow_scores", "drop_fraction", "update"):
            value = vars(cls).get(name)
            if (
                isinstance(value, types.FunctionType)
                and value.__qualname__ != f"{cls.__qualname__}.{name}"
            ):
                setattr(cls, name, staticmethod(value))

    @abc.abstractmethod
    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether an update may happen at generator step `step`, counted from 1."""

    @abc.abstractmethod
    def amount(self, state: TrainingState) -> float | Sequence[float] | None:
        """How much an update changes.

        Args:
            state: `TrainingState`.

        Returns:
            A number or a list of numbers; None makes no update.
        """

    @abc.abstractmethod
    def update(
        self, masks: list[tf.Tensor], scores: Scores, amount: tf.Tensor
    ) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]:
        """A topology update, compiled. It is, or calls, a function of `sparsity.topology`.

        Args:
            masks: list of L float32 masks, one per masked kernel.
            scores: `sparsity.topology.Scores`.
            amount: the result of the method `amount`, as a float64 tensor.

        Returns:
            `(masks, kept)`: the new masks, and masks of the weights that keep their values. All
            other weights become zero.
        """

    def next_due(self, step: int, total_steps: int) -> int | None:
        """The first step after `step` at which an update may happen, or None."""
        later = range(step + 1, total_steps + 1)
        return next(
            (later_step for later_step in later if self.is_due(later_step, total_steps)), None
        )

    def num_updates(self, total_steps: int) -> int:
        """The largest number of updates in a training of `total_steps` generator steps."""
        found, step = 0, self.next_due(0, total_steps)
        while step is not None:
            found, step = found + 1, self.next_due(step, total_steps)
        return found

    @property
    def when(self) -> str:
        """When the rule is due, in a few words."""
        return f"when {type(self).__name__}.is_due says so"

    def logged_drop_fraction(self, progress: float) -> float | None:
        """The drop fraction at `progress` for logs, or None without a drop fraction."""
        return self.drop_fraction(progress) if callable(self.drop_fraction) else self.drop_fraction

    def get_config(self) -> dict[str, Any]:
        """The settings as plain data, for models that Keras saves.

        Raises:
            InputError: if a setting cannot be saved, or the rule is not a dataclass and has some.
        """
        kind = type(self).__name__
        if not dataclasses.is_dataclass(self):
            if vars(self):
                raise InputError(
                    f"{kind} cannot be saved with the model, because nothing says which of "
                    f"{', '.join(vars(self))} its constructor takes. Make it a dataclass, "
                    "@dataclasses.dataclass(frozen=True), or define get_config."
                )
            return {}
        return {
            field.name: to_plain(f"{kind}.{field.name}", getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.init
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "TopologyRule":
        """A rule of this class with the settings that `get_config` gave."""
        return cls(**{name: from_plain(value) for name, value in config.items()})

    def description(self, total_steps: int, progress: Callable[[int], float]) -> str:
        """One line about the updates that the rule will make.

        Args:
            total_steps: generator steps of the training.
            progress: function that gives the progress at a step, see `TrainingState`.
        """
        del progress
        return f"at most {self.num_updates(total_steps)} topology updates, {self.when}"


def check_slots(name: str, slots: Any) -> None:
    """Raises InputError unless `slots`, the value of a setting, is one of `SLOTS`."""
    if slots not in SLOTS:
        raise InputError(f"{name} must be one of {', '.join(SLOTS)}, got {slots!r}.")


def check_rule(name: str, rule: TopologyRule, total_steps: int) -> None:
    """Raises InputError unless a rule keeps the contract of `TopologyRule`.

    Args:
        name: name of the setting in a gin file.
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
    if callable(rule.drop_fraction):
        check_drop_fraction(f"{kind}.drop_fraction", rule.drop_fraction)
    check_fraction(f"{kind}.gradient_momentum", rule.gradient_momentum)
    check_slots(f"{kind}.slots", rule.slots)
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
        return  # Never due: the training says so.
    if not isinstance(due, int) or not rule.is_due(due, total_steps):
        raise trial.refusal(f"after step 0 it returned {due!r}")
    trial = Trial(
        f"{kind}.amount", rule.amount, "`(state) -> amount`, a number, a list of numbers, or None"
    )
    # A rule that uses the balance ratio may make no update at one of these, but hardly at all.
    ratios: tuple[float | None, ...] = (0.0, 0.5, 1.0) if rule.needs_balance_ratio else (None,)
    for ratio in ratios:
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
        start: the first generator step at which an update may happen. A float is a fraction of the
            training, as it is for `stop`.
        stop: updates happen only before this generator step. None means the last step, because its
            new weights would stay untrained. A step after the end allows an update in the last
            step, too.

    Raises:
        InputError: if a value is impossible.
    """

    update_interval: int = 1000
    start: float = 0
    stop: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        name = type(self).__name__
        if not isinstance(self.update_interval, int) or self.update_interval < 1:
            raise InputError(
                f"{name}.update_interval must be at least 1 generator step, got "
                f"{self.update_interval!r}. For no updates, set the exploration itself to None."
            )
        _check_time(f"{name}.start", self.start)
        if self.stop is not None:
            _check_time(f"{name}.stop", self.stop)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether an update may happen at generator step `step`, counted from 1."""
        is_multiple = step % self.update_interval == 0
        return is_multiple and self.first_step(total_steps) <= step < self.end_step(total_steps)

    def next_due(self, step: int, total_steps: int) -> int | None:
        """The first step after `step` at which an update may happen, or None."""
        candidate = max(step + 1, self.first_step(total_steps), 1)
        candidate = -(-candidate // self.update_interval) * self.update_interval
        return candidate if self.is_due(candidate, total_steps) else None

    @property
    def when(self) -> str:
        """When the rule is due, in a few words."""
        return f"every {self.update_interval} steps"

    def first_step(self, total_steps: int) -> int:
        """`start` as a generator step."""
        return _as_step(self.start, total_steps)

    def end_step(self, total_steps: int) -> int:
        """`stop` as a generator step, at most one after the last."""
        if self.stop is None:
            return total_steps
        return min(_as_step(self.stop, total_steps), total_steps + 1)

    def description(self, total_steps: int, progress: Callable[[int], float]) -> str:
        """One line: the number of updates, and the drop fraction from the first to the end."""
        first = self.next_due(0, total_steps)
        if first is None or self.logged_drop_fraction(1.0) is None:
            return super().description(total_steps, progress)
        return (
            f"{self.num_updates(total_steps)} topology updates, {self.when}; drop fraction "
            f"{self.logged_drop_fraction(progress(first)):.4g} at step {first}, "
            f"{self.logged_drop_fraction(progress(total_steps)):.4g} at the end"
        )


def _check_time(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a generator step, or a fraction of the training."""
    if not isinstance(value, float):
        check_natural(name, value)
    elif not 0 <= value <= 1:
        raise InputError(
            f"{name} must be a step, which is an integer, or a fraction of the training in [0, 1], "
            f"got {value!r}."
        )


def _as_step(value: float, total_steps: int) -> int:
    """A generator step; a fraction of the training is rounded to the nearest step."""
    return round(value * total_steps) if isinstance(value, float) else value


def _hidden_settings(cls: type) -> list[str]:
    """Names that classes set in their bodies where the `__init__` of a dataclass replaces them."""
    fields = getattr(cls, "__dataclass_fields__", {})
    return [
        name
        for base in map(vars, cls.__mro__)
        for name in fields
        if name in base
        and not ("__dataclass_fields__" in base and name in base.get("__annotations__", {}))
        and base.get("__module__") != __name__
    ]
