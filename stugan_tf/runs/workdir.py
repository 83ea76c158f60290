"""The folder of a run: who may write to it, and what for."""

import contextlib
import difflib
import pathlib
import shutil
import tempfile

from stugan_tf import files
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.former_settings import is_of_nothing

# A run may be resumed with other values of these: they do not change what is computed, but for the
# rounding of another execution.
FREE = (
    "execution",
    "steps_per_execution",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "max_rollbacks",
)


@contextlib.contextmanager
def claimed(workdir, config, is_chief):
    """`locked`, and for one configuration: see `settle`."""
    with locked(workdir, is_chief) as (workdir, output):
        if is_chief:
            settle(output, config)
        yield workdir, output


@contextlib.contextmanager
def locked(workdir, is_chief):
    """Makes a workdir this process's own.

    Args:
        workdir: folder, made if needed.
        is_chief: whether this process writes; of several workers, which compute the same, one does.

    Yields:
        `(workdir, output)`, paths to read from and to write to.

    Raises:
        InputError: if the folder is in use, or of something else.
    """
    workdir = pathlib.Path(workdir)
    if not is_chief:
        with tempfile.TemporaryDirectory() as scratch:
            yield workdir, pathlib.Path(scratch)
        return
    if workdir.is_dir():
        _refuse_foreign(workdir)
    with files.locked(workdir / ".lock", f"--workdir={workdir}"):
        yield workdir, workdir


def check_space(workdir, state, num_checkpoints):
    """Raises InputError unless the checkpoints of a run will fit on the disk.

    Args:
        workdir: where they will be; it need not exist yet.
        state: {name: tf.Variable} of one checkpoint.
        num_checkpoints: how many are kept.
    """
    size = sum(variable.dtype.size * variable.shape.num_elements() for variable in state.values())
    path = pathlib.Path(workdir).absolute()
    there = len(list(path.glob("checkpoints/step_*")))
    # Besides those kept: the best, and the one being written.
    needed = size * max(num_checkpoints + 2 - there, 1)
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{workdir} has {free >> 20} MiB free, but the checkpoints of this run need "
            f"{-(-needed >> 20)} MiB. Free some space, lower train.keep_checkpoints = "
            f"{num_checkpoints}, or choose another --workdir."
        )


def _refuse_foreign(workdir):
    ours = (".lock", ".config.gin.")  # The second is what a kill leaves of the first file written.
    others = sorted(entry.name for entry in workdir.iterdir() if not entry.name.startswith(ours))
    if others and "config.gin" not in others:
        raise InputError(
            f"{workdir} is neither empty nor the folder of a run: it holds {others[0]!r} but no "
            "config.gin. Choose another --workdir."
        )


def settle(workdir, config):
    """Writes a configuration to `config.gin` of a workdir, or compares it with what is there.

    Raises:
        InputError: if the workdir belongs to another one.
    """
    path = workdir / "config.gin"
    if not path.exists():
        write_atomically(path, config.encode())
        return
    stored, ours = fixed_lines(path.read_text()), fixed_lines(config)
    if stored != ours:
        changes = [line for line in difflib.ndiff(stored, ours) if line[0] in "+-"]
        raise InputError(
            f"{workdir} belongs to another configuration ('-' there, '+' here):\n  "
            + "\n  ".join(changes[:20])
            + "\nChoose another --workdir, or set these back to resume that run."
        )


def fixed_lines(config):
    """The lines of a configuration that decide what is computed."""
    free = tuple(f"train.{name} " for name in FREE)
    lines = (line.rstrip() for line in config.splitlines())
    return [
        line
        for line in lines
        if line and line[0] != "#" and not line.startswith(free) and not is_of_nothing(line)
    ]
