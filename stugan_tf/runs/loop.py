"""Algorithm 1 over a whole training, and what surrounds it: logs, samples, checkpoints, faults."""

import contextlib
import dataclasses
import functools
import signal

import gin
import tensorflow as tf

from stugan_tf.adapters.tensorflow_internals import has_several_workers
from stugan_tf.checks import check_bool, check_function, check_natural
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
    StopRequests,
    TopologyUpdates,
)
from stugan_tf.runs.interruption import Interrupted, Interruption
from stugan_tf.runs.lengthening import check_past
from stugan_tf.runs.manifest import record_end, record_failure, record_start
from stugan_tf.runs.scoring import ScoringSettings
from stugan_tf.runs.trackers import Guarded, chosen_trackers
from stugan_tf.runs.workdir import check_space, claimed, keep, total_steps_of
from stugan_tf.sparsity.sparsify import count_weights
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.training.gan import GAN
from stugan_tf.training.precision import computing_in
from stugan_tf.training.steps import Steps
from stugan_tf.training.strategies import is_chief, should_jit


@gin.configurable("train", denylist=["source", "strategy", "gan"])
class Training:
    """One training: built by the constructor, started or resumed by `run`.

    Attributes:
        source: the data source.
        seed: of masks, weights, data order and noise.
        strategy: the `tf.distribute.Strategy`.
        algorithm: the `Algorithm`.
        gan: the `GAN`.
    """

    def __init__(
        self,
        source,
        strategy,
        gan=GAN,
        algorithm=Algorithm,
        seed=0,
        jit_compile="auto",
        execution="dense",
        precision="float32",
        rematerialize=False,
        steps_per_execution=1,
        log_every=100,
        sample_every=1000,
        num_samples=64,
        checkpoint_every=1000,
        checkpoint_minutes=10.0,
        keep_checkpoints=3,
        max_rollbacks=0,
        evaluator=None,
        evaluate_every=None,
        best_by=None,
        patience=None,
        trackers=None,
    ):
        """Builds everything; nothing is written yet.

        Args:
            source: a `stugan_tf.data` source.
            strategy: a `tf.distribute.Strategy`.
            gan: `(image_shape, num_classes, seed) -> GAN`.
            algorithm: `() -> Algorithm`, such as `training.algorithm.longer`.
            seed: of masks, weights, data order and noise.
            jit_compile: True, False or 'auto', which compiles on accelerators.
            execution: 'dense', 'sparse' or 'auto': how masked layers compute on a CPU, see
                `layers.masked.set_execution`. The numbers are the same up to rounding.
            precision: 'float32', 'bfloat16' or 'float16': what layers compute in, see
                `training.precision`; a choice of accelerators.
            rematerialize: keep only what passes between the blocks of the networks for backward
                passes, which run each block again: less memory for up to one more forward pass. See
                `layers.rematerialization`.
            steps_per_execution: steps per call from the host. Signals are heeded, and values that
                are not finite found, between calls.
            log_every: steps between log points.
            sample_every: steps between sample grids.
            num_samples: images in a sample grid. A conditional GAN of at most 16 classes has a row
                for each, of so many that all rows are full.
            checkpoint_every: steps between checkpoints.
            checkpoint_minutes: a checkpoint is written after so many minutes without one, too.
            keep_checkpoints: how many of the newest to keep.
            max_rollbacks: how often to go back to the last checkpoint, with other random numbers,
                when a value is not finite; after that the run fails.
            evaluator: `(source, strategy) -> evaluator`, such as `evaluation.Evaluator`; see
                `Scoring` for what an evaluator is. It is called every `evaluate_every` steps.
            evaluate_every: steps between evaluations.
            best_by: the metric that marks the checkpoint to keep as best.
            patience: ends the run after so many evaluations in a row without a new best.
            trackers: list of `runs.trackers.Tracker` that show the run; None is `[TensorBoard()]`.
        """
        check_function("train.algorithm", algorithm)
        check_natural("train.seed", seed)
        check_execution("train.execution", execution)
        check_bool("train.rematerialize", rematerialize)
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
        self._check_schedules()

    def _check_schedules(self):
        total = self.algorithm.total_steps
        for name, rule in self.algorithm.topology_rules.items():
            if rule is not None and not rule.num_updates(total):
                raise InputError(
                    f"The {name}'s topology is to change {rule.when}, but the training of "
                    f"{total} steps has no step for it. Lower "
                    f"{type(rule).__name__}.update_interval, or set Algorithm."
                    f"{name}_exploration = None for a static topology."
                )

    @functools.cached_property
    def inspection(self):
        """What the data holds, read and checked."""
        return self.source.inspect()

    @functools.cached_property
    def scoring(self):
        """The `Scoring` of this training, or None; loads what the evaluator needs."""
        return self._scored.scoring(self.source, self.strategy)

    def check_trackers(self):
        """Raises InputError if what a tracker needs is not installed."""
        for tracker in self._trackers:
            tracker.check()

    @property
    def num_replicas(self):
        """How many devices share a batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def keeps_gradients(self):
        """Whether updates add up gradients in variables."""
        return self._steps.keeps_gradients

    @property
    def players(self):
        """The `Player` of each network by name."""
        return self._steps.players

    def state(self):
        """All variables that a checkpoint holds, by unique name."""
        return self._steps.state()

    @property
    def is_chief(self):
        """Whether this process is the one that writes."""
        return is_chief(self.strategy)

    @property
    def best_by(self):
        """The metric that marks the best checkpoint, or None."""
        return self._scored.best_by

    def assign_masks(self, masks):
        """Puts networks of a run that begins under other masks.

        Weights outside of them become zero, those of the average, too. All other state stays, but
        for what an earlier run that it was restored from has counted.

        Args:
            masks: {name of a network: a mask for each of its masked layers}.
        """
        self._steps.restart()
        for name, of_layers in masks.items():
            self.players[name].explorer.restart(of_layers)
        self.gan.averaged.remask()

    def run(self, workdir, config, begin=lambda training: {}, label="", keep_start=False):
        """Trains to the end, from the newest checkpoint in `workdir` if there is one.

        Args:
            workdir: folder of everything the run writes; made if needed.
            config: the configuration as text; a workdir belongs to one configuration.
            begin: `training -> facts`, brings a new run to where it starts, before the checkpoint
                of step 0; the facts, a dictionary, go into run.json.
            label: what the run is called where its progress is shown.
            keep_start: whether the checkpoint of step 0 is kept for good.

        Raises:
            InputError: if the workdir cannot be used.
            FailedRun: if a value was not finite.
            Interrupted: if a signal asked to stop; the run was saved.
        """
        state = self.state()
        self.check_trackers()
        check_space(workdir, state, self._intervals.keep_checkpoints + keep_start)
        if self.scoring:
            self.scoring.evaluator.prepare()
        with claimed(workdir, config, self.is_chief) as (workdir, output, former):
            stored = Checkpoints(workdir / "checkpoints", state)
            checkpoints = Checkpoints(
                output / "checkpoints", state, self._intervals.keep_checkpoints, keep_start
            )
            step, message = self._start(stored, checkpoints, output, former, begin)
            if former is not None:
                keep(output, config)
            with Interruption() as interruption:
                while True:
                    if self.scoring:
                        self.scoring.recall(workdir / "evaluations.jsonl", step)
                    at = RunState(
                        step, self.algorithm.total_steps, output, config, label, message=message
                    )
                    events = self._events(checkpoints, interruption)
                    try:
                        self._run_events(at, events)
                        record_end(output, checkpoints.steps()[-1])
                        self._on_any_worker(False)  # When any goes on, all of this is written.
                        return
                    except NotFiniteError as error:
                        failure = str(error)
                    attempt = self._attempts() + 1
                    step = stored.restore_newest()
                    if attempt > self._intervals.max_rollbacks:
                        record_failure(output, failure)
                        break
                    self._steps.attempt.assign(attempt)
                    message = (
                        f"{failure} Going on from here with other random numbers, rollback "
                        f"{attempt} of at most {self._intervals.max_rollbacks}."
                    )
        raise FailedRun(
            f"{failure} The last good checkpoint, of step {step}, is intact. Set "
            "train.max_rollbacks to go on from it with other random numbers, or start anew with "
            "lower learning rates and another --workdir."
        )

    def _start(self, stored, checkpoints, output, former, begin):
        """Brings the run to where it goes on from; the step, and in words how."""
        step = stored.restore_newest()
        if step is not None:
            resumed = self._check_length(step, former)
            record_start(output, step, resumed=resumed, **self._facts())
            return step, "resumed"
        with self.strategy.scope():
            facts = begin(self)
        record_start(output, 0, **self._facts(), **facts)
        _save_first(checkpoints, output)  # What a rollback goes back to.
        return 0, "started"

    def _check_length(self, step, former):
        """Raises InputError if a run that is at `step` cannot have the length it is to have.

        Args:
            step: of its newest checkpoint.
            former: the configuration of another length that it had up to now, or None.

        Returns:
            What run.json is to say of it.
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
                "plainly say what it was. Set it back, or choose another --workdir."
            )
        check_past(self.algorithm, before, step)
        return {"total_steps": {"before": before, "after": total}}

    def _attempts(self):
        """How often the run went back so far."""
        return int(self._steps.attempt.numpy())

    def _events(self, checkpoints, interruption):
        """All that happens beside the steps, in its order."""
        every = self._intervals
        trackers = self._trackers if self.is_chief else []
        return [
            Progress(),
            Health(self._steps),
            TopologyUpdates(self.algorithm, self.gan, self.players),
            Evaluations(self.scoring, self.gan),
            SampleGrids(self.gan, every.sample_every, every.num_samples, self.seed),
            Log(self._steps, every.log_every),
            *map(Guarded, trackers),
            StopRequests(interruption, self._on_any_worker),
            Saving(checkpoints, self.gan, every.checkpoint_every, every.checkpoint_minutes),
            EarlyEnd(self.scoring, self._on_any_worker),
        ]

    def _run_events(self, state, events):
        """Runs the steps from `state.step` on, and what happens between them."""
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
            state.say(f"done; the newest samples are in {state.workdir / 'samples'}")

    def _run_steps(self, state, events):
        batches = iter(self.distributed_batches(state.step))
        while state.step < state.total_steps and not state.ended:
            stop = min(state.step + self._intervals.steps_per_execution, state.total_steps)
            due = (event.next_due(state.step) for event in events)
            stop = min([stop, *(step for step in due if step is not None)])
            for event in events:
                event.before(stop)
            with self._reading():
                self._steps.run(batches, state.step, stop - state.step)
            state.advance(stop)
            for event in events:
                if event.is_due(state):
                    event.act(state)
            if state.stopping and state.step < state.total_steps:
                raise Interrupted(state.signal_number or signal.SIGTERM, state.step)

    def distributed_batches(self, step):
        """The data set of batches that a run takes after generator step `step`, on its strategy."""

        def batches(context):
            num_replicas = context.num_replicas_in_sync
            own = num_replicas // context.num_input_pipelines
            first = own * context.input_pipeline_id
            num_parts = self.algorithm.accumulation_steps
            return self.source.batches(
                self.algorithm.batch_size,
                seed=self.seed,
                start=step * self.algorithm.discriminator_steps,
                # Each micro-batch is spread over all replicas: its images do not depend on them.
                num_replicas=num_parts * num_replicas,
                replicas=[
                    part * num_replicas + replica
                    for part in range(num_parts)
                    for replica in range(first, first + own)
                ],
            )

        return self.strategy.distribute_datasets_from_function(batches)

    @contextlib.contextmanager
    def _reading(self):
        """Tells an image that cannot be read from a defect of ours."""
        try:
            yield
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
            self.source.diagnose()  # Raises an error of its own if it finds the image.
            raise

    def _on_any_worker(self, flag):
        """Whether `flag` is true on any worker: all must leave at the same step."""
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

    def counts(self):
        """The `Counts` of both networks by name."""
        return {name: count_weights(network) for name, network in self.gan.networks.items()}

    def _facts(self):
        return {
            "seed": self.seed,
            "data": dataclasses.asdict(self.inspection),
            "replicas": self.num_replicas,
            "weights": {
                name: {**counts._asdict(), "sparsity": counts.sparsity}
                for name, counts in self.counts().items()
            },
        }


def _save_first(checkpoints, workdir):
    """Saves step 0 and reads it back: a disk or path that does not work must show before step 1."""
    checkpoints.save(0)
    try:
        checkpoints.restore(0)
    except (InputError, OSError, tf.errors.OpError) as error:
        raise InputError(
            f"What was saved in {workdir} cannot be read back: {str(error).splitlines()[0]} Choose "
            "a --workdir on another disk or of another name."
        ) from error
