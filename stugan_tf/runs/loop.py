"""Algorithm 1 over a whole training, and what surrounds it: logs, samples, checkpoints, faults."""

import contextlib
import dataclasses
import functools
import signal
import time

import gin
import tensorflow as tf

from stugan_tf.adapters.tensorflow_internals import has_several_workers
from stugan_tf.checks import (
    check_above_zero,
    check_bool,
    check_function,
    check_natural,
    check_positive,
)
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import JsonLines
from stugan_tf.latents import class_rows
from stugan_tf.layers.execution import check_execution
from stugan_tf.randomness import Purpose, draw_latents, fold
from stugan_tf.sparsity.exploration_rate import churn, exploration_rate
from stugan_tf.sparsity.sparsify import count_weights
from stugan_tf.training.algorithm import Algorithm
from stugan_tf.runs.checkpoints import Checkpoints
from stugan_tf.training.gan import GAN
from stugan_tf.runs.interruption import Interrupted, Interruption
from stugan_tf.runs.manifest import record_end, record_start
from stugan_tf.runs.monitoring import Monitor
from stugan_tf.training.precision import computing_in
from stugan_tf.runs.scoring import Scoring
from stugan_tf.training.steps import Steps
from stugan_tf.training.strategies import is_chief, should_jit
from stugan_tf.runs.workdir import check_space, claimed

MOST_ROWS = 16  # of classes in a sample grid; of more it shows some, drawn at random


@gin.configurable("train", denylist=["source", "strategy", "gan"])
class Training:
    """One training: built by the constructor, started or resumed by `run`."""

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
        """
        check_function("train.algorithm", algorithm)
        check_natural("train.seed", seed)
        check_execution("train.execution", execution)
        check_bool("train.rematerialize", rematerialize)
        check_positive("train.steps_per_execution", steps_per_execution)
        check_positive("train.log_every", log_every)
        check_positive("train.sample_every", sample_every)
        check_positive("train.num_samples", num_samples)
        check_positive("train.checkpoint_every", checkpoint_every)
        check_above_zero("train.checkpoint_minutes", checkpoint_minutes)
        check_positive("train.keep_checkpoints", keep_checkpoints)
        check_natural("train.max_rollbacks", max_rollbacks)
        if evaluator is not None:
            check_function("train.evaluator", evaluator)
            check_positive("train.evaluate_every", evaluate_every)
        elif (evaluate_every, best_by, patience) != (None, None, None):
            raise InputError(
                "train.evaluate_every, train.best_by and train.patience need scores: set "
                "train.evaluator, e.g. to @Evaluator."
            )
        self.source = source
        self.seed = seed
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._every = {
            "log": log_every,
            "sample": sample_every,
            "checkpoint": checkpoint_every,
            "evaluate": evaluate_every if evaluator is not None else None,
        }
        self._num_samples = num_samples
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._keep_checkpoints = keep_checkpoints
        self._max_rollbacks = max_rollbacks
        self._evaluator = evaluator
        self._label = ""
        self._scored = {"every": evaluate_every, "best_by": best_by, "patience": patience}
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
        if self._evaluator is None:
            return None
        return Scoring(self._evaluator(self.source, self._strategy), **self._scored)

    @property
    def num_replicas(self):
        """How many devices share a batch."""
        return self._strategy.num_replicas_in_sync

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
        return is_chief(self._strategy)

    @property
    def best_by(self):
        """The metric that marks the best checkpoint, or None."""
        return self._scored["best_by"]

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
        self._label = label
        state = self.state()
        check_space(workdir, state, self._keep_checkpoints + keep_start)
        if self.scoring:
            self.scoring.evaluator.prepare()
        with claimed(workdir, config, self.is_chief) as (workdir, output):
            stored = Checkpoints(workdir / "checkpoints", state)
            checkpoints = Checkpoints(
                output / "checkpoints", state, self._keep_checkpoints, keep_start
            )
            step, message, facts = stored.restore_newest(), "resumed", {}
            if step is None:
                with self._strategy.scope():
                    facts = begin(self)
            record_start(output, step or 0, **self._facts(), **facts)
            if step is None:
                step, message = 0, "started"
                checkpoints.save(0)  # What a rollback goes back to, and proof that saving works.
            with Interruption() as interruption:
                while True:
                    if self.scoring:
                        self.scoring.recall(workdir / "evaluations.jsonl", step)
                    try:
                        self._train_from(step, output, checkpoints, config, interruption, message)
                        record_end(output, checkpoints.steps()[-1])
                        self._on_any_worker(False)  # When any goes on, all of this is written.
                        return
                    except _NotFiniteError as error:
                        failure = str(error)
                    attempt = int(self._steps.attempt.numpy()) + 1
                    step = stored.restore_newest()
                    if attempt > self._max_rollbacks:
                        break
                    self._steps.attempt.assign(attempt)
                    message = (
                        f"{failure} Going on from here with other random numbers, rollback "
                        f"{attempt} of at most {self._max_rollbacks}."
                    )
        raise FailedRun(
            f"{failure} The last good checkpoint, of step {step}, is intact. Set "
            "train.max_rollbacks to go on from it with other random numbers, or start anew with "
            "lower learning rates and another --workdir."
        )

    def _train_from(self, step, workdir, checkpoints, config, interruption, message):
        total = self.algorithm.total_steps
        iterator = iter(self._distributed_batches(step))
        saved_at = time.monotonic()
        with (
            Monitor(workdir, total, step, self._label) as monitor,
            contextlib.closing(JsonLines(workdir / "evaluations.jsonl", step)) as evaluations,
        ):
            monitor.event(step, message)
            monitor.text("config", config)
            sparsities = {f"{name}_sparsity": c.sparsity for name, c in self.counts().items()}
            ended = self._ends_early(monitor, step)
            while step < total and not ended:
                num_steps = self._until_next_event(step)
                changes = self.algorithm.changes_topology(step + num_steps)
                former = {
                    name: [tf.identity(layer.kernel_mask.value) for layer in player.explorer.layers]
                    for name, player in self.players.items()
                    if changes[name]
                }
                with self._reading():
                    self._steps.run(iterator, step, num_steps)
                step += num_steps
                self._check_finite()
                monitor.advance(step)
                topology = {}
                for name, masks in former.items():
                    topology |= self._topology(name, masks)
                    fraction = self.algorithm.drop_fraction(name, step)
                    if fraction is not None:
                        topology[f"{name}_drop_fraction"] = fraction
                    sparsities[f"{name}_sparsity"] = count_weights(self.gan.networks[name]).sparsity
                if topology:
                    monitor.summaries(step, topology)
                cost = None
                if self._is_due("evaluate", step):
                    scores = self.scoring.score(self.gan, step)
                    evaluations.append({"step": step, **scores})
                    monitor.scores(step, scores)
                    cost = self.scoring.cost(scores)
                if self._is_due("sample", step):
                    monitor.images(step, self.samples(), self.sample_columns)
                if self._is_due("log", step):
                    rates = self._exploration_rates()
                    monitor.scalars(step, {**self._steps.pop_metrics(), **sparsities, **rates})
                overdue = time.monotonic() - saved_at > self._checkpoint_seconds
                stopping = self._on_any_worker(interruption.signal_number is not None)
                if self._is_due("checkpoint", step) or overdue or stopping or cost is not None:
                    self._check_weights(step)
                    checkpoints.save(step, cost)
                    saved_at = time.monotonic()
                if cost is not None:
                    ended = self._ends_early(monitor, step)
                if stopping and step < total:
                    raise Interrupted(interruption.signal_number or signal.SIGTERM, step)
            monitor.event(step, f"done; the newest samples are in {workdir / 'samples'}")

    def _until_next_event(self, step):
        """How many steps to run before something else is due."""
        events = [step + self._steps_per_execution, self.algorithm.total_steps]
        events += [step - step % every + every for every in self._every.values() if every]
        topology_update = self.algorithm.next_topology_update(step)
        if topology_update is not None:
            events.append(topology_update)
        return min(events) - step

    def _is_due(self, what, step):
        every = self._every[what]
        return every is not None and (step % every == 0 or step == self.algorithm.total_steps)

    def _distributed_batches(self, step):
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

        return self._strategy.distribute_datasets_from_function(batches)

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
        if has_several_workers(self._strategy):
            return bool(self._count_workers(tf.constant(float(flag))) > 0)
        return flag

    @functools.cached_property
    def _count_workers(self):
        @tf.function
        def count(flag):
            return self._strategy.reduce(
                tf.distribute.ReduceOp.SUM, self._strategy.run(lambda: flag), axis=None
            )

        return count

    def _ends_early(self, monitor, step):
        reason = self.scoring and self.scoring.stop_reason
        if reason:
            monitor.event(step, f"ends early: {reason}")
        return self._on_any_worker(bool(reason))

    @property
    def sample_columns(self):
        """Images in a row of a sample grid that has a row for each class, else None."""
        num_classes = self.gan.num_classes
        has_rows = self.gan.conditional and num_classes <= min(MOST_ROWS, self._num_samples)
        return self._num_samples // num_classes if has_rows else None

    def samples(self):
        """Images [n, H, W, C] of the averaged generator for latents that never change.

        If there are few classes, a row of each, all of the same latents.
        """
        rows = self.gan.num_classes
        num_drawn = self.sample_columns or self._num_samples
        seed = fold((self.seed, 0), Purpose.SAMPLES)
        latents, labels = draw_latents(num_drawn, self.gan.latent_dim, rows, seed)
        if self.sample_columns:
            latents, labels = map(tf.constant, class_rows(latents.numpy(), range(rows)))
        return self.gan.generate(latents, labels, training=False, averaged=True).numpy()

    def counts(self):
        """The `Counts` of both networks by name."""
        return {name: count_weights(network) for name, network in self.gan.networks.items()}

    def _exploration_rates(self):
        """R_s of the networks that explore."""
        return {
            f"{name}_exploration_rate": float(exploration_rate(player.explorer.ever_active)[1])
            for name, player in self.players.items()
            if player.rule is not None
        }

    def _topology(self, name, former_masks):
        """What a topology update did: drop fraction, churn, R_s and density, also per layer."""
        explorer = self.players[name].explorer
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

    def _check_finite(self):
        found = self._steps.first_bad()
        if found is not None:
            step, what = found
            raise _NotFiniteError(f"At step {step}, {what} was not finite.")

    def _check_weights(self, step):
        """A step may have overflowed them with a gradient still finite; do not save that."""
        for name, network in self.gan.networks.items():
            for variable in network.trainable_variables:
                if not tf.reduce_all(tf.math.is_finite(variable.value)):
                    raise _NotFiniteError(
                        f"At step {step}, the {name}'s {variable.path} was not finite."
                    )

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


class _NotFiniteError(Exception):
    """A loss or gradient that is not finite."""
