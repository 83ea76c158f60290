"""`phases.json`: the state of each phase of a method, in the folder above the phases."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.runs.status import PHASES, kept_steps, read_phases, started
from stugan_tf.tables import columns


class Overview:
    """The phases of one workdir by name, each a dictionary.

    All have `name`, `about` and `state` (waiting, started or finished). A phase that has started
    has `folder`, which is relative to the workdir unless other runs share it. A finished phase has
    `steps`, `latest` and `best` (steps of checkpoints), `sparsity` of each network, and `scores`,
    the best value of each metric.
    """

    def __init__(self, workdir: str | os.PathLike[str], phases: Sequence[Any]) -> None:
        """Reads `phases.json`, if there is one.

        Args:
            workdir: the folder above the phases; it need not exist.
            phases: the phases of the method, with `name` and `about`.
        """
        self._workdir = pathlib.Path(workdir)
        stored = {record["name"]: record for record in read_phases(self._workdir)}
        self._records = {
            phase.name: stored.get(
                phase.name, {"name": phase.name, "about": phase.about, "state": "waiting"}
            )
            for phase in phases
        }

    def folder(self, name: str) -> pathlib.Path | None:
        """The folder of a phase, or None if it has not started."""
        folder = self._records[name].get("folder")
        return None if folder is None else self._workdir / folder

    def step(self, name: str, which: str) -> int | None:
        """The step of the `latest` or `best` checkpoint of a finished phase, or None."""
        return self._records[name].get(which)

    def is_finished(self, name: str) -> bool:
        """Whether a phase has finished and the checkpoints that others start from still exist."""
        record = self._records[name]
        if record["state"] != "finished":
            return False
        kept = kept_steps(self._workdir / record["folder"] / "checkpoints")
        return {record.get("latest"), record.get("best")} - {None} <= set(kept)

    def note(self, output: pathlib.Path, name: str, **values: Any) -> None:
        """Adds values to the record of a phase, and writes all records to the folder `output`."""
        folder = values.get("folder")
        if folder is not None and folder.is_relative_to(self._workdir):
            folder = folder.relative_to(self._workdir)  # So that the workdir can be moved.
        if folder is not None:
            values["folder"] = str(folder)
        self._records[name] |= values
        text = json.dumps({"phases": list(self._records.values())}, indent=2) + "\n"
        write_atomically(output / PHASES, text.encode())


def run_folder(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of the run that a workdir stands for.

    For a run without phases this is the workdir; else it is the folder of the last phase that has
    a checkpoint.

    Raises:
        InputError: if there are phases, but no checkpoint yet; or if it is a file.
    """
    workdir = pathlib.Path(workdir)
    if workdir.is_file():
        raise InputError(f"{workdir} is a file. Give the folder of a run.")
    phases = read_phases(workdir)
    if not phases:
        return workdir
    for folder in reversed(started(workdir)):
        if kept_steps(folder / "checkpoints"):
            return folder
    raise InputError(
        f"{workdir} has {len(phases)} phases ({', '.join(r['name'] for r in phases)}), but no "
        "checkpoint yet. Train it first."
    )


def table(workdir: str | os.PathLike[str]) -> str:
    """The phases of a workdir as a table, or '' for a run without phases."""
    phases = read_phases(workdir)
    if not phases:
        return ""
    scores = list(dict.fromkeys(name for record in phases for name in record.get("scores", ())))
    rows = [("phase", "state", "steps", "s_G", "s_D", *(f"best {name}" for name in scores))]
    for record in phases:
        sparsity, best = record.get("sparsity", {}), record.get("scores", {})
        rows.append(
            (
                record["name"],
                record["state"],
                f"{record['steps']:,}" if "steps" in record else "",
                *(
                    f"{sparsity[name]:.4f}" if name in sparsity else ""
                    for name in ("generator", "discriminator")
                ),
                *(
                    f"{best[name]['value']:.5g} at {best[name]['step']}" if name in best else ""
                    for name in scores
                ),
            )
        )
    return columns(rows, num_left=2)
