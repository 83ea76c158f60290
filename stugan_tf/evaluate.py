"""Scores checkpoints of a run: `python -m stugan_tf.evaluate --workdir=DIR`.

The run's own configuration applies; --gin_file and --gin_param override it. Scores are printed and
added to the workdir's evaluations.jsonl; their curves are in its TensorBoard folder.

    --artifact=DIR --output=scores.json       scores an exported generator as it is, by the
                                              evaluator of the run
"""

import contextlib
import json
import math
import os
import sys
import time

import numpy as np
from absl import flags

from stugan_tf import command, config
from stugan_tf.checks import check_above_zero
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import local_path, output_file, write_atomically
from stugan_tf.images import write_png
from stugan_tf.progress import duration
from stugan_tf.telling import say

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string("checkpoint", "latest", "latest, best, all or a step.")
flags.DEFINE_bool("watch", False, "Score checkpoints as they appear, until the run is done.")
flags.DEFINE_float(
    "watch_minutes",
    60.0,
    "End --watch when nobody has trained the run for this many minutes.",
)
flags.DEFINE_multi_float(
    "truncation",
    [],
    "Truncate latents at this absolute value; several values also draw a truncation curve.",
)
flags.DEFINE_integer(
    "neighbors",
    0,
    "Show this many generated images, each beside the real images most like it.",
    lower_bound=0,
)
flags.DEFINE_bool("fetch", False, "Download Inception from TF-Hub into its cache, and stop.")
flags.DEFINE_multi_string(
    "compare",
    [],
    "Folder of a run; given several times, prints the scores of these runs side by side.",
)
flags.DEFINE_string(
    "artifact",
    None,
    "Folder of an exported generator: it is scored in place of a checkpoint. The configuration and "
    "the real images are those of --workdir.",
)
flags.DEFINE_string("output", None, "With --artifact: a .json file for its scores.")
flags.DEFINE_string("strategy", "auto", f"Devices to use: {', '.join(STRATEGIES)}.")

POLL_SECONDS = 5


def _check_flags() -> None:
    if not (FLAGS.compare or FLAGS.fetch or FLAGS.workdir):
        whose = "whose evaluator scores --artifact" if FLAGS.artifact else "to score"
        raise InputError(f"--workdir is missing: the folder of the run {whose}.")


with command.late_imports(__name__, _check_flags):
    import tensorflow as tf

    from stugan_tf.evaluation import records
    from stugan_tf.evaluation.curves import check_curve, write_truncation_curve
    from stugan_tf.evaluation.evaluator import Evaluator
    from stugan_tf.evaluation.extractors import tfhub_inception
    from stugan_tf.runs.opening import open_run
    from stugan_tf.runs.phases import run_folder
    from stugan_tf.runs.status import FAILED, RUNNING, Status
    from stugan_tf.serving import artifact
    from stugan_tf.serving.loading import load
    from stugan_tf.training.strategies import is_chief


def main(_: list[str]) -> None:
    """Scores, compares or fetches, as the flags say."""
    if FLAGS.compare:
        folders = [run_folder(local_path(folder, "--compare")) for folder in FLAGS.compare]
        print(records.compare(folders))
    elif FLAGS.fetch:
        config.parse_gin(FLAGS.gin_file, FLAGS.gin_param)
        extractor = tfhub_inception()
        print(f"{extractor.name} is in the cache; its weights have the sha256 {extractor.sha256}.")
    else:
        Evaluation().run()


class Evaluation:
    """A run and its evaluator."""

    def __init__(self) -> None:
        """Builds both from the configuration of the run and the flags."""
        self._run = open_run(
            FLAGS.workdir,
            None,
            FLAGS.gin_param,
            gin_files=FLAGS.gin_file,
            strategy=FLAGS.strategy,
            execution=None,
            uses=["Evaluator"],
        )
        self._workdir = self._run.workdir
        with self._run.configured():
            self._evaluator = Evaluator(self._run.real_images, self._run.strategy)
        self._writes = is_chief(self._run.strategy)

    def run(self) -> None:
        """Scores what the flags name."""
        self._check_flags()
        if FLAGS.artifact:
            self._score_artifact()
            return
        if not FLAGS.watch:
            self._steps()  # Refuses a wrong --checkpoint before anything is computed.
        if self._writes:  # So that nobody misses a metric that the configuration leaves out.
            print(self._evaluator, file=sys.stderr)
        self._evaluator.prepare()
        if FLAGS.watch:
            self._watch()
            return
        # Asked again: meanwhile a run may have saved and removed checkpoints.
        restored = list(map(self._show, self._steps()))
        if not any(restored):
            raise InputError(
                f"The run in {self._workdir} removed the checkpoints before they were scored. Try "
                "again, or let it keep more: raise train.keep_checkpoints."
            )

    def _check_flags(self):
        modes = ("watch", "neighbors", "truncation", "artifact")
        chosen = [f"--{name}" for name in modes if FLAGS[name].value]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(chosen)} cannot be combined. Choose one.")
        if FLAGS.output and not FLAGS.artifact:
            raise InputError(
                "--output is for the scores of --artifact. Those of a checkpoint are added to "
                "evaluations.jsonl in the workdir: leave it out."
            )
        if FLAGS.output:
            output_file(FLAGS.output, "--output", [".json"])
        if FLAGS.artifact and FLAGS["checkpoint"].present:
            raise InputError("--artifact and --checkpoint both name a generator. Choose one.")
        if FLAGS.artifact and FLAGS.strategy == "multi_worker":
            raise InputError("--artifact works in one process only: choose another --strategy.")
        if FLAGS.watch and FLAGS["checkpoint"].present:
            raise InputError("--watch scores all checkpoints: leave out --checkpoint.")
        if FLAGS.watch and FLAGS.strategy == "multi_worker":
            raise InputError("--watch works in one process only: choose another --strategy.")
        if FLAGS["watch_minutes"].present and not FLAGS.watch:
            raise InputError("--watch_minutes is for --watch: leave it out, or add --watch.")
        check_above_zero("--watch_minutes", FLAGS.watch_minutes)
        for truncation in FLAGS.truncation:
            check_above_zero("--truncation", truncation)
        if len(set(FLAGS.truncation)) > 1:
            check_curve(self._evaluator.metrics)
        if self._writes and not FLAGS.artifact and not os.access(self._workdir, os.W_OK):
            raise InputError(
                f"{self._workdir} cannot be written to, so scores cannot be saved. Change its "
                "permissions, or evaluate a copy."
            )

    def _show(self, step):
        """Scores one checkpoint, or draws its pictures. Returns whether it was still there."""
        if not self._restored(step):
            return False
        if FLAGS.neighbors:
            self._show_neighbors(step)
        elif FLAGS.truncation:
            self._show_truncations(step)
        else:
            self._draw(step, self._score(step))
        return True

    def _steps(self):
        """The steps that --checkpoint names."""
        return self._run.steps(FLAGS.checkpoint, several=True)

    def _score(self, step):
        """Scores the generator, which was restored from the checkpoint of `step`."""
        start = time.monotonic()
        scores = self._evaluator(self._run.gan)
        if self._writes:
            records.append(self._workdir, {"step": step, "time": round(time.time(), 3), **scores})
        print(
            f"step {step}: {_in_words(scores)}  ({time.monotonic() - start:.0f} s, protocol "
            f"{scores['protocol']['id']})",
            flush=True,
        )
        return scores

    def _score_artifact(self):
        """Scores an exported generator, prints its scores, and writes them to --output."""
        folder = artifact.find(local_path(FLAGS.artifact, "--artifact"))
        generator = load(folder, by="tensorflow")  # Scores do not depend on what is installed.
        print(f"{folder} by the evaluator of {self._workdir}", file=sys.stderr)
        start = time.monotonic()

        def compute(latents, labels):
            return np.concatenate(list(generator.batches(latents, labels)))

        scores = self._evaluator.score_exported(compute, generator.interface)
        protocol = scores.pop("protocol")
        print(
            f"{folder}: {_in_words(scores)}  ({time.monotonic() - start:.0f} s, protocol "
            f"{protocol['id']})",
            flush=True,
        )
        if FLAGS.output:
            found = {"scores": scores, "protocol": protocol, "of": artifact.facts(folder)}
            path = output_file(FLAGS.output, "--output", [".json"])
            write_atomically(path, f"{json.dumps(found, indent=1)}\n".encode())

    def _draw(self, step, scores):
        """Adds scores to the curves in TensorBoard, where each protocol has its own run."""
        if not self._writes:
            return
        name = f"evaluation_{scores['protocol']['id']}"
        writer = tf.summary.create_file_writer(str(self._workdir / "tensorboard" / name))
        with contextlib.closing(writer), writer.as_default(step):
            for metric in self._evaluator.metrics:
                tf.summary.scalar(f"evaluation/{metric}", scores[metric])

    def _watch(self):
        """Scores each checkpoint without a record of this protocol, until the run is over."""
        own = self._evaluator.protocol["id"]
        patience = Patience(60 * FLAGS.watch_minutes)
        while True:
            if not (self._workdir / "config.gin").is_file():
                raise FailedRun(f"The run in {self._workdir} is gone: somebody has removed it.")
            # Asked first: a run saves its last checkpoint before it is over.
            status = self._run.status
            scored = {r["step"] for r in self._run.evaluations if r["protocol"]["id"] == own}
            waiting = [step for step in self._run.checkpoints if step not in scored]
            for step in waiting:
                if self._restored(step):
                    self._draw(step, self._score(step))
            if status.is_over and not waiting:
                return
            if status.state == FAILED and not waiting:
                raise FailedRun(
                    f"The run in {self._workdir} {status}. All of its checkpoints are scored."
                )
            if not waiting:
                self._wait(patience, status)

    def _wait(self, patience, status):
        """Sleeps. Says once in a while why; ends if the run has waited too long for a process."""
        if patience.is_over(status):
            raise FailedRun(
                f"Nobody has trained the run in {self._workdir} for {FLAGS.watch_minutes:g} "
                f"minutes: {status}. All of its checkpoints are scored. Start the run again, or "
                "raise --watch_minutes."
            )
        news = patience.news(status)
        if news:
            say(news)
        time.sleep(POLL_SECONDS)

    def _restored(self, step):
        """Restores a checkpoint. Returns False if the run has removed it meanwhile."""
        try:
            self._run.restore(step)
        except (InputError, OSError, tf.errors.OpError):
            if step in self._run.checkpoints:
                raise
            print(f"step {step}: the run has removed this checkpoint", file=sys.stderr)
            return False
        return True

    def _show_truncations(self, step):
        scores = {}
        for truncation in FLAGS.truncation:
            self._evaluator.truncation = truncation
            print(f"truncation {truncation:g}, ", end="")
            scores[truncation] = self._score(step)
        if len(scores) > 1 and self._writes:
            path = self._workdir / "evaluations" / f"truncation_{step:08d}.png"
            write_truncation_curve(path, scores)
            print(f"The curve is in {path}.")

    def _show_neighbors(self, step):
        found = self._evaluator.neighbors(self._run.gan, FLAGS.neighbors)
        if self._writes:
            path = self._workdir / "evaluations" / f"neighbors_{step:08d}.png"
            write_png(path, found.grid())
            nearest = found.distances[:, 0]
            print(
                f"step {step}: {path} shows generated images on the left, and beside each the real "
                f"images with the nearest features. The nearest are {nearest.min():.4g} to "
                f"{nearest.max():.4g} away."
            )


class Patience:
    """How long a watch waits for a run, and what it says meanwhile."""

    def __init__(self, seconds: float, every: float = 600.0) -> None:
        """Keeps the times.

        Args:
            seconds: how long the watch waits for a run that nobody trains.
            every: seconds between two lines about a run that does not change.
        """
        self._seconds, self._every = seconds, every
        self._status: Status | None = None
        self._since = self._said = time.monotonic()

    def is_over(self, status: Status) -> bool:
        """Whether nobody has trained the run for too long. Call it at each look at the run."""
        if status != self._status:
            self._status, self._since = status, time.monotonic()
            self._said = -math.inf if status.state != RUNNING else self._since
        return status.state != RUNNING and time.monotonic() - self._since > self._seconds

    def news(self, status: Status) -> str:
        """A line about the wait; '' if it is not time for one."""
        now = time.monotonic()
        if now - self._said < self._every:
            return ""
        self._said = now
        trained = "" if status.state == RUNNING else ", which nobody trains"
        unchanged = duration(now - self._since)
        return f"waiting for the run{trained}: {status}, unchanged for {unchanged}"


def _in_words(scores):
    return "  ".join(
        f"{name} {value:.5g}" for name, value in scores.items() if isinstance(value, float)
    )


if __name__ == "__main__":
    command.run(main, prints_result=True)
