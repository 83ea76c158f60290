"""Scores during a training, and what they decide: the best checkpoint, an early end."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from stugan_tf import config
from stugan_tf.checks import check_function, check_positive
from stugan_tf.data.source import Source
from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.files import read_json_lines
from stugan_tf.training.gan import GAN


@dataclasses.dataclass(frozen=True)
class Unscored:
    """In place of an evaluator: why a run has no scores.

    Attributes:
        reason: what is missing and how to get it, in words.
    """

    reason: str

    def __str__(self) -> str:
        return f"no scores: {self.reason}"


@gin.configurable(denylist=["source", "strategy"])
def if_installed(
    source: Source,
    strategy: tf.distribute.Strategy,
    evaluator: Callable[[Source, tf.distribute.Strategy], Any] = gin.REQUIRED,
) -> Any:
    """The evaluator, or `Unscored` if a package that it needs is not installed.

    A base file chooses `train.evaluator = @if_installed`: a run then goes on without scores, and
    its plan and its run.json say so. An evaluator that is chosen directly must be there.

    Args:
        source: data of the training.
        strategy: strategy of the training.
        evaluator: makes the evaluator, such as `@Evaluator`.
    """
    check_function("if_installed.evaluator", evaluator)
    try:
        return evaluator(source, strategy)
    except NotInstalledError as error:
        return Unscored(config.message_of(error) or str(error))


@dataclasses.dataclass(frozen=True)
class ScoringSettings:
    """How a run is scored; see `Training`, whose settings these are."""

    evaluator: Callable | None
    every: int | None
    best_by: str | None
    patience: int | None

    def __post_init__(self) -> None:
        """Makes the checks that do not need the evaluator."""
        if self.evaluator is not None:
            check_function("train.evaluator", self.evaluator)
            check_positive("train.evaluate_every", self.every)
        elif (self.every, self.best_by, self.patience) != (None, None, None):
            raise InputError(
                "train.evaluate_every, train.best_by and train.patience need scores: set "
                "train.evaluator, e.g. to @Evaluator."
            )

    def remarks(self, total_steps: int) -> list[str]:
        """A sentence if the training is too short to be scored before its end."""
        if self.every is None or self.every <= total_steps:
            return []
        return [
            f"train.evaluate_every = {self.every} is more than the {total_steps} steps of the "
            "training: it is scored once, at its end."
        ]

    def scoring(
        self, source: Source, strategy: tf.distribute.Strategy
    ) -> "Scoring | Unscored | None":
        """The `Scoring`, or None without an evaluator; loads what the evaluator needs."""
        if self.evaluator is None:
            return None
        assert self.every is not None  # It was checked above.
        evaluator = self.evaluator(source, strategy)
        if isinstance(evaluator, Unscored):
            return evaluator
        return Scoring(evaluator, self.every, self.best_by, self.patience)


class Scoring:
    """Scores a run with an evaluator and keeps the history of the scores.

    An evaluator is a callable `gan -> {name: number, ..., "protocol": protocol}` with three
    members: `metrics`, a dictionary from the name of each score to `min` or `max`, the function
    that finds its best value; `prepare()`; and `protocol`, a dictionary that is known after
    `prepare()`.
    """

    def __init__(
        self,
        evaluator: Any,
        every: int,
        best_by: str | None = None,
        patience: int | None = None,
    ) -> None:
        """Checks the settings against the evaluator.

        Args:
            evaluator: see the class.
            every: steps between evaluations.
            best_by: the metric that marks the best checkpoint. None marks no checkpoint.
            patience: the run ends after this number of evaluations in a row without a new best.
                None does not end it.
        """
        if best_by is not None and best_by not in evaluator.metrics:
            raise InputError(
                f"train.best_by = {best_by!r} is not one of the scores of train.evaluator: "
                f"{', '.join(evaluator.metrics)}. Choose one of these, or add it to "
                "Evaluator.metrics."
            )
        if patience is not None:
            check_positive("train.patience", patience)
            if best_by is None:
                raise InputError("train.patience waits for a better score: set train.best_by.")
        self.evaluator = evaluator
        self.every = every
        self._best_by = best_by
        self._patience = patience
        self._history: list[tuple[Any, int]] = []  # (cost, step)

    def __str__(self) -> str:
        text = f"every {self.every} steps, {self.evaluator}"
        if self._best_by is not None:
            text += f"; the checkpoint with the best {self._best_by} is kept"
        if self._patience is not None:
            text += f"; the run ends after {self._patience} evaluations without a better one"
        return text

    def recall(self, path: pathlib.Path, step: int) -> None:
        """Reads the history of this protocol up to a step from `path`, evaluations.jsonl.

        Scores that the evaluate command added at other steps do not count.
        """
        costs = {
            record["step"]: self.cost(record)
            for record in self._records(path)
            if record["step"] <= step
        }
        self._history = [(costs[at], at) for at in sorted(costs) if at % self.every == 0]

    def best(self, path: pathlib.Path) -> dict[str, dict[str, Any]]:
        """The best value of each score of this protocol in `path`, evaluations.jsonl.

        Returns:
            {name: {"value": number, "step": int}}, with the earliest step of equal values.
        """
        records = self._records(path)
        found = {}
        for name, best in self.evaluator.metrics.items():
            scores = [(r[name], r["step"]) for r in records if r.get(name) is not None]
            if scores:
                value = best(value for value, _ in scores)
                step = min(step for other, step in scores if other == value)
                found[name] = {"value": value, "step": step}
        return found

    def _records(self, path: pathlib.Path) -> list[dict[str, Any]]:
        """The records of this protocol in `path`."""
        self.evaluator.prepare()
        own = json.loads(json.dumps(self.evaluator.protocol))  # As it is read: no tuples.
        return [record for record in read_json_lines(path) if record.get("protocol") == own]

    def score(self, gan: GAN, step: int) -> dict[str, Any]:
        """Scores a `GAN` at a step.

        Returns:
            The evaluator's result, `{name: number, ..., "protocol": dictionary}`.
        """
        scores = self.evaluator(gan)
        self._history.append((self.cost(scores), step))
        return scores

    def cost(self, scores: dict[str, Any]) -> float | None:
        """The number that chooses the best checkpoint, lower is better; None without `best_by`."""
        if self._best_by is None:
            return None
        value = scores.get(self._best_by)
        if value is None:  # It was not finite.
            return math.inf
        return -value if self.evaluator.metrics[self._best_by] is max else value

    @property
    def stop_reason(self) -> str | None:
        """Why the run should end now, or None."""
        if self._patience is None or not self._history:
            return None
        costs = [math.inf if math.isnan(cost) else cost for cost, _ in self._history]
        best = costs.index(min(costs))
        if len(costs) - 1 - best < self._patience:
            return None
        return (
            f"{self._best_by} has not been better than at step {self._history[best][1]} in the "
            f"last {len(costs) - 1 - best} evaluations; train.patience allows no more"
        )
