"""Gradual magnitude pruning (Zhu & Gupta 2017): dense at first, sparser by a schedule of tfmot.

Schedules are made by functions `(total_steps, update_interval) -> tfmot schedule`. A tfmot schedule
is called on int steps [n] and returns whether to prune, bool, and the sparsity, float32, each [n]
or a scalar. It needs tfmot: `pip install stugan_tf[pruning]`.

The paper leaves open whether all layers have the same sparsity, as in tfmot (`prune_per_layer`, our
default), or are ranked together (`prune_globally`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters.tensorflow_internals import pruning_schedules
from stugan_tf.checks import check_fraction, check_function, check_positive
from stugan_tf.contracts import Trial
from stugan_tf.errors import InputError
from stugan_tf.signatures import Criterion
from stugan_tf.sparsity import criteria
from stugan_tf.sparsity.rule import TopologyRule, TrainingState
from stugan_tf.sparsity.topology import check_update, prune_per_layer


@gin.configurable(denylist=["total_steps", "update_interval"])
def polynomial_sparsity(
    total_steps: int,
    update_interval: int,
    initial: float = 0.0,
    final: float = 0.95,
    begin: float = 0.0,
    end: float = 0.75,
    power: float = 3,
) -> Any:
    """PolynomialDecay of tfmot: s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^power.

    Args:
        total_steps: generator steps of the training.
        update_interval: steps between prunings, tfmot's `frequency`.
        initial: s_i, the sparsity at `begin`.
        final: s_f, the sparsity from `end` on.
        begin: t_0 as a fraction of the training.
        end: t_1 as a fraction of the training. It is moved back to the last pruning before it, so
            that s_f is reached.
        power: 3 in the paper.

    Raises:
        InputError: if a value is impossible, or tfmot is not installed.
    """
    check_fraction("polynomial_sparsity.initial", initial)
    check_fraction("polynomial_sparsity.final", final, "Write 0.9 for 90% sparse.")
    begin_step, end_step = _steps("polynomial_sparsity", total_steps, begin, end)
    num_updates = max(1, (end_step - begin_step) // update_interval)
    end_step = begin_step + num_updates * update_interval
    return _tfmot().PolynomialDecay(
        initial, final, begin_step, end_step, power=power, frequency=update_interval
    )


@gin.configurable(denylist=["total_steps", "update_interval"])
def constant_sparsity(
    total_steps: int, update_interval: int, final: float = 0.95, begin: float = 0.5
) -> Any:
    """ConstantSparsity of tfmot: dense until `begin`, then pruned once.

    Args:
        total_steps: generator steps of the training.
        update_interval: steps between prunings. The network is pruned at `begin`, or after
            `update_interval` steps if `begin` is 0.
        final: the sparsity from `begin` on.
        begin: the start as a fraction of the training.

    Raises:
        InputError: if a value is impossible, or tfmot is not installed.
    """
    check_fraction("constant_sparsity.final", final, "Write 0.9 for 90% sparse.")
    begin_step, _ = _steps("constant_sparsity", total_steps, begin, 1.0)
    return _tfmot().ConstantSparsity(final, begin_step, frequency=update_interval)


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
@dataclasses.dataclass(frozen=True)
class GradualPruning(TopologyRule):
    """Prunes a network step by step. Pruned weights stay zero.

    Attributes:
        schedule: `(total_steps, update_interval) -> tfmot schedule`, such as
            `polynomial_sparsity`. Steps are counted from 1. If the sparsity does not rise at a
            step, there is no update.
        update_interval: generator steps between prunings; tfmot's default is 100.
        drop_scores: `(weight, gradient, seed) -> scores`; the smallest are dropped.
        update: `(masks, scores, amount) -> (masks, kept)`, where amount is the sparsity.
            With `prune_per_layer` each layer has the sparsity of the schedule, with
            `prune_globally` only the network as a whole.
        gradient_momentum: see `TopologyRule`.

    Raises:
        InputError: if a value is impossible, or a function breaks its contract.
    """

    schedule: Callable[..., Any] = polynomial_sparsity
    update_interval: int = 100
    drop_scores: Criterion = criteria.magnitude
    update: Callable[..., Any] = prune_per_layer
    gradient_momentum: float = 0.0
    _tables: dict[int, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Checks the values."""
        check_positive("GradualPruning.update_interval", self.update_interval)
        check_fraction("GradualPruning.gradient_momentum", self.gradient_momentum)
        check_function("GradualPruning.schedule", self.schedule)
        criteria.check_criterion("GradualPruning.drop_scores", self.drop_scores)
        check_update("GradualPruning.update", self.update, 0.5)

    def _updates(self, total_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the updates, ascending, and the scheduled sparsity after each."""
        if total_steps not in self._tables:
            prunes, sparsities = self._scheduled(total_steps)
            wanted = np.where(prunes, sparsities.astype(np.float64), 0.0)
            sparser = wanted > np.maximum.accumulate(np.concatenate([[0.0], wanted[:-1]]))
            self._tables[total_steps] = np.flatnonzero(sparser) + 1, wanted[sparser]
        return self._tables[total_steps]

    def _scheduled(self, total_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Whether to prune, bool, and the sparsity, at steps 1 to `total_steps`, as arrays."""
        trial = Trial(
            "GradualPruning.schedule",
            self.schedule,
            "`(total_steps, update_interval) -> schedule`, which takes int steps [n] and returns "
            "whether to prune and the sparsity in [0, 1), each [n] or a scalar",
        )
        schedule = trial.of(total_steps=total_steps, update_interval=self.update_interval)
        found = trial._replace(function=schedule).of(steps=tf.range(1, total_steps + 1))
        try:
            prunes, sparsities = (np.broadcast_to(values, [total_steps]) for values in found)
        except (TypeError, ValueError) as error:
            raise trial.refusal(f"what the schedule returned does not fit: {error}") from None
        wanted = sparsities[prunes.astype(bool)]
        if not np.all((wanted >= 0) & (wanted < 1)):
            raise trial.refusal(f"its sparsities go from {min(wanted):.4g} to {max(wanted):.4g}")
        return prunes, sparsities

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether the network becomes sparser at generator step `step`, counted from 1."""
        return self.next_due(step - 1, total_steps) == step

    def next_due(self, step: int, total_steps: int) -> int | None:
        """The first step after `step` at which the network becomes sparser, or None."""
        steps, _ = self._updates(total_steps)
        index = np.searchsorted(steps, step, side="right")
        return int(steps[index]) if index < len(steps) else None

    def num_updates(self, total_steps: int) -> int:
        """How often the network becomes sparser in `total_steps` generator steps."""
        return len(self._updates(total_steps)[0])

    def sparsity_after(self, step: int, total_steps: int) -> float:
        """The scheduled sparsity after generator step `step`; 0 before the first update."""
        steps, sparsities = self._updates(total_steps)
        index = np.searchsorted(steps, step, side="right")
        return float(sparsities[index - 1]) if index else 0.0

    def amount(self, state: TrainingState) -> float:
        """The sparsity to reach."""
        return self.sparsity_after(state.step, state.total_steps)

    def description(self, total_steps: int, progress: Callable[[int], float]) -> str:
        """One line: the first and the last pruning, and the sparsities they reach."""
        steps, sparsities = self._updates(total_steps)
        if not len(steps):
            return super().description(total_steps, progress)
        return (
            f"pruned in {len(steps)} topology updates from step {steps[0]} to {steps[-1]}, "
            f"from sparsity {sparsities[0]:.4g} to {sparsities[-1]:.4g}"
        )


def _steps(name: str, total_steps: int, begin: float, end: float) -> tuple[int, int]:
    if not 0 <= begin <= end <= 1:
        raise InputError(
            f"{name} must begin and end within the training, as fractions 0 <= begin <= end <= 1, "
            f"got {begin} and {end}."
        )
    return int(begin * total_steps), int(end * total_steps)


def _tfmot() -> Any:
    """The module of tfmot's schedules."""
    try:
        return pruning_schedules()
    except ImportError as error:
        raise InputError(
            "Gradual pruning takes its schedules from tensorflow_model_optimization, which cannot "
            f"be imported ({error}). Install it: pip install 'stugan_tf[pruning]'."
        ) from error
