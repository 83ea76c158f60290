"""Where the run of a folder stands: the one answer that everybody who asks gets.

Read from small files alone, without TensorFlow and without building anything.
"""

import dataclasses
import json
import pathlib
import re

from stugan_tf.files import is_held
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
        state: one of the five above. `running` means that a process holds the folder, as far as its
            lock tells; `interrupted` that the same command goes on; `finished` that nothing is left
            to do, be it after the last step or after an early end.
        step: of the end if it is finished, else of the newest checkpoint; None if there is none.
        folder: path of the run that this step is counted in: the workdir, or, of several phases,
            that of the newest that has started.
        phase: name of that phase; '' if there is one training only.
        reason: why it failed; '' if it has not.
    """

    state: str
    step: int | None
    folder: pathlib.Path
    phase: str = ""
    reason: str = ""

    @property
    def is_over(self):
        """Whether it has come to its end."""
        return self.state == FINISHED

    @property
    def keeps_its_end(self):
        """Whether it has come to its end and the checkpoint of that is still there."""
        return self.is_over and self.step in kept_steps(self.folder / "checkpoints")

    def __str__(self):
        where = "" if self.step is None else f" at step {self.step:,}"
        phase = f"{self.phase}: " if self.phase else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{phase}{self.state}{where}{reason}"


def status_of(workdir):
    """The `Status` of the run or the phases of a workdir, which need not exist."""
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
        # The end of a phase is not the end of all of them.
        state = INTERRUPTED if of_last.is_over else of_last.state
    return dataclasses.replace(of_last, state=state, phase=name)


def _of_run(folder):
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


def _is_claimed(folder):
    return is_held(folder / ".lock")


def read_phases(workdir):
    """The records of `phases.json` in a folder, see `phases.Overview`; none if it has none."""
    path = pathlib.Path(workdir) / PHASES
    return json.loads(path.read_text())["phases"] if path.exists() else []


def started(workdir):
    """Of the phases of a workdir the folders of those that have started; none if it has none."""
    workdir = pathlib.Path(workdir)
    return [workdir / record["folder"] for record in read_phases(workdir) if "folder" in record]


def kept_steps(directory):
    """The steps of the complete checkpoints in a folder of checkpoints, ascending."""
    matches = (_CHECKPOINT.fullmatch(path.name) for path in pathlib.Path(directory).glob("step_*"))
    return sorted(int(match.group(1)) for match in matches if match)
