"""`phases.json`: what the phases of a method have come to, in the folder above theirs."""

import json
import pathlib

from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.runs.status import PHASES, kept_steps, read_phases, started
from stugan_tf.tables import columns


class Overview:
    """The phases of one workdir by name, each a dictionary.

    `name`, `about`, `state` (waiting, started or finished); once started `folder`, relative to the
    workdir unless it is shared with other runs; once finished `steps`, `latest` and `best` (steps
    of checkpoints), `sparsity` of each network, and `scores`: the best of each metric.
    """

    def __init__(self, workdir, phases):
        """Reads what is there.

        Args:
            workdir: the folder above; it need not exist.
            phases: of the method.
        """
        self._workdir = pathlib.Path(workdir)
        stored = {record["name"]: record for record in read_phases(self._workdir)}
        self._records = {
            phase.name: stored.get(
                phase.name, {"name": phase.name, "about": phase.about, "state": "waiting"}
            )
            for phase in phases
        }

    def folder(self, name):
        """Where a phase is, or None if it has not started."""
        folder = self._records[name].get("folder")
        return None if folder is None else self._workdir / folder

    def step(self, name, which):
        """The step of the `latest` or `best` checkpoint of a finished phase, or None."""
        return self._records[name][which]

    def is_finished(self, name):
        """Whether a phase is over and what others start from is still there."""
        record = self._records[name]
        if record["state"] != "finished":
            return False
        kept = kept_steps(self.folder(name) / "checkpoints")
        return {record["latest"], record["best"]} - {None} <= set(kept)

    def note(self, output, name, **values):
        """Adds to what is known of a phase, and writes it to the folder `output`."""
        folder = values.get("folder")
        if folder is not None and folder.is_relative_to(self._workdir):
            folder = folder.relative_to(self._workdir)  # So that the whole may be moved.
        if folder is not None:
            values["folder"] = str(folder)
        self._records[name] |= values
        text = json.dumps({"phases": list(self._records.values())}, indent=2) + "\n"
        write_atomically(output / PHASES, text.encode())


def run_folder(workdir):
    """The folder of the run that a workdir stands for: of phases, the last that has a checkpoint.

    Raises:
        InputError: if there are phases, but no checkpoint yet.
    """
    workdir = pathlib.Path(workdir)
    phases = read_phases(workdir)
    if not phases:
        return workdir
    for folder in reversed(started(workdir)):
        if kept_steps(folder / "checkpoints"):
            return folder
    raise InputError(
        f"{workdir} is for {len(phases)} phases ({', '.join(r['name'] for r in phases)}), none of "
        "which has a checkpoint yet. Train it first."
    )


def table(workdir):
    """The phases of a workdir as text, or '' if it has none."""
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
