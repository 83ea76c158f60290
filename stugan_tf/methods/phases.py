"""A method as one or several trainings, its phases; most methods have one phase.

Each phase is an ordinary run in its own folder, so every command that takes a run takes a phase. A
phase may start from a checkpoint of the phase before. The command can be killed at any moment:
started again, it skips finished phases and resumes the phase that has begun.
"""

import contextlib
import dataclasses
import difflib
import gc
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from stugan_tf import files
from stugan_tf.errors import InputError
from stugan_tf.runs import plan
from stugan_tf.runs.checkpoints import Checkpoints, DamagedCheckpointError
from stugan_tf.runs.loop import Training
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.phases import Overview, table
from stugan_tf.runs.status import status_of
from stugan_tf.runs.warm_start import WarmStart
from stugan_tf.runs.workdir import fixed_lines, locked, settle
from stugan_tf.telling import say


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training of a method.

    Attributes:
        name: name of its folder.
        about: what it does, in words.
        begin: `(training, parent) -> facts`, prepares the training, see `Training.run`. `parent`
            is the `Parent` that it starts from, or None.
        settings: {'name.parameter': value}, gin bindings that apply in this phase.
        start_from: 'latest' or 'best', a checkpoint of the phase before. None means that the phase
            starts by itself: it depends on the configuration alone, can be shared, and keeps its
            checkpoint of step 0.
    """

    name: str
    about: str
    begin: Callable
    settings: dict
    start_from: str | None = None


class BuiltTraining(NamedTuple):
    """A training that is built with the settings of a phase.

    Attributes:
        training: the `Training`.
        config: the operative configuration of this training.
        whole: the operative configuration of the method, for all phases.
    """

    training: Training
    config: str
    whole: str


class Parent:
    """The checkpoint that a phase starts from."""

    def __init__(self, folder: pathlib.Path, step: int, first: pathlib.Path) -> None:
        """Keeps where the checkpoint is.

        Args:
            folder: folder of the phase before.
            step: step of the checkpoint.
            first: folder of the first phase.
        """
        self.folder = folder
        self.step = step
        self._first = first

    def facts(self, workdir: pathlib.Path) -> dict[str, Any]:
        """What identifies the checkpoint: folder, step and digest, as JSON can hold them."""
        inside = self.folder.is_relative_to(workdir)
        folder = self.folder.relative_to(workdir) if inside else self.folder
        digest = Checkpoints(self.folder / "checkpoints", {}).digest(self.step)
        return {"folder": str(folder), "step": self.step, "sha256": digest}

    def restore(self, training: Training) -> None:
        """Restores all state of a training from the checkpoint.

        Raises:
            InputError: if the checkpoint is damaged.
        """
        _restore(training, self.folder, self.step)

    def rewind(self, training: Training) -> None:
        """Restores all state of a training from step 0 of the first phase.

        Raises:
            InputError: if that checkpoint is damaged.
        """
        _restore(training, self._first, 0)

    def check_configuration(self, config: str, apart_from: Iterable[str] = ()) -> None:
        """Raises InputError unless the run of the checkpoint had this configuration.

        Args:
            config: the configuration as text.
            apart_from: names of parameters that may differ between the phases.
        """
        free = tuple(f"{name} =" for name in apart_from)
        stored, ours = (
            [line for line in fixed_lines(text) if not line.startswith(free)]
            for text in ((self.folder / "config.gin").read_text(encoding="utf-8"), config)
        )
        changes = [line for line in difflib.ndiff(stored, ours) if line[0] in "+-"]
        if changes:
            raise InputError(
                f"{self.folder} has another configuration than the phase that should start from "
                "it ('-' there, '+' here):\n  "
                + "\n  ".join(changes[:20])
                + "\nChoose another --workdir, or set these back."
            )


def _restore(training, folder, step):
    try:
        Checkpoints(folder / "checkpoints", training.state()).restore(step)
    except DamagedCheckpointError as error:
        raise InputError(
            f"{error} Copy it back from a backup, or remove it and all later checkpoints there: "
            f"the same command then trains {folder.name} again from what is left."
        ) from error


class SinglePhase:
    """One training, in the workdir itself."""

    phases = (Phase("training", "the whole training", lambda training, parent: {}, settings={}),)

    def __init__(self, start: WarmStart | None = None) -> None:
        """Keeps what a new run starts from, or None."""
        self._start = start

    def starting_from(self, start: WarmStart) -> "SinglePhase":
        """This method, whose new run starts from trained networks."""
        start.look()
        return SinglePhase(start)

    def check(self, training: Training) -> None:
        """Allows every training."""

    def describe(self, phase: Phase, training: Training) -> str:
        """The plan of the training, as text."""
        del phase
        start = self._start.check(training) if self._start else []
        return "\n".join([plan.describe(training), *(start and ["", *start])])

    def run(
        self,
        workdir: pathlib.Path,
        opened: Callable[[Phase], contextlib.AbstractContextManager[BuiltTraining]],
        shared: pathlib.Path | None = None,
    ) -> None:
        """Trains to the end; see `Phases.run`."""
        if shared is not None:
            raise InputError(
                "--shared is for methods of several phases, which can share a pre-training. This "
                "one has a single phase: leave it out."
            )
        with opened(self.phases[0]) as (training, config, _):
            training.run(workdir, config, self._start.begin if self._start else lambda training: {})


class Phases:
    """Several trainings, each in a folder below the workdir."""

    def __init__(self, name: str, phases: list[Phase]) -> None:
        """Keeps the phases.

        Args:
            name: name of the method.
            phases: list of `Phase`s. Each starts by itself or from the phase before.
        """
        self.name = name
        self.phases = phases

    def starting_from(self, start: WarmStart) -> "Phases":
        """Raises InputError: the phases start from each other."""
        del start
        raise InputError(
            f"--init_from is for methods of one phase, and {self.name} has {len(self.phases)}, "
            "which start from each other. Leave it out."
        )

    def check(self, training: Training) -> None:
        """Raises InputError if a training, built for any phase, does not fit the method."""
        for network, rule in training.algorithm.topology_rules.items():
            if rule is not None:
                raise InputError(
                    f"{self.name} keeps masks as they are within a phase, but "
                    f"Algorithm.{network}_exploration is set. Set it to None."
                )
        if any(phase.start_from == "best" for phase in self.phases) and training.best_by is None:
            raise InputError(
                f"{self.name} should start from the best checkpoint, but none is marked as best. "
                "Set train.evaluator, train.evaluate_every and train.best_by, or "
                f"{self.name}.start_from = 'latest'."
            )

    def describe(self, phase: Phase, training: Training) -> str:
        """The plan, as text: all phases, and the first in full."""
        lines = [
            f"{self.name}: {len(self.phases)} phases of {training.algorithm.total_steps:,} steps"
        ]
        lines += [
            f"  {'->' if one is phase else '  '} {one.name}: {one.about}" for one in self.phases
        ]
        # The masks of the other phases are not known before they begin.
        if phase.start_from is None:
            lines += ["", plan.describe(training)]
        return "\n".join(lines)

    def run(
        self,
        workdir: str | os.PathLike[str],
        opened: Callable[[Phase], contextlib.AbstractContextManager[BuiltTraining]],
        shared: str | os.PathLike[str] | None = None,
    ) -> None:
        """Trains all phases that are not finished.

        Args:
            workdir: folder above the folders of the phases; made if needed.
            opened: `phase -> context manager` of a `BuiltTraining`.
            shared: folder of phases that start by themselves: each is trained once for all methods
                with the same configuration. None keeps them in the workdir.

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
                    gc.collect()  # Frees memory before the next training is built.
        say(table(workdir))

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
    """The workdir above the phases. It is locked when the first phase is ready to start."""

    def __init__(
        self, workdir: pathlib.Path, overview: Overview, claims: contextlib.ExitStack
    ) -> None:
        """Keeps the workdir; `claims` is the `ExitStack` that unlocks it."""
        self.workdir = workdir
        self.overview = overview
        self._claims = claims
        self._output = None

    def claim(self, is_chief, config):
        """Locks the workdir, the first time, and settles the configuration of the method."""
        if self._output is None:
            _, self._output = self._claims.enter_context(locked(self.workdir, is_chief))
        settle(self._output, config)

    def note(self, phase, **values):
        """Adds values to the record of a phase."""
        self.overview.note(self._output, phase.name, **values)


@contextlib.contextmanager
def _folder(phase, top, training, config, shared):
    """The folder of a phase: where it has begun, else in `shared` if it can be shared.

    While the context is open, this process holds a lock on a folder outside the workdir.
    """
    folder = top.overview.folder(phase.name)
    if folder is None and shared is not None and phase.start_from is None:
        folder = pathlib.Path(shared).absolute() / f"{phase.name}_{_digest(training, config)}"
    folder = folder or top.workdir / phase.name
    with contextlib.nullcontext() if folder.parent == top.workdir else turn(folder):
        yield folder


def _digest(training, config):
    """A digest of everything that decides the result of a training that starts by itself."""
    text = "\n".join([*fixed_lines(config), training.inspection.fingerprint])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def turn(folder: pathlib.Path) -> contextlib.AbstractContextManager[int]:
    """Waits until no other process uses this folder, and locks it while the context is open."""
    return files.locked(folder.parent / f".{folder.name}.lock", f"--shared: {folder}", say)


def _result(training, folder):
    """What the overview says about a finished phase."""
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
