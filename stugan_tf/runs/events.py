"""What happens every so many steps of a run: an object for each thing, all with one interface.

The loop runs steps until the next event, then lets all that are due act, in the order of their
list. They pass on what they found in the `RunState`: trackers, which come last but for the saving,
show it elsewhere (`runs.trackers`).
"""

import dataclasses
import math
import numbers
import pathlib
import time

import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_natural, check_positive
from stugan_tf.files import JsonLines
from stugan_tf.images import image_grid, write_png
from stugan_tf.latents import class_rows
from stugan_tf.progress import ProgressBar
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.exploration_rate import churn, exploration_rate
from stugan_tf.sparsity.sparsify import count_weights

MOST_ROWS = 16  # of classes in a sample grid; of more it shows some, drawn at random
# What is worth a place on the line of progress, and its name in the paper.
SHOWN = {
    "d_loss": "d_loss",
    "g_loss": "g_loss",
    "generator_sparsity": "s_G",
    "discriminator_sparsity": "s_D",
}


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How often what happens; see `Training`, whose settings these are."""

    steps_per_execution: int
    log_every: int
    sample_every: int
    num_samples: int
    checkpoint_every: int
    checkpoint_minutes: float
    keep_checkpoints: int
    max_rollbacks: int

    def __post_init__(self):
        """Checks the values."""
        for name, value in dataclasses.asdict(self).items():
            check = {"checkpoint_minutes": check_above_zero, "max_rollbacks": check_natural}
            check.get(name, check_positive)(f"train.{name}", value)


@dataclasses.dataclass
class RunState:
    """Where a run stands, and what was found since the loop stopped last.

    Attributes:
        step: generator steps done.
        total_steps: of the whole run.
        workdir: `pathlib.Path` of the folder to write to.
        config: the configuration as text.
        label: what the run is called where its progress is shown, or ''.
        sparsities: {'generator_sparsity': number, ...} of the masks as they are.
        topology: numbers of topology updates by name; what is before `/` in a name groups them.
        scores: what the evaluator returned, or None.
        cost: the score by which the best checkpoint is chosen, lower is better; None if there are
            no scores or none is chosen by.
        samples: a sample grid, uint8 [H, W, C], or None.
        metrics: means since the last log point by name, or None.
        stopping: whether the run was asked to stop.
        signal_number: the signal that asked this worker, or None.
        ended: whether the run ends before its last step.
        status: how it ends: 'finished', 'interrupted', 'rolled back' or 'failed', which it is
            unless it is known better.
        message: how it began, in words.
        progress: the `ProgressBar`, once there is one.
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

    def say(self, message):
        """Tells a person what happened, on a line of its own."""
        self.progress.message(f"step {self.step}: {message}")

    def advance(self, step):
        """Notes that the loop stopped after `step`, where nothing was found yet."""
        self.step, self.topology = step, {}
        self.scores = self.cost = self.samples = self.metrics = None

    @property
    def numbers(self):
        """All that was found and is a number, by names such as 'training/d_loss'."""
        found = {f"training/{name}": value for name, value in (self.metrics or {}).items()}
        found |= {f"evaluation/{name}": value for name, value in score_numbers(self.scores).items()}
        for name, value in self.topology.items():
            found[name if "/" in name else f"training/{name}"] = float(value)
        return found


def score_numbers(scores):
    """What of an evaluation's result is a number, by name."""
    scores = scores or {}
    return {name: value for name, value in scores.items() if isinstance(value, numbers.Real)}


class NotFiniteError(Exception):
    """A loss, gradient or weight is not finite."""


class Event:
    """Something that happens in a run; does nothing by itself.

    The same object is used again after a rollback: `begin` starts from where the state is.
    """

    def begin(self, state):
        """Before the first step; forgets what a killed process noted after `state.step`."""

    def next_due(self, step):
        """The first step after `step` at which the loop has to stop for it, or None."""
        del step

    def before(self, step):
        """Before the steps up to `step` run, after which the loop stops."""

    def is_due(self, state):
        """Whether it is to act after `state.step`."""
        del state
        return True

    def act(self, state):
        """Does it."""

    def close(self, state):
        """After the last step; `state.status` says how it came to that."""


class Periodic(Event):
    """Acts at all multiples of a number of steps, and after the last step."""

    def __init__(self, every):
        """Notes how many steps."""
        self._every = every

    def next_due(self, step):
        """The next multiple."""
        return step - step % self._every + self._every

    def is_due(self, state):
        """At multiples and after the last step."""
        return state.step % self._every == 0 or state.step == state.total_steps


class Progress(Event):
    """A bar on a terminal, lines elsewhere; comes before all that have something to say."""

    def begin(self, state):
        """Says how the run began."""
        self._step = state.step
        state.progress = ProgressBar(
            state.total_steps, "step", state.label, state.step, seconds=None, leave=True
        )
        state.say(state.message)

    def act(self, state):
        """Moves the bar."""
        state.progress.advance(state.step - self._step)
        self._step = state.step

    def close(self, state):
        """Leaves the bar as it stands."""
        state.progress.close()


class Health(Event):
    """Ends a run whose losses or gradients are not finite."""

    def __init__(self, steps):
        """Notes the `Steps` that watch them."""
        self._steps = steps

    def act(self, state):
        """Raises NotFiniteError at the first such value."""
        found = self._steps.first_bad()
        if found is not None:
            step, what = found
            raise NotFiniteError(f"At step {step}, {what} was not finite.")


class TopologyUpdates(Event):
    """What topology updates do: drop fraction, churn, R_s and density, also per layer."""

    def __init__(self, algorithm, gan, players):
        """Notes what is updated.

        Args:
            algorithm: an `Algorithm`.
            gan: the `GAN`.
            players: {name of a network: its `Player`}.
        """
        self._algorithm, self._gan, self._players = algorithm, gan, players
        self._former = {}

    def begin(self, state):
        """Measures the masks as they are."""
        for name in self._gan.networks:
            self._measure(state, name)

    def next_due(self, step):
        """The next step that changes a topology."""
        return self._algorithm.next_topology_update(step)

    def before(self, step):
        """Keeps the masks that `step` changes."""
        changes = self._algorithm.changes_topology(step)
        self._former = {
            name: [tf.identity(layer.kernel_mask.value) for layer in player.explorer.layers]
            for name, player in self._players.items()
            if changes[name]
        }

    def is_due(self, state):
        """After steps that change a topology."""
        return bool(self._former)

    def act(self, state):
        """Compares the masks with those before."""
        for name, masks in self._former.items():
            state.topology |= self._changes(name, masks)
            fraction = self._algorithm.drop_fraction(name, state.step)
            if fraction is not None:
                state.topology[f"{name}_drop_fraction"] = fraction
            self._measure(state, name)

    def _measure(self, state, name):
        sparsity = count_weights(self._gan.networks[name]).sparsity
        state.sparsities[f"{name}_sparsity"] = sparsity

    def _changes(self, name, former_masks):
        explorer = self._players[name].explorer
        rates, _ = exploration_rate(explorer.ever_active)
        masks = [layer.kernel_mask.value for layer in explorer.layers]
        flat = [tf.concat([tf.reshape(m, [-1]) for m in ms], 0) for ms in (former_masks, masks)]
        values = {f"{name}_churn/total": churn(*flat)}
        for layer, rate, former, mask in zip(
            explorer.layers, rates, former_masks, masks, strict=True
        ):
            values[f"{name}_exploration_rate/{layer.name}"] = rate
            values[f"{name}_churn/{layer.name}"] = churn(former, mask)
            values[f"{name}_density/{layer.name}"] = tf.reduce_mean(mask)
        return values


class Evaluations(Periodic):
    """Scores, in `evaluations.jsonl`."""

    def __init__(self, scoring, gan):
        """Notes the `Scoring` of a `GAN`; None never scores."""
        super().__init__(scoring.every if scoring else None)
        self._scoring, self._gan = scoring, gan

    def begin(self, state):
        """Opens the file."""
        self._file = JsonLines(state.workdir / "evaluations.jsonl", state.step)

    def next_due(self, step):
        """The next multiple, if there are scores."""
        return super().next_due(step) if self._scoring else None

    def is_due(self, state):
        """At multiples and after the last step, if there are scores."""
        return self._scoring is not None and super().is_due(state)

    def act(self, state):
        """Scores, and says the numbers."""
        state.scores = self._scoring.score(self._gan, state.step)
        state.cost = self._scoring.cost(state.scores)
        self._file.append({"step": state.step, **state.scores})
        found = score_numbers(state.scores)
        state.say("  ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def close(self, state):
        """Closes the file."""
        self._file.close()


class SampleGrids(Periodic):
    """Images of the averaged generator for latents that never change, in `samples/`."""

    def __init__(self, gan, every, num_samples, seed):
        """Notes what is drawn.

        Args:
            gan: the `GAN`.
            every: steps between grids.
            num_samples: images of a grid.
            seed: of the run.
        """
        super().__init__(every)
        self._gan, self._num_samples, self._seed = gan, num_samples, seed

    @property
    def columns(self):
        """Images in a row of a grid that has a row for each class, else None."""
        num_classes = self._gan.num_classes
        has_rows = self._gan.conditional and num_classes <= min(MOST_ROWS, self._num_samples)
        return self._num_samples // num_classes if has_rows else None

    def images(self):
        """The images, float [n, H, W, C].

        If there are few classes, a row of each, all of the same latents.
        """
        rows = self._gan.num_classes
        num_drawn = self.columns or self._num_samples
        seed = fold((self._seed, 0), Purpose.SAMPLES)
        latents, labels = draw_latents(num_drawn, self._gan.latent_dim, rows, seed)
        if self.columns:
            latents, labels = map(tf.constant, class_rows(latents.numpy(), range(rows)))
        return self._gan.generate(latents, labels, training=False, averaged=True).numpy()

    def act(self, state):
        """Writes a grid."""
        state.samples = image_grid(self.images(), self.columns)
        write_png(state.workdir / "samples" / f"step_{state.step:08d}.png", state.samples)


class Log(Periodic):
    """Means of the losses and what else is measured, in `metrics.jsonl`."""

    def __init__(self, steps, every):
        """Notes the `Steps` that measure, and the steps between log points."""
        super().__init__(every)
        self._steps = steps

    def begin(self, state):
        """Opens the file."""
        self._file = JsonLines(state.workdir / "metrics.jsonl", state.step)

    def act(self, state):
        """Writes a line."""
        values = {**self._steps.pop_metrics(), **state.sparsities, **self._exploration_rates()}
        state.metrics = {name: float(value) for name, value in values.items()}
        self._file.append({"step": state.step, "time": round(time.time(), 3), **state.metrics})
        shown = {label: state.metrics[n] for n, label in SHOWN.items() if n in state.metrics}
        state.progress.show(shown)

    def _exploration_rates(self):
        """R_s of the networks that explore."""
        return {
            f"{name}_exploration_rate": exploration_rate(player.explorer.ever_active)[1]
            for name, player in self._steps.players.items()
            if player.rule is not None
        }

    def close(self, state):
        """Closes the file."""
        self._file.close()


class StopRequests(Event):
    """Whether a signal, to this or another worker, asked the run to stop."""

    def __init__(self, interruption, agree):
        """Notes whom to ask.

        Args:
            interruption: an `Interruption` that is open.
            agree: function of a bool, whether it is true on any worker.
        """
        self._interruption, self._agree = interruption, agree

    def act(self, state):
        """Asks."""
        state.signal_number = self._interruption.signal_number
        state.stopping = self._agree(state.signal_number is not None)


class Saving(Periodic):
    """Checkpoints: at multiples, with scores, when asked to stop, and when one is overdue."""

    def __init__(self, checkpoints, gan, every, minutes):
        """Notes where and how often.

        Args:
            checkpoints: `Checkpoints` of all state.
            gan: the `GAN`.
            every: steps between checkpoints.
            minutes: the most between checkpoints.
        """
        super().__init__(every)
        self._checkpoints, self._gan, self._seconds = checkpoints, gan, 60 * minutes
        self._saved_at = math.inf

    def begin(self, state):
        """From now on the time counts."""
        self._saved_at = time.monotonic()

    def is_due(self, state):
        """See the class."""
        overdue = time.monotonic() - self._saved_at > self._seconds
        return super().is_due(state) or overdue or state.stopping or state.cost is not None

    def act(self, state):
        """Saves. Raises NotFiniteError rather than save weights that are not finite."""
        # A step may have overflowed them with a gradient still finite.
        for name, network in self._gan.networks.items():
            for variable in network.trainable_variables:
                if not tf.reduce_all(tf.math.is_finite(variable.value)):
                    raise NotFiniteError(
                        f"At step {state.step}, the {name}'s {variable.path} was not finite."
                    )
        self._checkpoints.save(state.step, state.cost)
        self._saved_at = time.monotonic()


class EarlyEnd(Event):
    """Ends a run whose scores do not get better."""

    def __init__(self, scoring, agree):
        """Notes the `Scoring`, or None, and `agree` as `StopRequests` has it."""
        self._scoring, self._agree = scoring, agree

    def begin(self, state):
        """A run that is resumed may be over."""
        self.act(state)

    def is_due(self, state):
        """After scores by which the best checkpoint is chosen."""
        return state.cost is not None

    def act(self, state):
        """Says why, if it ends."""
        reason = self._scoring and self._scoring.stop_reason
        if reason:
            state.say(f"ends early: {reason}")
        state.ended = self._agree(bool(reason))
