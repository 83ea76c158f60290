"""Where the run of a folder stands: the one place that all commands ask.

The status is read from small files, without TensorFlow and without building a network.
"""

import dataclasses
import numbers
import os
import pathlib
import re
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.files import is_held, is_step, read_json
from stugan_tf.runs.manifest import read_manifest

PHASES = "phases.json"

NOT_STARTED = "not started"
RUNNING = "running"
INTERRUPTED = "interrupted"
FAILED = "failed"
FINISHED = "finished"

_CHECKPOINT = re.compile(r"step_(\d{8,})")


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        state: one of the five states above. `running`: a process holds the lock of the folder.
            `interrupted`: the same command resumes the run. `finished`: nothing is left to do,
            after the last step or an early end.
        step: the last step of a finished run, else the step of the newest checkpoint; None without
            checkpoints.
        folder: path of the run that counts this step: the workdir, or the folder of the newest
            phase that has started.
        phase: name of that phase; '' for a run without phases.
        reason: why the run failed; '' if it has not.
    """

    state: str
    step: int | None
    folder: pathlib.Path
    phase: str = ""
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the run has finished."""
        return self.state == FINISHED

    @property
    def keeps_its_end(self) -> bool:
        """Whether the run has finished and still has the checkpoint of its last step."""
        return self.is_over and self.step in kept_steps(self.folder / "checkpoints")

    def __str__(self) -> str:
        where = "" if self.step is None else f" at step {self.step:,}"
        phase = f"{self.phase}: " if self.phase else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{phase}{self.state}{where}{reason}"


def status_of(workdir: str | os.PathLike[str]) -> Status:
    """The `Status` of a workdir with a run or with phases. The workdir need not exist."""
    workdir = pathlib.Path(workdir)
    phases = read_phases(workdir)
    if not phases:
        return _of_run(workdir)
    folders = started(workdir)
    if not folders:
        return Status(RUNNING if _is_claimed(workdir) else NOT_STARTED, None, workdir)
    of_last = _of_run(folders[-1])
    name = [record["name"] for record in phases if "folder" in record][-1]
    if all(record["state"] == "finished" for record in phases):
        state = FINISHED
    elif _is_claimed(workdir):
        state = RUNNING
    else:
        # The end of one phase is not the end of the method.
        state = INTERRUPTED if of_last.is_over else of_last.state
    return dataclasses.replace(of_last, state=state, phase=name)


def _of_run(folder: pathlib.Path) -> Status:
    manifest = read_manifest(folder)
    kept = kept_steps(folder / "checkpoints")
    newest = kept[-1] if kept else None
    if "finished" in manifest:
        return Status(FINISHED, manifest["finished"]["step"], folder)
    if _is_claimed(folder):
        return Status(RUNNING, newest, folder)
    if "failed" in manifest:
        return Status(FAILED, newest, folder, reason=manifest["failed"]["reason"])
    return Status(INTERRUPTED if manifest or kept else NOT_STARTED, newest, folder)


def _is_claimed(folder: pathlib.Path) -> bool:
    return is_held(folder / ".lock")


def read_phases(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of `phases.json` in a folder, see `phases.Overview`. Empty without this file.

    Raises:
        InputError: if the file is damaged.
    """
    path = pathlib.Path(workdir) / PHASES
    try:
        found = read_json(path)
        records = found.get("phases") if found else []
        if not isinstance(records, list) or not all(map(_is_phase, records)):
            raise ValueError("'phases' is not a list of phases")
    except ValueError as error:
        raise InputError(
            f"{path} is damaged: {error}. Copy it back from a backup, or start again with another "
            "--workdir."
        ) from None
    return records


def _is_phase(record: Any) -> bool:
    """Whether a record of a phase has what the package reads."""
    if not isinstance(record, dict):
        return False
    texts = [record.get(name) for name in ("name", "state")] + [record.get("folder", "")]
    ends = [record[name] for name in ("latest", "best") if record.get(name) is not None]
    sparsities, scores = record.get("sparsity", {}), record.get("scores", {})
    return (
        all(isinstance(text, str) for text in texts)
        and all(map(is_step, [*ends, record.get("steps", 0)]))
        and isinstance(sparsities, dict)
        and all(isinstance(value, numbers.Real) for value in sparsities.values())
        and isinstance(scores, dict)
        and all(map(_is_best, scores.values()))
        and (record["state"] != "finished" or "folder" in record)
    )


def _is_best(score: Any) -> bool:
    """Whether a value is the record of the best score of a phase."""
    if not isinstance(score, dict):
        return False
    return isinstance(score.get("value"), numbers.Real) and is_step(score.get("step"))


def started(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Folders of the phases that have started. Empty for a run without phases."""
    workdir = pathlib.Path(workdir)
    return [workdir / record["folder"] for record in read_phases(workdir) if "folder" in record]


def kept_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps of the complete checkpoints in a folder `checkpoints/`, ascending."""
    matches = (_CHECKPOINT.fullmatch(path.name) for path in pathlib.Path(directory).glob("step_*"))
    return sorted(int(match.group(1)) for match in matches if match)
