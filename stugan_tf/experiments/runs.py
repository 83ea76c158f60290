"""The state of a cell, read from its folder: whether it is done, its progress and its scores.

A cell is trained in `run`, below its folder. A method of several phases trains each phase in its
own folder, which `run/phases.json` names; the scores of the cell are then those of the last phase.
"""

import numbers
import os
import pathlib
from typing import NamedTuple

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.evaluation import records
from stugan_tf.experiments.provenance import Made, made_of
from stugan_tf.files import read_json_lines
from stugan_tf.progress import duration
from stugan_tf.runs import manifest
from stugan_tf.runs.status import started, status_of
from stugan_tf.runs.workdir import bindings_of, total_steps_of

UNREADABLE = (InputError, OSError)  # The records of one cell; the others go on.


class Progress(NamedTuple):
    """The progress of a training.

    Attributes:
        step: steps done at the last log point.
        total: steps of the training, or None if unknown.
        speed: steps a second between the last two log points, or None.
        phase: name of the phase; '' for a run without phases.
    """

    step: int
    total: int | None
    speed: float | None
    phase: str

    def __str__(self) -> str:
        text = f"{self.phase} " * bool(self.phase) + f"step {self.step:,}"
        if self.total:
            text += f" of {self.total:,}"
        if self.speed:
            text += f", {self.speed:.3g} steps/s"
            if self.total:
                text += f", {duration((self.total - self.step) / self.speed)} left"
        return text


class Clock(NamedTuple):
    """What the steps of a training cost.

    Attributes:
        steps: generator steps done at each log point, from 0 on.
        times: seconds of training until then.
        images_of_a_step: real images seen in a generator step.
    """

    steps: np.ndarray
    times: np.ndarray
    images_of_a_step: int

    def seconds(self, steps: np.ndarray) -> np.ndarray:
        """Seconds of training until each of `steps`, at most those that were logged."""
        return np.interp(steps, self.steps, self.times)


def workdir_of(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The workdir of a cell."""
    return pathlib.Path(folder) / "run"


def is_done(folder: str | os.PathLike[str]) -> bool:
    """Whether the run of a cell has finished, even if another process trained it.

    A run whose records are damaged has not: the training that is started for it says so.
    """
    try:
        return status_of(workdir_of(folder)).is_over
    except UNREADABLE:
        return False


def made(folder: str | os.PathLike[str]) -> Made:
    """What made the run of a cell, see `provenance.made_of`."""
    return made_of(map(manifest.read_manifest, _folders(folder)))


def threads_of(folder: str | os.PathLike[str]) -> int | None:
    """The CPU threads of the last start of a run; None if it has not started or does not say."""
    try:
        manifests = [manifest.read_manifest(phase) for phase in _folders(folder)]
    except UNREADABLE:
        return None
    return manifest.threads_of(start for found in manifests for start in manifest.starts_of(found))


def _folders(folder):
    """The folders of the phases of a cell that have started, or that of its run."""
    workdir = workdir_of(folder)
    return started(workdir) or [workdir]


def progress_text(folder: str | os.PathLike[str], otherwise: str) -> str:
    """The progress of the run in words; `otherwise` before its first log point."""
    try:
        return str(progress_of(folder) or otherwise)
    except UNREADABLE as error:
        return f"unknown: {error}"


def progress_of(folder: str | os.PathLike[str]) -> Progress | None:
    """The `Progress` of the run, or None before its first log point."""
    workdir = last_run(workdir_of(folder))
    records_there = read_json_lines(workdir / "metrics.jsonl")
    logged = [record for record in records_there if isinstance(record.get("time"), numbers.Real)]
    if not logged:
        return None
    speed = None
    if len(logged) > 1:
        before, last = logged[-2:]
        seconds = last["time"] - before["time"]
        speed = (last["step"] - before["step"]) / seconds if seconds > 0 else None
    phase = "" if workdir == workdir_of(folder) else workdir.name
    return Progress(logged[-1]["step"], _total_steps(workdir), speed, phase)


def clock_of(folder: str | os.PathLike[str]) -> Clock | None:
    """The `Clock` of a run, of its last phase if it has several.

    Between log points without a speed, because something was compiled there, the speed is the mean
    of the others.

    Returns:
        None if the run has not measured its speed or does not clearly say the size of its batches.
    """
    workdir = last_run(workdir_of(folder))
    logged = read_json_lines(workdir / "metrics.jsonl")
    speeds = [r.get("steps_per_second") for r in logged]
    known = [1 / speed for speed in speeds if speed]
    images = 1
    for name in ("batch_size", "discriminator_steps"):
        text = _setting(workdir, f"Algorithm.{name}")
        if text is None or not text.isdecimal():
            return None
        images *= int(text)
    if not known:
        return None
    steps = np.array([0, *(r["step"] for r in logged)])
    seconds = np.array([1 / speed if speed else np.mean(known) for speed in speeds])
    return Clock(steps, np.concatenate([[0], np.cumsum(np.diff(steps) * seconds)]), images)


def scores_of(folder):
    """The records of evaluations.jsonl of a cell, of its last phase if it has several."""
    return records.read(last_run(workdir_of(folder)))


def last_run(workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the newest phase that has started, or the workdir itself."""
    return [workdir, *started(workdir)][-1]


def _total_steps(workdir):
    """As the operative configuration has it, or None if it is not known from that."""
    config = _config(workdir)
    return total_steps_of(config) if config else None


def _setting(workdir, name):
    """A setting as the operative configuration has it, as text, or None."""
    return bindings_of(_config(workdir)).get(name)


def _config(workdir):
    try:
        return (workdir / "config.gin").read_text(encoding="utf-8")
    except (OSError, ValueError):  # ValueError: it is not text.
        return ""
