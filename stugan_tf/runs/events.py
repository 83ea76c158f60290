"""What happens every few steps of a run: one object for each thing, all with one interface.

The loop runs steps until the next event is due. Then all events that are due act, in the order of
their list, and put what they found into the `RunState`. Trackers come late in the list and show
what the events before them found (`runs.trackers`).
"""

import contextlib
import dataclasses
import math
import numbers
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_natural, check_positive
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import JsonLines
from stugan_tf.images import write_png
from stugan_tf.progress import ProgressBar, duration
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.interruption import Interruption
from stugan_tf.runs.scoring import Scoring
from stugan_tf.sparsity.exploration_rate import churn, exploration_rate
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.player import Player
from stugan_tf.training.samples import Samples
from stugan_tf.training.steps import Steps

# The numbers on the line of progress, with their short names; the first have them from the paper.
SHOWN = {
    "d_loss": "d_loss",
    "g_loss": "g_loss",
    "generator_sparsity": "s_G",
    "discriminator_sparsity": "s_D",
    "images_per_second": "img/s",
    "device_memory_peak_gib": "GiB",
}

# What `steps` are made of: one compiled computation, which is not taken apart.
_IN_WORDS = {"steps": "steps (data, D and G)"}
# Numbers in the log that depend on the machine and on what else it does.
_OF_MACHINE = ("time", "steps_per_second", "images_per_second", "device_memory_peak_gib")


def is_of_machine(name: str) -> bool:
    """Whether a number in `metrics.jsonl` depends on the machine; all others are repeatable."""
    return name in _OF_MACHINE or name.startswith("seconds/")


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How often each thing happens. These are settings of `Training`, which explains them."""

    steps_per_execution: int
    log_every: int
    sample_every: int
    num_samples: int
    checkpoint_every: int
    checkpoint_minutes: float
    keep_checkpoints: int
    max_rollbacks: int

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value in dataclasses.asdict(self).items():
            check = {"checkpoint_minutes": check_above_zero, "max_rollbacks": check_natural}
            check.get(name, check_positive)(f"train.{name}", value)


@dataclasses.dataclass
class RunState:
    """Where a run stands, and what the events found at this stop of the loop.

    Attributes:
        step: generator steps done.
        total_steps: generator steps of the whole run.
        workdir: `pathlib.Path` of the folder to write to.
        config: the configuration as text.
        label: name of the run where its progress is shown, or ''.
        sparsities: {'generator_sparsity': number, ...} of the present masks.
        topology: numbers about topology updates by name; the part before `/` names their group.
        scores: the evaluator's result, or None.
        cost: the number that chooses the best checkpoint, lower is better; None without scores or
            without `train.best_by`.
        samples: a sample grid, uint8 [H, W, C], or None.
        metrics: means since the last log point by name, or None.
        stopping: whether the run was asked to stop.
        signal_number: the signal that this worker received, or None.
        ended: whether the run ends before its last step.
        status: how the run ends: 'finished', 'interrupted', 'rolled back' or 'failed', the default.
        message: how the run began, in words.
        progress: the `ProgressBar`; None before the run begins.
        seconds: the time spent on each part of the work since `begin`, by name, see `Event.part`.
    """

    step: int
    total_steps: int
    workdir: pathlib.Path
    config: str
    label: str = ""
    sparsities: dict = dataclasses.field(default_factory=dict)
    topology: dict = dataclasses.field(default_factory=dict)
    scores: dict | None = None
    cost: float | None = None
    samples: np.ndarray | None = None
    metrics: dict | None = None
    stopping: bool = False
    signal_number: int | None = None
    ended: bool = False
    status: str = "failed"
    message: str = "started"
    progress: ProgressBar | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def say(self, message: str) -> None:
        """Prints a line for the user."""
        assert self.progress is not None
        self.progress.message(f"step {self.step}: {message}")

    def advance(self, step: int) -> None:
        """Moves on to a stop after `step`, and forgets what was found at the stop before."""
        self.step, self.topology = step, {}
        self.scores = self.cost = self.samples = self.metrics = None

    def spend(self, part: str, seconds: float) -> None:
        """Adds to the time spent on a part of the work."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def time_in_words(self) -> str:
        """How the time since `begin` was spent, the largest part first."""
        total = sum(self.seconds.values())
        parts = sorted(self.seconds.items(), key=lambda part: -part[1])
        shares = [f"{_IN_WORDS.get(name, name)} {seconds / total:.0%}" for name, seconds in parts]
        known = [share for share in shares if not share.endswith(" 0%")]
        return f"{duration(total)} of work: {', '.join(known)}"

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers that the events found, by names such as 'training/d_loss'."""
        scores = {f"evaluation/{name}": value for name, value in score_numbers(self.scores).items()}
        return {**_grouped(self.metrics or {}), **scores, **_grouped(self.topology)}


def _grouped(values: dict[str, Any]) -> dict[str, float]:
    """Numbers by names with a group, which is `training` for names without one."""
    return {
        name if "/" in name else f"training/{name}": float(value) for name, value in values.items()
    }


def score_numbers(scores: dict[str, Any] | None) -> dict[str, Any]:
    """The numbers in an evaluation's result, by name."""
    scores = scores or {}
    return {name: value for name, value in scores.items() if isinstance(value, numbers.Real)}


class NotFiniteError(Exception):
    """A loss, gradient or weight is not finite."""


class Event:
    """Something that happens in a run. This base class does nothing.

    After a rollback the same object begins again, at the step of the state.

    Attributes:
        part: what the time of `act` counts as: "scores", "samples", ...; None if the event counts
            time itself.
    """

    part: str | None = "log"

    def begin(self, state: RunState) -> None:
        """Called before the first step; drops what a killed process wrote after `state.step`."""

    def next_due(self, step: int) -> int | None:
        """The first step after `step` at which the loop must stop for this event, or None."""
        del step
        return None

    def before(self, step: int) -> None:
        """Called before the loop runs on to its next stop, after `step`."""

    def is_due(self, state: RunState) -> bool:
        """Whether the event acts after `state.step`."""
        del state
        return True

    def act(self, state: RunState) -> None:
        """Called at a stop of the loop if the event is due."""

    def happen(self, state: RunState) -> None:
        """Acts if it is due, and counts the time."""
        if not self.is_due(state):
            return
        began = time.monotonic()
        self.act(state)
        if self.part:
            state.spend(self.part, time.monotonic() - began)

    def close(self, state: RunState) -> None:
        """Called after the last step; `state.status` says how the run ended."""


class Periodic(Event):
    """Acts at all multiples of a number of steps, and after the last step."""

    def __init__(self, every: int) -> None:
        """Keeps the number of steps."""
        self._every = every

    def next_due(self, step: int) -> int | None:
        """The next multiple."""
        return step - step % self._every + self._every

    def is_due(self, state: RunState) -> bool:
        """Due at multiples and after the last step."""
        return state.step % self._every == 0 or state.step == state.total_steps


class Progress(Event):
    """A bar on a terminal, lines elsewhere. It must come before events that print something.

    Steps before which something was compiled do not count for the time that is left. It comes after
    `Health`, which waits for the steps.
    """

    def __init__(self, steps: Steps) -> None:
        """Keeps the `Steps`, which are timed."""
        self._steps = steps

    def begin(self, state: RunState) -> None:
        """Says how the run began, and what comes before the first step."""
        self._step = state.step
        self._began = time.monotonic(), self._steps.num_traces
        state.progress = ProgressBar(
            state.total_steps, "step", state.label, state.step, seconds=None, leave=True
        )
        state.say(state.message)
        if not self._steps.num_traces and state.step < state.total_steps:
            state.say("compiling the updates: the next step takes longer")

    def before(self, step: int) -> None:
        """Looks at the clock."""
        del step
        self._began = time.monotonic(), self._steps.num_traces

    def act(self, state: RunState) -> None:
        """Moves the bar."""
        assert state.progress is not None
        at, num_traces = self._began
        has_compiled = self._steps.num_traces > num_traces
        left_out = time.monotonic() - at if has_compiled else 0.0
        state.progress.advance(state.step - self._step, left_out)
        self._step = state.step

    def close(self, state: RunState) -> None:
        """Leaves the bar as it is."""
        assert state.progress is not None
        state.progress.close()


class Health(Event):
    """Ends a run whose losses or gradients are not finite."""

    part = None  # It waits for the steps, which `Speed` times.

    def __init__(self, steps: Steps) -> None:
        """Keeps the `Steps`, which watch the values."""
        self._steps = steps

    def act(self, state: RunState) -> None:
        """Raises NotFiniteError if a value was not finite, and names the first."""
        found = self._steps.first_bad()
        if found is not None:
            step, what = found
            raise NotFiniteError(f"At step {step}, {what} was not finite.")


class Speed(Event):
    """Measures how fast the run trains. It comes after `Health`, which waits for the steps.

    Only steps count for the speed: no score, sample or checkpoint. Steps before which something was
    compiled are left out.

    The time of the steps is `steps`, `topology` and `compilation` in the times of a run. An update
    of both networks, with the wait for its batches, is one compiled computation, so `steps` is one
    number. `compilation` includes the steps that waited for it.
    """

    part = None

    def __init__(self, steps: Steps, images_per_step: int) -> None:
        """Keeps what is measured.

        Args:
            steps: the `Steps`, which are timed.
            images_per_step: the number of real images that the discriminator sees in a step.
        """
        self._steps, self._images_per_step = steps, images_per_step

    def begin(self, state: RunState) -> None:
        """Forgets what was measured."""
        self._step, self._at, self._before = state.step, 0.0, (0, 0.0)
        self._num_steps, self._seconds = 0, 0.0

    def before(self, step: int) -> None:
        """Looks at the clock."""
        del step
        self._before = self._steps.num_traces, self._steps.topology_seconds
        self._at = time.monotonic()

    def act(self, state: RunState) -> None:
        """Adds the steps since then."""
        seconds = time.monotonic() - self._at
        num_traces, topology_seconds = self._before
        if num_traces == self._steps.num_traces:
            self._num_steps += state.step - self._step
            self._seconds += seconds
            of_topology = self._steps.topology_seconds - topology_seconds
            state.spend("steps", seconds - of_topology)
            state.spend("topology", of_topology)
        else:
            state.spend("compilation", seconds)
        self._step = state.step

    def pop(self) -> dict[str, float]:
        """Steps and images a second since the last call; empty if no steps count."""
        speed = self._num_steps / self._seconds if self._seconds > 0 else 0.0
        self._num_steps, self._seconds = 0, 0.0
        if not speed:
            return {}
        return {"steps_per_second": speed, "images_per_second": speed * self._images_per_step}


class TopologyUpdates(Event):
    """Measures topology updates: drop fraction, churn, R_s and density, also for each layer."""

    part = "topology"

    def __init__(self, algorithm: Algorithm, gan: GAN, players: dict[str, Player]) -> None:
        """Keeps what is measured.

        Args:
            algorithm: an `Algorithm`.
            gan: the `GAN`.
            players: {name of a network: its `Player`}.
        """
        self._algorithm, self._gan, self._players = algorithm, gan, players
        self._former: dict[str, list[tf.Tensor]] = {}

    def begin(self, state: RunState) -> None:
        """Measures the present masks."""
        for name in self._gan.networks:
            self._measure(state, name)

    def next_due(self, step: int) -> int | None:
        """The next step that changes a topology."""
        return self._algorithm.next_topology_update(step)

    def before(self, step: int) -> None:
        """Keeps a copy of the masks that `step` changes."""
        changes = self._algorithm.changes_topology(step)
        self._former = {
            name: [tf.identity(layer.kernel_mask.value) for layer in player.explorer.masks]
            for name, player in self._players.items()
            if changes[name]
        }

    def is_due(self, state: RunState) -> bool:
        """Due after steps that change a topology."""
        return bool(self._former)

    def act(self, state: RunState) -> None:
        """Compares the masks with those before the update."""
        for name, masks in self._former.items():
            state.topology |= self._changes(name, masks)
            fraction = self._algorithm.drop_fraction(name, state.step)
            if fraction is not None:
                state.topology[f"{name}_drop_fraction"] = fraction
            self._measure(state, name)

    def _measure(self, state: RunState, name: str) -> None:
        state.sparsities |= self._gan.sparsities(name)

    def _changes(self, name: str, former_masks: list[tf.Tensor]) -> dict[str, Any]:
        explorer = self._players[name].explorer
        rates, _ = exploration_rate(explorer.ever_active)
        masks = [layer.kernel_mask.value for layer in explorer.masks]
        flat = [tf.concat([tf.reshape(m, [-1]) for m in ms], 0) for ms in (former_masks, masks)]
        values = {f"{name}_churn/total": churn(*flat)}
        for layer, rate, former, mask in zip(
            explorer.masks, rates, former_masks, masks, strict=True
        ):
            values[f"{name}_exploration_rate/{layer.name}"] = rate
            values[f"{name}_churn/{layer.name}"] = churn(former, mask)
            values[f"{name}_density/{layer.name}"] = tf.reduce_mean(mask)
        return values


class Evaluations(Periodic):
    """Scores the run and writes the scores to `evaluations.jsonl`."""

    part = "scores"

    def __init__(self, scoring: Scoring | None, gan: GAN) -> None:
        """Keeps the `Scoring` of a `GAN`; without one the run is not scored."""
        super().__init__(scoring.every if scoring else 1)
        self._scoring, self._gan = scoring, gan

    def begin(self, state: RunState) -> None:
        """Opens the file."""
        self._file = JsonLines(state.workdir / "evaluations.jsonl", state.step)

    def next_due(self, step: int) -> int | None:
        """The next multiple, if the run is scored."""
        return super().next_due(step) if self._scoring else None

    def is_due(self, state: RunState) -> bool:
        """Due at multiples and after the last step, if the run is scored."""
        return self._scoring is not None and super().is_due(state)

    def act(self, state: RunState) -> None:
        """Scores the GAN, writes the record and prints the scores."""
        assert self._scoring is not None
        state.scores = self._scoring.score(self._gan, state.step)
        state.cost = self._scoring.cost(state.scores)
        self._file.append({"step": state.step, **state.scores})
        found = score_numbers(state.scores)
        state.say("  ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def close(self, state: RunState) -> None:
        """Closes the file."""
        self._file.close()


class SampleGrids(Periodic):
    """Grids of images of the averaged generator in `samples/`, always of the same latents."""

    part = "samples"

    def __init__(self, gan: GAN, every: int, num_samples: int, seed: int) -> None:
        """Keeps the settings.

        Args:
            gan: the `GAN`.
            every: steps between grids.
            num_samples: the most images in a grid.
            seed: seed of the run.
        """
        super().__init__(every)
        self._samples = Samples(gan, num_samples, seed)

    def act(self, state: RunState) -> None:
        """Writes a grid."""
        state.samples = self._samples.grid()
        write_png(state.workdir / "samples" / f"step_{state.step:08d}.png", state.samples)


class Log(Periodic):
    """Writes means of the losses and other measurements to `metrics.jsonl`."""

    def __init__(self, steps: Steps, speed: Speed, every: int) -> None:
        """Keeps the settings.

        Args:
            steps: the `Steps`, which measure the losses.
            speed: an earlier event of the run.
            every: steps between log points.
        """
        super().__init__(every)
        self._steps, self._speed = steps, speed

    def begin(self, state: RunState) -> None:
        """Opens the file."""
        self._file = JsonLines(state.workdir / "metrics.jsonl", state.step)
        self._seconds = dict(state.seconds)

    def act(self, state: RunState) -> None:
        """Writes a line."""
        assert state.progress is not None
        values = {**self._steps.pop_metrics(), **state.sparsities, **self._exploration_rates()}
        state.metrics = {name: float(value) for name, value in values.items()}
        state.metrics |= {**self._speed.pop(), **self._times(state), **device_memory()}
        self._file.append({"step": state.step, "time": round(time.time(), 3), **state.metrics})
        shown = {label: state.metrics[n] for n, label in SHOWN.items() if n in state.metrics}
        state.progress.show(shown)

    def _times(self, state: RunState) -> dict[str, float]:
        """The seconds since the last log point, by part of the work."""
        former, self._seconds = self._seconds, dict(state.seconds)
        spent = {part: now - former.get(part, 0.0) for part, now in state.seconds.items()}
        return {f"seconds/{part}": round(seconds, 3) for part, seconds in spent.items()}

    def _exploration_rates(self) -> dict[str, Any]:
        """R_s of the networks whose topology changes."""
        return {
            f"{name}_exploration_rate": player.exploration_rate()
            for name, player in self._steps.players.items()
            if player.rule is not None
        }

    def close(self, state: RunState) -> None:
        """Closes the file."""
        self._file.close()


def device_memory() -> dict[str, float]:
    """The most memory that a GPU has had in use; empty where TensorFlow does not tell it."""
    peaks = []
    for device in tf.config.list_logical_devices("GPU"):
        with contextlib.suppress(ValueError):  # An allocator that keeps no count.
            peaks.append(tf.config.experimental.get_memory_info(device.name)["peak"])
    return {"device_memory_peak_gib": max(peaks) / 2**30} if peaks else {}


class StopRequests(Event):
    """Notes whether a signal, to this or another worker, asked the run to stop."""

    def __init__(self, interruption: Interruption, agree: Callable[[bool], bool]) -> None:
        """Keeps what it asks.

        Args:
            interruption: an open `Interruption`.
            agree: `flag -> whether it is true on any worker`.
        """
        self._interruption, self._agree = interruption, agree

    def act(self, state: RunState) -> None:
        """Asks this worker and the others."""
        state.signal_number = self._interruption.signal_number
        state.stopping = self._agree(state.signal_number is not None)


class Saving(Periodic):
    """Saves checkpoints: at multiples, with each score, before a stop, and when one is overdue."""

    part = "checkpoints"

    def __init__(self, checkpoints: Checkpoints, gan: GAN, every: int, minutes: float) -> None:
        """Keeps the settings.

        Args:
            checkpoints: `Checkpoints` of all state.
            gan: the `GAN`.
            every: steps between checkpoints.
            minutes: the most minutes between checkpoints.
        """
        super().__init__(every)
        self._checkpoints, self._gan, self._seconds = checkpoints, gan, 60 * minutes
        self._saved_at = math.inf

    def begin(self, state: RunState) -> None:
        """Starts the clock."""
        self._saved_at = time.monotonic()

    def is_due(self, state: RunState) -> bool:
        """Due as the class says."""
        overdue = time.monotonic() - self._saved_at > self._seconds
        return super().is_due(state) or overdue or state.stopping or state.cost is not None

    def act(self, state: RunState) -> None:
        """Saves a checkpoint, after a look at the weights.

        Raises:
            NotFiniteError: if a weight is not finite.
            FailedRun: if a weight outside a mask is not zero.
        """
        # A finite gradient can still overflow a weight.
        for name, network in self._gan.networks.items():
            for variable in network.trainable_variables:
                if not tf.reduce_all(tf.math.is_finite(variable.value)):
                    raise NotFiniteError(
                        f"At step {state.step}, the {name}'s {variable.path} was not finite."
                    )
        try:
            self._gan.check_zeros()
        except InputError as error:
            raise FailedRun(
                f"At step {state.step}: {error} Nothing was saved; the checkpoint before is intact."
            ) from error
        self._checkpoints.save(state.step, state.cost)
        self._saved_at = time.monotonic()

    def act_if_new(self, state: RunState) -> None:
        """Saves a checkpoint unless this step has one, which may hold a score."""
        if state.step not in self._checkpoints.steps():
            self.act(state)


class EarlyEnd(Event):
    """Ends a run whose scores do not get better."""

    def __init__(self, scoring: Scoring | None, agree: Callable[[bool], bool]) -> None:
        """Keeps the `Scoring`, or None, and `agree` as for `StopRequests`."""
        self._scoring, self._agree = scoring, agree

    def begin(self, state: RunState) -> None:
        """Ends a resumed run that has run out of patience before."""
        self.act(state)

    def is_due(self, state: RunState) -> bool:
        """Due after scores that can choose the best checkpoint."""
        return state.cost is not None

    def act(self, state: RunState) -> None:
        """Ends the run if its patience is over, and says why."""
        reason = self._scoring and self._scoring.stop_reason
        if reason:
            state.say(f"ends early: {reason}")
        state.ended = self._agree(bool(reason))
