"""Algorithm 1 over a whole training, with logs, samples, checkpoints and rollbacks."""

import contextlib
import dataclasses
import functools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import tensorflow as tf
from absl import logging

from stugan_tf import arithmetic
from stugan_tf.adapters.tensorflow_internals import has_several_workers
from stugan_tf.checks import check_bool, check_function, check_network_seed
from stugan_tf.data.inspection import Inspection
from stugan_tf.data.source import UNREADABLE, Source
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.layers.execution import check_execution
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.runs.events import (
    EarlyEnd,
    Evaluations,
    Health,
    Intervals,
    Log,
    NotFiniteError,
    Progress,
    RunState,
    SampleGrids,
    Saving,
    Speed,
    StopRequests,
    TopologyUpdates,
)
from stugan_tf.runs.interruption import Interrupted, Interruption
from stugan_tf.runs.lengthening import check_past
from stugan_tf.runs.manifest import read_manifest, record_end, record_failure, record_start
from stugan_tf.runs.scoring import Scoring, ScoringSettings, Unscored
from stugan_tf.runs.trackers import Guarded, Tracker, chosen_trackers
from stugan_tf.runs.workdir import check_space, claimed, keep, total_steps_of
from stugan_tf.sparsity.sparsify import Counts, count_weights
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.batches import distributed_batches
from stugan_tf.training.gan import GAN
from stugan_tf.training.player import Player
from stugan_tf.training.precision import computing_in
from stugan_tf.training.steps import Steps
from stugan_tf.training.strategies import is_chief, should_jit


@gin.configurable("train", denylist=["source", "strategy", "gan"])
class Training:
    """One training. The constructor builds it; `run` starts or resumes it.

    Attributes:
        source: the data source.
        seed: of masks, weights, data order and noise.
        strategy: the `tf.distribute.Strategy`.
        algorithm: the `Algorithm`.
        gan: the `GAN`.
    """

    def __init__(
        self,
        source: Source,
        strategy: tf.distribute.Strategy,
        gan: Callable[..., GAN] = GAN,
        algorithm: Callable[[], Algorithm] = Algorithm,
        seed: int = 0,
        jit_compile: bool | str = "auto",
        execution: str = "dense",
        precision: str = "float32",
        tensor_float_32: bool = True,
        rematerialize: bool = False,
        steps_per_execution: int = 1,
        log_every: int = 100,
        sample_every: int = 1000,
        num_samples: int = 64,
        checkpoint_every: int = 1000,
        checkpoint_minutes: float = 10.0,
        keep_checkpoints: int = 3,
        max_rollbacks: int = 0,
        evaluator: Callable[[Source, tf.distribute.Strategy], Any] | None = None,
        evaluate_every: int | None = None,
        best_by: str | None = None,
        patience: int | None = None,
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        """Builds everything; writes nothing.

        Args:
            source: a `stugan_tf.data` source.
            strategy: a `tf.distribute.Strategy`.
            gan: `(image_shape, num_classes, seed) -> GAN`.
            algorithm: `() -> Algorithm`, such as `training.algorithm.longer`.
            seed: seed of masks, weights, data order and noise.
            jit_compile: True, False or 'auto', which compiles on accelerators.
            execution: 'dense', 'sparse' or 'auto': how masked layers compute on a CPU, see
                `layers.masked.set_execution`. The numbers are the same up to rounding.
            precision: 'float32', 'bfloat16' or 'float16': what layers compute in, see
                `training.precision`. The last two are for accelerators.
            tensor_float_32: whether a GPU may round the factors of float32 products to TF32, as
                TensorFlow and PyTorch (2021) do by default. Topology updates with the update
                whose gradients they see, and scores, are computed in full float32.
            rematerialize: whether backward passes run each block of the networks again and keep
                only what passes between blocks. This saves memory and costs up to one more forward
                pass. See `layers.rematerialization`.
            steps_per_execution: steps per call from the host. Between calls the run reacts to
                signals and finds values that are not finite.
            log_every: steps between log points.
            sample_every: steps between sample grids.
            num_samples: the most images in a sample grid. The grid of a conditional GAN of at most
                16 classes has one row for each class, and all rows are full.
            checkpoint_every: steps between checkpoints.
            checkpoint_minutes: the run also writes a checkpoint when the last is this old.
            keep_checkpoints: how many of the newest checkpoints to keep.
            max_rollbacks: how often to go back to the last checkpoint, with other random numbers,
                when a value is not finite. After that the run fails.
            evaluator: `(source, strategy) -> evaluator`, such as `evaluation.Evaluator`. `Scoring`
                says what an evaluator is. It is called every `evaluate_every` steps.
            evaluate_every: steps between evaluations.
            best_by: the metric that marks the best checkpoint, which is kept.
            patience: the run ends after this number of evaluations in a row without a new best.
            trackers: list of `runs.trackers.Tracker`s that show the run; None is `[TensorBoard()]`.

        Raises:
            InputError: if a setting is wrong.
        """
        check_function("train.algorithm", algorithm)
        check_network_seed("train.seed", seed)
        check_execution("train.execution", execution)
        check_bool("train.rematerialize", rematerialize)
        check_bool("train.tensor_float_32", tensor_float_32)
        self._allows_tensor_float_32 = tensor_float_32
        self.source, self.seed, self.strategy = source, seed, strategy
        self._intervals = Intervals(
            steps_per_execution,
            log_every,
            sample_every,
            num_samples,
            checkpoint_every,
            checkpoint_minutes,
            keep_checkpoints,
            max_rollbacks,
        )
        self._scored = ScoringSettings(evaluator, evaluate_every, best_by, patience)
        self._trackers = chosen_trackers(trackers)
        with strategy.scope():
            self.algorithm = algorithm()
            with computing_in(precision):
                self.gan = gan(source.image_shape, source.num_classes, seed=seed)
            self.gan.set_execution(execution)
            if rematerialize:
                self.gan.rematerialize()
            self._steps = Steps(
                self.gan,
                self.algorithm,
                strategy,
                seed,
                should_jit(jit_compile, strategy),
                scales_loss=precision == "float16",
            )

    @property
    def inspection(self) -> Inspection:
        """A summary of the data, which is read and checked for it once."""
        return self.source.inspection

    @functools.cached_property
    def _scoring(self) -> Scoring | Unscored | None:
        return self._scored.scoring(self.source, self.strategy)

    @property
    def scoring(self) -> Scoring | None:
        """The `Scoring` of this training, or None; loads what the evaluator needs."""
        return self._scoring if isinstance(self._scoring, Scoring) else None

    @property
    def unscored(self) -> Unscored | None:
        """Why this training has no scores although it asks for some; else None."""
        return self._scoring if isinstance(self._scoring, Unscored) else None

    @property
    def remarks(self) -> list[str]:
        """Sentences about intervals that are longer than the training."""
        total = self.algorithm.total_steps
        scores = self._scored.remarks(total) if self.scoring else []
        return [*self.algorithm.idle_rules(), *scores]

    def check_trackers(self) -> None:
        """Raises InputError if a tracker needs a package that is not installed."""
        for tracker in self._trackers:
            tracker.check()

    @property
    def num_replicas(self) -> int:
        """The number of devices that share a batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def steps(self) -> Steps:
        """What makes the steps of the run."""
        return self._steps

    @property
    def keeps_gradients(self) -> bool:
        """Whether updates accumulate gradients in variables."""
        return self._steps.keeps_gradients

    @property
    def players(self) -> dict[str, Player]:
        """The `Player` of each network, by the name of the network."""
        return self._steps.players

    def state(self) -> dict[str, tf.Variable]:
        """All variables that a checkpoint holds, by unique name."""
        return self._steps.state()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files; of several workers one does."""
        return is_chief(self.strategy)

    @property
    def best_by(self) -> str | None:
        """The metric that marks the best checkpoint, or None."""
        return None if self.unscored else self._scored.best_by

    def assign_masks(self, masks: Mapping[str, Sequence[tf.Tensor]]) -> None:
        """Gives networks other masks, before the first step of a run.

        Weights outside the masks become zero, also in the average. Counts of an earlier run (of
        rollbacks and metrics) start again; all other state stays.

        Args:
            masks: {name of a network: a mask for each of its masked layers}, each of the shape of
                the layer's kernel.
        """
        self._steps.restart()
        for name, of_layers in masks.items():
            self.players[name].explorer.restart(of_layers)
        self.gan.averaged.remask()

    def run(
        self,
        workdir: str | os.PathLike[str],
        config: str,
        begin: Callable[["Training"], dict[str, Any]] = lambda training: {},
        label: str = "",
        keep_start: bool = False,
    ) -> None:
        """Trains to the end, from the newest checkpoint in `workdir` if there is one.

        Args:
            workdir: folder of everything that the run writes; made if needed.
            config: the configuration as text; a workdir belongs to one configuration.
            begin: `training -> facts`, prepares a new run before its checkpoint of step 0. The
                facts, a dictionary, go into run.json.
            label: name of the run where its progress is shown.
            keep_start: whether the checkpoint of step 0 is kept for good.

        Raises:
            InputError: if the workdir cannot be used.
            FailedRun: if a value was not finite, or a weight outside a mask was not zero.
            Interrupted: if a signal asked the run to stop; the run was saved.
        """
        with arithmetic.tensor_float_32(self._allows_tensor_float_32):
            self._run(workdir, config, begin, label, keep_start)

    def _run(self, workdir, config, begin, label, keep_start):
        state = self.state()
        self.check_trackers()
        for remark in self.remarks:
            logging.warning("%s", remark)
        check_space(workdir, state, self._intervals.keep_checkpoints + keep_start)
        if self.scoring:
            self.scoring.evaluator.prepare()
        with claimed(workdir, config, self.is_chief) as (folder, output, former):
            stored = Checkpoints(folder / "checkpoints", state)
            checkpoints = Checkpoints(
                output / "checkpoints", state, self._intervals.keep_checkpoints, keep_start
            )
            step, message = self._start(stored, checkpoints, output, former, begin)
            if former is not None:
                keep(output, config)
            with Interruption() as interruption:
                while True:
                    if self.scoring:
                        self.scoring.recall(folder / "evaluations.jsonl", step)
                    at = RunState(
                        step, self.algorithm.total_steps, output, config, label, message=message
                    )
                    events = self._events(checkpoints, interruption)
                    try:
                        self._run_events(at, events)
                        record_end(output, at.step)
                        self._on_any_worker(False)  # Wait for all, so that everything is written.
                        return
                    except FailedRun as error:
                        record_failure(output, str(error))
                        raise
                    except NotFiniteError as error:
                        failure = str(error)
                    attempt = self._attempts() + 1
                    step = stored.restore_newest()
                    if attempt > self._intervals.max_rollbacks:
                        record_failure(output, failure)
                        break
                    self._steps.attempt.assign(attempt)
                    message = (
                        f"{failure} Going on from here with other random numbers: rollback "
                        f"{attempt} of at most {self._intervals.max_rollbacks}."
                    )
        raise FailedRun(
            f"{failure} The last good checkpoint, of step {step}, is intact. Set "
            "train.max_rollbacks to go on from it with other random numbers, or start again with "
            "lower learning rates and another --workdir."
        )

    def _start(self, stored, checkpoints, output, former, begin):
        """Resumes or starts the run. Returns its step, and how it begins, in words."""
        step = stored.restore_newest()
        if step is not None:
            self.gan.check_zeros()
            resumed = {**self._check_length(step, former), **self._scored_by()}
            changed = record_start(output, step, resumed=resumed, **self._facts())
            return step, f"resumed. {changed}" if changed else "resumed"
        with self.strategy.scope():
            facts = begin(self)
        lost = read_manifest(output).get("init_from")
        if lost and "init_from" not in facts:
            raise InputError(
                f"The run in {output} was to start from {lost['path']} and was stopped before its "
                "first checkpoint. Give the same --init_from again, or choose another --workdir."
            )
        record_start(output, 0, **self._facts(), **facts)
        _save_first(checkpoints, output)  # A rollback can go back to it.
        return 0, "started"

    def _check_length(self, step: int, former: str | None) -> dict[str, Any]:
        """Raises InputError if the run cannot get the length that is configured now.

        Args:
            step: of its newest checkpoint.
            former: its configuration so far, if that has another length; else None.

        Returns:
            The facts about the change for run.json.
        """
        total = self.algorithm.total_steps
        if step > total:
            raise InputError(
                f"The run is at step {step}, which is more than Algorithm.total_steps = {total}. "
                "Set it to at least that, or choose another --workdir."
            )
        if former is None:
            return {}
        before = total_steps_of(former)
        if before is None:
            raise InputError(
                f"Algorithm.total_steps is now {total}, but the config.gin of the run does not "
                "clearly say what it was. Set it back, or choose another --workdir."
            )
        check_past(self.algorithm, before, step)
        return {"total_steps": {"before": before, "after": total}}

    def _attempts(self) -> int:
        """The number of rollbacks so far."""
        return int(self._steps.attempt.numpy())

    def _events(self, checkpoints, interruption):
        """The events of the run, in the order in which they act."""
        every = self._intervals
        trackers = self._trackers if self.is_chief else []
        algorithm = self.algorithm
        speed = Speed(self._steps, algorithm.batch_size * algorithm.discriminator_steps)
        return [
            Health(self._steps),
            Progress(self._steps),
            speed,
            TopologyUpdates(algorithm, self.gan, self.players),
            Evaluations(self.scoring, self.gan),
            SampleGrids(self.gan, every.sample_every, every.num_samples, self.seed),
            Log(self._steps, speed, every.log_every),
            *map(Guarded, trackers),
            StopRequests(interruption, self._on_any_worker),
            Saving(checkpoints, self.gan, every.checkpoint_every, every.checkpoint_minutes),
            EarlyEnd(self.scoring, self._on_any_worker),
        ]

    def _run_events(self, state, events):
        """Runs the steps from `state.step` on, and the events between them."""
        with contextlib.ExitStack() as closing:
            for event in events:
                event.begin(state)
                closing.callback(event.close, state)
            try:
                self._run_steps(state, events)
                state.status = "finished"
            except Interrupted:
                state.status = "interrupted"
                raise
            except NotFiniteError:
                if self._attempts() < self._intervals.max_rollbacks:
                    state.status = "rolled back"
                raise
            samples = f"the newest samples are in {state.workdir / 'samples'}"
            if state.seconds:
                state.say(state.time_in_words())
            state.say(f"done; {samples if self.is_chief else 'the first worker wrote the files'}")

    def _run_steps(self, state, events):
        batches = iter(self.distributed_batches(state.step))
        while state.step < state.total_steps and not state.ended:
            stop = min(state.step + self._intervals.steps_per_execution, state.total_steps)
            due = (event.next_due(state.step) for event in events)
            stop = min([stop, *(step for step in due if step is not None)])
            for event in events:
                event.before(stop)
            try:
                self._steps.run(batches, state.step, stop - state.step)
            except UNREADABLE as error:
                # Reading all images may take hours, and a device can raise such an error, too.
                state.say(f"{type(error).__name__}: looking for an image that cannot be read")
                self._name_unreadable(state, events)
                raise
            state.advance(stop)
            for event in events:
                event.happen(state)
            if state.stopping and state.step < state.total_steps:
                raise Interrupted(state.signal_number or signal.SIGTERM, state.step)

    def distributed_batches(self, step):
        """The data set of batches that a run takes after generator step `step`, on its strategy."""
        return distributed_batches(self.source, self.algorithm, self.strategy, self.seed, step)

    def _name_unreadable(self, state, events):
        """Raises an InputError that names the image that cannot be read, if there is one.

        The step that needs the image has not begun, because `distributed_batches` reads all batches
        of a step at once. So the run is saved after the step before.
        """
        try:
            self.source.diagnose()
        except InputError:
            done = self._steps.num_done()
            if not self.is_chief:
                # The first worker waits in the middle of a step, where it cannot be saved.
                state.say(
                    "not saved, because only the first worker writes the run, and an image cannot "
                    "be read here. Once it can be read, the run goes on from its last checkpoint."
                )
            elif done is not None and self._steps.first_bad() is None:
                state.advance(done)
                for event in events:
                    if isinstance(event, Saving):
                        event.act_if_new(state)
                state.say("saved, because an image cannot be read. It goes on once it can be read.")
            raise

    def _on_any_worker(self, flag: bool) -> bool:
        """Whether `flag` is true on any worker, because all must stop at the same step."""
        if has_several_workers(self.strategy):
            return bool(self._count_workers(tf.constant(float(flag))) > 0)
        return flag

    @functools.cached_property
    def _count_workers(self):
        @tf.function
        def count(flag):
            return self.strategy.reduce(
                tf.distribute.ReduceOp.SUM, self.strategy.run(lambda: flag), axis=None
            )

        return count

    def counts(self) -> dict[str, Counts]:
        """The `Counts` of both networks, by the name of the network."""
        return {name: count_weights(network) for name, network in self.gan.networks.items()}

    def _scored_by(self) -> dict[str, Any]:
        """The protocol of the scores, or the reason why there are none; empty if none are asked."""
        if self.unscored:
            return {"scores": {"none": self.unscored.reason}}
        return {"scores": {"protocol": self.scoring.evaluator.protocol}} if self.scoring else {}

    def _facts(self) -> dict[str, Any]:
        return {
            **self._scored_by(),
            "seed": self.seed,
            "data": dataclasses.asdict(self.inspection),
            "replicas": self.num_replicas,
            "weights": {
                name: {
                    **counts._asdict(),
                    "sparsity": counts.sparsity,
                    "overall_sparsity": counts.overall_sparsity,
                }
                for name, counts in self.counts().items()
            },
        }


def _save_first(checkpoints, workdir):
    """Saves step 0 and reads it back, so that a bad disk or path shows before step 1."""
    checkpoints.save(0)
    try:
        checkpoints.restore(0)
    except (InputError, OSError, tf.errors.OpError) as error:
        raise InputError(
            f"The checkpoint in {workdir} cannot be read back: {str(error).splitlines()[0]} Choose "
            "a --workdir on another disk or with another name."
        ) from error
