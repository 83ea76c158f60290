"""A method as trainings one after the other, its phases; most methods have one.

Each phase is an ordinary run in a folder of its own, so that what works on a run works on a phase.
It may start from a checkpoint of the phase before. Killed at any moment, the same command goes on:
phases that are over are skipped, a phase that has begun resumes by itself.
"""

import contextlib
import dataclasses
import difflib
import functools
import gc
import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from stugan_tf import files
from stugan_tf.errors import InputError
from stugan_tf.runs import plan
from stugan_tf.runs.checkpoints import Checkpoints, DamagedCheckpointError
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.phases import Overview, table
from stugan_tf.runs.status import status_of
from stugan_tf.runs.workdir import fixed_lines, locked, settle


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training of a method.

    Attributes:
        name: of its folder.
        about: what it does, in words.
        begin: `(training, parent) -> facts`, brings it to where it starts, as `Training.run` says;
            `parent` is the `Parent` it starts from, or None.
        settings: {'name.parameter': value}, gin bindings that hold in this phase.
        start_from: the `latest` or the `best` checkpoint of the phase before; None is a start of
            its own, which depends on the configuration alone and can be shared; its checkpoint of
            step 0 is kept.
    """

    name: str
    about: str
    begin: Callable
    settings: dict
    start_from: str | None = None


class BuiltTraining(NamedTuple):
    """A training that is built as a phase wants it."""

    training: Training
    config: str  # Of this training.
    whole: str  # Of the method, all phases.


class Parent:
    """The checkpoint that a phase starts from."""

    def __init__(self, folder, step, first):
        """Notes which.

        Args:
            folder: of the phase before.
            step: of the checkpoint.
            first: folder of the first phase.
        """
        self.folder = folder
        self.step = step
        self._first = first

    def facts(self, workdir):
        """What tells this checkpoint from any other; a folder below `workdir` relative to it."""
        inside = self.folder.is_relative_to(workdir)
        folder = self.folder.relative_to(workdir) if inside else self.folder
        digest = Checkpoints(self.folder / "checkpoints", {}).digest(self.step)
        return {"folder": str(folder), "step": self.step, "sha256": digest}

    def restore(self, training):
        """Gives a training all of its state.

        Raises:
            InputError: if it is damaged.
        """
        _restore(training, self.folder, self.step)

    def rewind(self, training):
        """Gives a training all of the state in which the first phase began.

        Raises:
            InputError: if the checkpoint of that is damaged.
        """
        _restore(training, self._first, 0)

    def check_configuration(self, config, apart_from=()):
        """Raises InputError unless its run had this configuration.

        Args:
            config: as text.
            apart_from: names of parameters in which phases differ.
        """
        free = tuple(f"{name} =" for name in apart_from)
        stored, ours = (
            [line for line in fixed_lines(text) if not line.startswith(free)]
            for text in ((self.folder / "config.gin").read_text(), config)
        )
        changes = [line for line in difflib.ndiff(stored, ours) if line[0] in "+-"]
        if changes:
            raise InputError(
                f"{self.folder} is of another configuration than the phase that is to start from "
                "it ('-' there, '+' here):\n  "
                + "\n  ".join(changes[:20])
                + "\nChoose another --workdir, or set these back."
            )


def _restore(training, folder, step):
    try:
        Checkpoints(folder / "checkpoints", training.state()).restore(step)
    except DamagedCheckpointError as error:
        raise InputError(
            f"{error} Copy it back from a backup, or remove it and all later ones there: the same "
            f"command then trains {folder.name} again from what is left."
        ) from error


class SinglePhase:
    """One training, in the workdir itself."""

    phases = (Phase("training", "the whole training", lambda training, parent: {}, settings={}),)

    def check(self, training):
        """Whatever can be trained is allowed."""

    def describe(self, phase, training):
        """What will be done, as text."""
        del phase
        return plan.describe(training)

    def run(self, workdir, opened, shared=None):
        """Trains to the end; see `Phases.run`."""
        if shared is not None:
            raise InputError(
                "--shared is for methods of several phases, which can share a pre-training. This "
                "one has a single phase: leave it out."
            )
        with opened(self.phases[0]) as (training, config, _):
            training.run(workdir, config)


class Phases:
    """Several trainings, each in a folder below the workdir."""

    def __init__(self, name, phases):
        """Notes what is to be done.

        Args:
            name: of the method.
            phases: list of `Phase`, of which each starts by itself or from the one before.
        """
        self.name = name
        self.phases = phases

    def check(self, training):
        """Raises InputError if a training, built as any phase wants it, does not fit the method."""
        for network, rule in training.algorithm.topology_rules.items():
            if rule is not None:
                raise InputError(
                    f"{self.name} keeps masks as they are within a phase, but "
                    f"Algorithm.{network}_exploration is set. Set it to None."
                )
        if training.best_by is None and any(phase.start_from == "best" for phase in self.phases):
            raise InputError(
                f"{self.name} is to start from the best checkpoint, but none is marked as such. "
                "Set train.evaluator, train.evaluate_every and train.best_by, or "
                f"{self.name}.start_from = 'latest'."
            )

    def describe(self, phase, training):
        """What will be done, as text: all phases, and the first in full."""
        lines = [
            f"{self.name}: {len(self.phases)} phases of {training.algorithm.total_steps:,} steps"
        ]
        lines += [
            f"  {'->' if one is phase else '  '} {one.name}: {one.about}" for one in self.phases
        ]
        # Of others the masks are known when they have begun.
        if phase.start_from is None:
            lines += ["", plan.describe(training)]
        return "\n".join(lines)

    def run(self, workdir, opened, shared=None):
        """Goes through all phases, from where the workdir stands.

        Args:
            workdir: folder above those of the phases; made if needed.
            opened: `phase -> context manager` of a `BuiltTraining`.
            shared: folder for phases that start by themselves: each is trained once for all
                methods of the same configuration. None keeps them in the workdir.

        Raises:
            InputError, FailedRun, Interrupted: as `Training.run`.
        """
        workdir = pathlib.Path(workdir)
        overview = Overview(workdir, self.phases)
        with contextlib.ExitStack() as claims:
            top = MethodWorkdir(workdir, overview, claims)
            for number, phase in enumerate(self.phases, start=1):
                if number == len(self.phases) or not overview.is_finished(phase.name):
                    self._run_phase(number, phase, top, opened, shared)
                    gc.collect()  # Before the next training is built, for memory is scarce.
        print(table(workdir), file=sys.stderr)

    def _run_phase(self, number, phase, top, opened, shared):
        with opened(phase) as (training, config, whole):
            top.claim(training.is_chief, whole)
            parent = self.parent(number, phase, top.overview, config)

            def begin(training):
                facts = {
                    "method": self.name,
                    "name": phase.name,
                    "number": number,
                    "parent": parent and parent.facts(top.workdir),
                    **phase.begin(training, parent),
                }
                return {"phase": facts}

            with _folder(phase, top, training, config, shared) as folder:
                top.note(phase, state="started", folder=folder)
                if number == len(self.phases) or not status_of(folder).keeps_its_end:
                    label = f"{phase.name} ({number} of {len(self.phases)})"
                    training.run(folder, config, begin, label, keep_start=parent is None)
                top.note(phase, state="finished", **_result(training, folder))

    def parent(self, number, phase, overview, config):
        """The `Parent` that a phase starts from; None if it starts by itself.

        Args:
            number: of the phase, from 1.
            phase: the phase.
            overview: the `Overview` of the run.
            config: its configuration as text.

        Raises:
            InputError: if it is to start from a best checkpoint, and none is the best.
        """
        if phase.start_from is None:
            return None
        before = self.phases[number - 2]
        folder, step = overview.folder(before.name), overview.step(before.name, phase.start_from)
        if step is None:
            raise InputError(
                f"No checkpoint in {folder} has a finite score, so none is the best. Set "
                f"{self.name}.start_from = 'latest', with another --workdir."
            )
        parent = Parent(folder, step, first=overview.folder(self.phases[0].name))
        settings = dict(before.settings.items() ^ phase.settings.items())
        parent.check_configuration(config, apart_from=settings)
        return parent


class MethodWorkdir:
    """The workdir above the phases: taken when the first of them is ready to start."""

    def __init__(self, workdir, overview, claims):
        """Notes which; `claims` is the `ExitStack` that gives it back."""
        self.workdir = workdir
        self.overview = overview
        self._claims = claims
        self._output = None

    def claim(self, is_chief, config):
        """Takes the workdir, the first time, and settles the configuration of the method."""
        if self._output is None:
            _, self._output = self._claims.enter_context(locked(self.workdir, is_chief))
        settle(self._output, config)

    def note(self, phase, **values):
        """Adds to what is known of a phase."""
        self.overview.note(self._output, phase.name, **values)


@contextlib.contextmanager
def _folder(phase, top, training, config, shared):
    """Where a phase is trained: where it was begun, else in `shared` if it can be.

    A folder outside of the workdir is this process's while the context is open.
    """
    folder = top.overview.folder(phase.name)
    if folder is None and shared is not None and phase.start_from is None:
        folder = pathlib.Path(shared).absolute() / f"{phase.name}_{_digest(training, config)}"
    folder = folder or top.workdir / phase.name
    with contextlib.nullcontext() if folder.parent == top.workdir else turn(folder):
        yield folder


def _digest(training, config):
    """Of what decides the result of a training that starts by itself."""
    text = "\n".join([*fixed_lines(config), training.inspection.fingerprint])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def turn(folder):
    """Waits until no other process has this folder, and keeps it while the context is open."""
    say = functools.partial(print, file=sys.stderr, flush=True)
    return files.locked(folder.parent / f".{folder.name}.lock", f"--shared: {folder}", say)


def _result(training, folder):
    """What the overview says of a phase that is over."""
    checkpoints = Checkpoints(folder / "checkpoints", {})
    scoring = training.scoring
    return {
        "steps": checkpoints.steps()[-1],
        "latest": checkpoints.steps()[-1],
        "best": checkpoints.best(),
        "sparsity": {
            name: of_network["sparsity"]
            for name, of_network in read_manifest(folder)["weights"].items()
        },
        "scores": scoring.best(folder / "evaluations.jsonl") if scoring else {},
    }
