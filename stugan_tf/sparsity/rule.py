"""What changes the topology of a network, and when: explorations and prunings alike."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from stugan_tf.checks import check_natural
from stugan_tf.errors import InputError


class Moment(NamedTuple):
    """What the host knows when a topology update is due."""

    step: int  # Generator steps done.
    total_steps: int
    progress: float  # How much of the training is done, in discriminator updates, in (0, 1].
    density: float  # Of all weights under masks of the network.
    balance_ratio: float | None  # The mean of a full window; None before, or if not measured.


class TopologyRule(abc.ABC):
    """When the masks of one network change, and how.

    The host asks `amount`; the compiled `new_masks` does the work with it, on scores by
    `drop_scores` and `grow_scores`. Nothing is kept here: a resumed run asks the same questions.

    Attributes:
        drop_scores: one of `sparsity.criteria`.
        grow_scores: likewise, or None if no weight ever grows.
        gradient_momentum: criteria see an average of the gradient of this decay over the steps; 0
            is the gradient of the last batch.
        needs_balance_ratio: whether `amount` asks for it.
    """

    drop_scores: Callable
    grow_scores: Callable | None = None
    gradient_momentum: float = 0.0
    needs_balance_ratio: ClassVar[bool] = False

    @abc.abstractmethod
    def is_due(self, step, total_steps):
        """Whether an update may happen at generator step `step`, counted from 1."""

    @abc.abstractmethod
    def next_due(self, step, total_steps):
        """The first step after `step` at which an update may happen, or None."""

    @abc.abstractmethod
    def num_updates(self, total_steps):
        """How many updates a training of `total_steps` generator steps makes, at most."""

    @abc.abstractmethod
    def amount(self, moment):
        """How much the update changes, as a number or a list of them; None leaves all as it is."""

    @abc.abstractmethod
    def new_masks(self, masks, drop_scores, grow_scores, amount):
        """The masks after an update, compiled.

        Args:
            masks: list of L float32 masks.
            drop_scores: list of L tensors like them.
            grow_scores: likewise, or None.
            amount: what `amount` gave, as a float64 tensor.
        """

    @abc.abstractmethod
    def description(self, total_steps, progress):
        """What it is going to do, in a line.

        Args:
            total_steps: generator steps of the training.
            progress: function of a step, see `Moment`.
        """

    @property
    def when(self):
        """When it is due, in a few words."""
        return f"every {self.update_interval} steps"


@dataclasses.dataclass(frozen=True)
class PeriodicRule(TopologyRule):
    """A rule that is due at all multiples of an interval.

    Attributes:
        update_interval: Delta T, in generator steps.
        start: the first generator step at which an update may happen.
        stop: updates happen before this generator step; None is the end of training. None happens
            in the very last step: its new weights would stay untrained.
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
        stop = total_steps if self.stop is None else min(self.stop, total_steps)
        return step % self.update_interval == 0 and self.start <= step < stop

    def next_due(self, step, total_steps):
        """The first step after `step` at which an update may happen, or None."""
        candidate = max(step + 1, self.start, 1)
        candidate = -(-candidate // self.update_interval) * self.update_interval
        return candidate if self.is_due(candidate, total_steps) else None

    def num_updates(self, total_steps):
        """How many updates a training of `total_steps` generator steps makes, at most."""
        stop = total_steps if self.stop is None else min(self.stop, total_steps)
        first = max(self.start, 1)
        return max(0, (stop - 1) // self.update_interval - (first - 1) // self.update_interval)


def check_drop_fraction(name, schedule):
    """Raises InputError unless a schedule of the drop fraction stays in [0, 1]."""
    for progress in (0.0, 0.5, 1.0):
        fraction = schedule(progress)
        if not 0 <= fraction <= 1:
            raise InputError(
                f"{name} must stay in [0, 1], but is {fraction} at {progress:.0%} of the training."
            )
