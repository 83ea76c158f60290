"""Checkpoints that survive kills and bad disks: written aside, verified, renamed.

Each is a folder `step_NNNNNNNN` with TensorFlow's files and `checkpoint.json`: format, step, time,
score and the SHA-256 of each file. Variables are named by their path. Format 1, whose files do not
state a format, named them by their position; `names_by_position` translates these names. A folder
of that name is always complete, because it gets its name last and loses it first, so other
processes can read it at any time.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import time
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from stugan_tf.errors import InputError
from stugan_tf.files import read_json, sha256_of, without_patterns, write_atomically
from stugan_tf.runs.status import kept_steps

FORMAT = 2
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # TensorFlow appends this to the name of a variable.


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        variables: Mapping[str, tf.Variable],
        keep: int = 3,
        keep_start: bool = False,
    ) -> None:
        """Opens `directory`; `save` makes it.

        Args:
            directory: folder of the checkpoints.
            variables: {unique name: tf.Variable}, the content of a checkpoint.
            keep: how many of the newest to keep, at least 1. The best is also kept.
            keep_start: whether the checkpoint of step 0 is also kept.
        """
        if keep < 1:
            raise InputError(f"train.keep_checkpoints must be at least 1, got {keep}.")
        self._directory = pathlib.Path(directory)
        self._variables = dict(variables)
        self._checkpoint = tf.train.Checkpoint(**self._variables)
        self._keep = keep
        self._keep_start = keep_start

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return kept_steps(self._directory)

    def best(self) -> int | None:
        """The step of the checkpoint with the lowest score, or None if no checkpoint has one."""
        scores = {step: self._read_manifest(step).get("score") for step in self.steps()}
        scored = {
            step: score
            for step, score in scores.items()
            if score is not None and math.isfinite(score)
        }
        return min(scored, key=lambda step: (scored[step], step), default=None)

    def digest(self, step: int) -> str:
        """The SHA-256 of the values in the checkpoint of a step.

        It is not that of the files, because TensorFlow can write the same values as other bytes.
        """
        digest = hashlib.sha256()
        with without_patterns(self._path(step)) as path:
            reader = tf.train.load_checkpoint(str(path / "state"))
            for name in sorted(reader.get_variable_to_shape_map()):
                if name.endswith(_VALUE) and not name.startswith("save_counter"):
                    digest.update(name.encode())
                    values = np.ascontiguousarray(reader.get_tensor(name))
                    digest.update(values)  # type: ignore[arg-type]
        return digest.hexdigest()

    def save(self, step: int, score: float | None = None) -> None:
        """Writes a checkpoint and removes those that are not kept.

        Args:
            step: generator steps done; replaces an older checkpoint of the same step.
            score: the number that `best` compares, lower is better. A checkpoint whose score is
                None or not finite is not a candidate.
        """
        for pattern in (".writing_*", ".removing_*"):  # of a process that was killed
            for leftover in self._directory.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)
        temporary = self._directory / f".writing_{step:08d}"
        temporary.mkdir(parents=True)
        try:
            self._checkpoint.write(str(temporary / "state"))
            manifest = {
                "format": FORMAT,
                "step": step,
                "time": time.time(),
                "score": score,
                "sha256": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
            }
            write_atomically(temporary / "checkpoint.json", json.dumps(manifest, indent=1).encode())
            self._remove(step)
            temporary.rename(self._path(step))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._remove_old(step)

    def restore_newest(self) -> int | None:
        """Restores the newest intact checkpoint; skips damaged ones with a warning.

        Returns:
            Its step, or None if there are no checkpoints.

        Raises:
            InputError: if no checkpoint is intact, or a checkpoint holds other variables than
                this run.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                self.restore(step)
            except DamagedCheckpointError as error:
                logging.warning("%s Falling back to the checkpoint before.", error)
            else:
                return step
        if steps:
            raise InputError(
                f"None of the checkpoints in {self._directory} is intact. Copy one back from a "
                "backup, or start again with another --workdir."
            )
        return None

    def restore(self, step: int) -> None:
        """Restores one checkpoint, after verifying its checksums.

        Raises:
            InputError: if it is damaged, holds other variables than this run, or has an unknown
                format.
        """
        path, names = self._verified(step)
        checkpoint = tf.train.Checkpoint(
            **{called: self._variables[name] for name, called in names.items()}
        )
        with without_patterns(path) as readable:
            self._check_same_variables(path, readable / "state", names)
            checkpoint.read(str(readable / "state")).assert_consumed()

    def read(self, step: int, groups: Collection[str]) -> dict[str, np.ndarray]:
        """Reads values of a checkpoint, after verifying its checksums. Restores nothing.

        Args:
            step: of the checkpoint.
            groups: first parts of the names of variables, such as 'generator'.

        Returns:
            {name: array} of all variables of these groups.

        Raises:
            InputError: if it is damaged or has an unknown format.
        """
        path, names = self._verified(step)
        ours_of = {called: name for name, called in names.items()}
        with without_patterns(path) as readable:
            reader = tf.train.load_checkpoint(str(readable / "state"))
            return {
                ours_of.get(name, name): reader.get_tensor(key)
                for name, key in _stored_names(reader.get_variable_to_shape_map()).items()
                if ours_of.get(name, name).partition("/")[0] in groups
            }

    def _verified(self, step):
        """The path of an intact checkpoint, and {name: what it calls our variable}."""
        path = self._path(step)
        manifest = self._read_manifest(step)
        written_as = manifest.get("format", 1)
        if written_as not in (1, FORMAT):
            raise InputError(
                f"The checkpoint {path} is of format {written_as!r}, but this version reads 1 to "
                f"{FORMAT}. Use the version of stugan_tf that wrote it, or a later one."
            )
        for name, expected in manifest.get("sha256", {"state.index": None}).items():
            if not (path / name).is_file() or sha256_of(path / name) != expected:
                raise DamagedCheckpointError(
                    f"The checkpoint {path} is damaged: {name} is not as written."
                )
        names = {name: name for name in self._variables}
        if written_as == 1:
            names = {
                name: former.replace("/", "-") for name, former in names_by_position(names).items()
            }
        return path, names

    def _check_same_variables(self, path, file, names):
        """Raises InputError unless the file has our variables, under the names in `names`."""
        # TensorFlow itself would say this in several hundred lines.
        ours_of = {called: name for name, called in names.items()}
        shapes = dict(tf.train.list_variables(str(file)))
        stored = {
            ours_of.get(name, name): tuple(shapes[key])
            for name, key in _stored_names(shapes).items()
        }
        ours = {name: tuple(variable.shape) for name, variable in self._variables.items()}
        if stored != ours:
            different = [name for name in {**ours, **stored} if stored.get(name) != ours.get(name)]
            first = different[0]
            there, here = (
                f"shape {shapes[first]}" if first in shapes else "no such variable"
                for shapes in (stored, ours)
            )
            raise InputError(
                f"The checkpoint {path} is of another model: {len(different)} variables differ. "
                f"The first is {first}, with {there} there and {here} here. Use the configuration "
                "that wrote it, or another --workdir."
            )

    def _remove_old(self, newest):
        # Later ones are damaged: the run has gone back to an earlier one. They do not count.
        steps = [step for step in self.steps() if step <= newest]
        keep = {*steps[-self._keep :], self.best()}
        for step in self.steps():
            if step not in keep and (step or not self._keep_start):
                self._remove(step)

    def _remove(self, step):
        removed = self._directory / f".removing_{step:08d}"
        with contextlib.suppress(FileNotFoundError):
            self._path(step).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def _read_manifest(self, step):
        with contextlib.suppress(OSError, ValueError):  # A checkpoint without one is damaged.
            return read_json(self._path(step) / "checkpoint.json")
        return {}

    def _path(self, step):
        return self._directory / f"step_{step:08d}"


class DamagedCheckpointError(InputError):
    """A checkpoint is not as it was written."""


# How format 1 named the variables of a group: by their position in it.
_GROUPS = {
    "generator": "generator",
    "discriminator": "discriminator",
    "averaged": "averaged",
    "averaged_seen": "averaged_seen",
    "generator_optimizer": "generator_optimizer",
    "discriminator_optimizer": "discriminator_optimizer",
    "topology/generator": "exploration/generator",
    "topology/discriminator": "exploration/discriminator",
}


def names_by_position(names: Iterable[str]) -> dict[str, str]:
    """The names that variables had in format 1.

    Args:
        names: the names of all variables of a training, in the order of the variables.

    Returns:
        {name: former name}, such as {'generator/block2_c1/kernel': 'generator/017'}.
    """
    former: dict[str, str] = {}
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        former[name] = name
        for group, called in _GROUPS.items():
            if name.startswith(f"{group}/"):
                former[name] = f"{called}/{counts[group]:03d}"
                counts[group] += 1
    return former


def _stored_names(keys):
    """{name of a variable: its key} in a file of TensorFlow with these keys."""
    return {
        _unescaped(key.removesuffix(_VALUE)): key
        for key in keys
        if key.endswith(_VALUE) and not key.startswith("save_counter")
    }


def _unescaped(name):
    """A name that TensorFlow wrote, in which `.S` is a slash and `..` a dot."""
    return re.sub(r"\.([.S])", lambda match: "/" if match.group(1) == "S" else ".", name)
