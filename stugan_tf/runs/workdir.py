"""The workdir, the folder of a run: which process may write to it, for which configuration."""

import contextlib
import difflib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import tensorflow as tf

from stugan_tf import files
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.former_settings import changes_nothing
from stugan_tf.telling import say

# A run may be resumed with other values of these settings: they do not change the results, apart
# from the rounding of `execution`. `Evaluator.metrics` is not one of them: it is a part of the
# protocol of scores, which decides what `best_by` and `patience` compare.
FREE = (
    "execution",
    "steps_per_execution",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "max_rollbacks",
    "trackers",
)
# All settings of these are also free.
FREE_CONFIGURABLES = ("TensorBoard", "MLflow", "WandB")
# The length of a run may change if the steps that are done would have been the same.
_LENGTH = ("Algorithm.total_steps", "longer.factor")


@contextlib.contextmanager
def numbered(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Makes a workdir such as `runs/00007-sngan_cifar10-stu`, with the next free number.

    Two processes that start at the same time get two numbers. A folder that is empty at the end is
    removed.

    Args:
        root: folder of all runs; made if needed.
        name: name of the run. What is longer than a file system takes is left out.

    Yields:
        The path of the workdir.
    """
    with files.locked(root / ".numbering.lock", f"{root}/", say):
        matches = (re.match(r"\d+", entry.name) for entry in root.iterdir())
        number = 1 + max((int(match[0]) for match in matches if match), default=-1)
        # Names of folders have at most 255 bytes, and other files may be named after them.
        short = os.fsencode(name)[:200].decode(errors="ignore")
        folder = root / f"{number:05d}-{short}"
        folder.mkdir()
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # The folder is not empty.
            folder.rmdir()


@contextlib.contextmanager
def claimed(
    workdir: str | os.PathLike[str], config: str, is_chief: bool
) -> Iterator[tuple[pathlib.Path, pathlib.Path, str | None]]:
    """Locks a workdir, as `locked` does, and settles its configuration, as `settle` does.

    Yields:
        `(workdir, output, former)`: the paths of `locked`, and the configuration of the workdir so
        far if it has another number of steps, else None.
    """
    with locked(workdir, is_chief) as (workdir, output):
        yield workdir, output, settle(output, config, any_length=True) if is_chief else None


@contextlib.contextmanager
def locked(
    workdir: str | os.PathLike[str], is_chief: bool
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Makes a workdir this process's own.

    Args:
        workdir: folder, made if needed.
        is_chief: whether this process writes. Several workers compute the same, and one writes.

    Yields:
        `(workdir, output)`, the paths to read from and to write to.

    Raises:
        InputError: if the folder is in use, or holds something else than a run.
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


def check_space(
    workdir: str | os.PathLike[str], state: Mapping[str, tf.Variable], num_checkpoints: int
) -> None:
    """Raises InputError unless the checkpoints of a run will fit on the disk.

    Args:
        workdir: the folder of the run; it need not exist yet.
        state: {name: tf.Variable} of one checkpoint.
        num_checkpoints: the number of checkpoints that are kept.
    """
    size = sum(variable.dtype.size * variable.shape.num_elements() for variable in state.values())
    path = pathlib.Path(workdir).absolute()
    there = len(list(path.glob("checkpoints/step_*")))
    # Two more than are kept: the best, and the one being written.
    needed = size * max(num_checkpoints + 2 - there, 1)
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{workdir} has {free >> 20} MiB free, but the checkpoints of this run need "
            f"{-(-needed >> 20)} MiB. Free some space, lower train.keep_checkpoints = "
            f"{num_checkpoints}, or choose another --workdir."
        )


def _refuse_foreign(workdir: pathlib.Path) -> None:
    ours = (".lock", ".config.gin.")  # A kill during the first write leaves the second.
    others = sorted(entry.name for entry in workdir.iterdir() if not entry.name.startswith(ours))
    if others and "config.gin" not in others:
        raise InputError(
            f"{workdir} is neither empty nor the folder of a run: it holds {others[0]!r} but no "
            "config.gin. Choose another --workdir."
        )


def settle(workdir: pathlib.Path, config: str, any_length: bool = False) -> str | None:
    """Writes a configuration to `config.gin` of a workdir, or compares it with that file.

    Args:
        workdir: `pathlib.Path`.
        config: the configuration as text.
        any_length: whether the number of steps may differ.

    Returns:
        The configuration so far if it has another number of steps, else None.

    Raises:
        InputError: if the workdir belongs to another configuration.
    """
    path = workdir / "config.gin"
    if not path.exists():
        keep(workdir, config)
        return None
    former = path.read_text(encoding="utf-8")
    stored, ours = fixed_lines(former), fixed_lines(config)
    if stored == ours:
        return None
    if any_length and _without_length(former) == _without_length(config):
        return former
    changes = [line for line in difflib.ndiff(stored, ours) if line[0] in "+-"]
    raise InputError(
        f"{workdir} belongs to another configuration ('-' there, '+' here):\n  "
        + "\n  ".join(changes[:20])
        + "\nChoose another --workdir, or set these back to resume that run."
    )


def keep(workdir: pathlib.Path, config: str) -> None:
    """Writes a configuration to `config.gin` of a workdir."""
    write_atomically(workdir / "config.gin", config.encode())


def fixed_lines(config: str) -> list[str]:
    """The lines of a configuration that decide the results."""
    fixed, free = [], False
    for line in map(str.rstrip, config.splitlines()):
        if not line or line[0] == "#":
            continue
        if line[0] != " ":  # Otherwise it continues the value of the line above.
            free = _is_free(line.split(" = ")[0])
        if not free and not changes_nothing(line):
            fixed.append(line)
    return fixed


def _is_free(name: str) -> bool:
    owner, _, parameter = name.rpartition("/")[2].rpartition(".")
    return (owner == "train" and parameter in FREE) or owner in FREE_CONFIGURABLES


def _without_length(config: str) -> list[str]:
    """`fixed_lines` without those that only set the number of steps."""
    lines = fixed_lines(config)
    total = next((line for line in lines if line.startswith(f"{_LENGTH[0]} = ")), "")
    found = re.fullmatch(r".* = %(\S+)", total)
    free = [f"{name} = " for name in _LENGTH]
    if found and sum(f"%{found[1]}" in line for line in lines) == 1:
        free.append(f"{found[1]} = ")  # Nothing else uses the macro.
    return [line for line in lines if not line.startswith(tuple(free))]


def total_steps_of(config: str) -> int | None:
    """The number of steps in a configuration, or None if its text does not clearly say it."""
    found = bindings_of(config)
    total, factor = (found.get(name, "1") for name in _LENGTH)
    while total.startswith("%"):
        total = found.get(total[1:], "")
    return int(total) * int(factor) if total.isdecimal() and factor.isdecimal() else None


def bindings_of(config: str) -> dict[str, str]:
    """{name: value as text} of a configuration as `config.operative_config` writes it."""
    found: dict[str, str] = {}
    name = None
    for line in config.splitlines():
        if line.startswith(" ") and name is not None:  # It continues the value above.
            found[name] = f"{found[name].removesuffix(chr(92))} {line.strip()}".strip()
        elif " = " in line and line[0] != "#":
            name, found[name] = (part.strip() for part in line.split(" = ", 1))
    return found
