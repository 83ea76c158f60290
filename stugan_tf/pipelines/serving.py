"""The folder that models are served from, in the layout of TensorFlow Serving.

    SERVING/1/  SERVING/2/         versions, each complete; the highest is served
    SERVING/2/lineage.json         where a version comes from
    SERVING/.withdrawn/2/          a version that was rolled back

A number is never used twice. A version is added and withdrawn by one rename: at each moment a
server sees whole models.
"""

import contextlib
import datetime
import functools
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from stugan_tf import serving
from stugan_tf.errors import FailedRun, InputError
from stugan_tf.files import locked, write_atomically
from stugan_tf.serving import artifact

LINEAGE = "lineage.json"
WITHDRAWN = ".withdrawn"
REASON = "withdrawn.json"


def current(folder: str | pathlib.Path) -> Any:
    """The record of the version that is served; None if there is none."""
    there = artifact.versions(folder)
    return record(folder, there[-1]) if there else None


def record(folder: str | pathlib.Path, version: int | None) -> Any:
    """The record of a version, also of a withdrawn one. None if there is no such version.

    Raises:
        InputError: if it was not pushed by a pipeline, or is damaged.
    """
    if version is None:
        return None
    place = place_of(folder, version)
    if not place.is_dir():
        return None
    try:
        return json.loads((place / LINEAGE).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{place} has no {LINEAGE}, or a damaged one: it was not pushed by a pipeline. "
            "Move it elsewhere, or push to another folder by Push.folder."
        ) from error


def place_of(folder: str | pathlib.Path, version: int) -> pathlib.Path:
    """The folder of a version, also of a withdrawn one; it need not exist."""
    served = pathlib.Path(folder) / str(version)
    return served if served.is_dir() else pathlib.Path(folder) / WITHDRAWN / str(version)


def history(folder: str | pathlib.Path) -> list[dict[str, Any]]:
    """Records of all versions, ascending; withdrawn ones have `withdrawn`: when and why."""
    folder = pathlib.Path(folder)
    gone = artifact.versions(folder / WITHDRAWN)
    found = []
    for version in sorted({*artifact.versions(folder), *gone}):
        values = record(folder, version)
        if version in gone:
            values = {**values, "withdrawn": {"time": "some time", "reason": "not known"}}
            with contextlib.suppress(OSError, ValueError):
                about = json.loads((folder / WITHDRAWN / str(version) / REASON).read_text())
                values["withdrawn"] |= about
        found.append(values)
    return found


def push(folder: str | pathlib.Path, exported: str | pathlib.Path, lineage: dict[str, Any]) -> int:
    """Makes an export the next version.

    An export that cannot be loaded, or that makes images that are not finite, is not pushed.

    Args:
        folder: of versions; made if needed.
        exported: path of the artifact.
        lineage: dictionary that becomes its record. `export` is an id: an export is pushed once,
            and not again after it was withdrawn. `baseline` is the version it was compared with,
            which must still be the served one.

    Returns:
        The version, int.

    Raises:
        InputError: if it was withdrawn, or the folder cannot be used.
        FailedRun: if it does not work, or another version is served now.
    """
    folder = pathlib.Path(folder)
    with _locked(folder):
        for former in history(folder):
            if former["export"] == lineage["export"]:
                if "withdrawn" in former:
                    raise InputError(
                        f"This very model was version {former['version']}, which was withdrawn: "
                        f"{former['withdrawn']['reason']}. Bring it back by `python -m "
                        f"stugan_tf.pipelines.rollback --serving={folder} "
                        f"--version={former['version']}`, or change the configuration."
                    )
                return former["version"]
        _check_baseline(folder, lineage["baseline"])
        versions = [*artifact.versions(folder), *artifact.versions(folder / WITHDRAWN)]
        version = max(versions, default=0) + 1
        with artifact.appearing(folder, version) as aside:
            shutil.copytree(exported, aside, dirs_exist_ok=True)
            text = json.dumps({"version": version, "pushed": _now(), **lineage}, indent=1)
            write_atomically(aside / LINEAGE, f"{text}\n".encode())
            try_out(aside)
    return version


def _check_baseline(folder, baseline):
    """Raises FailedRun if the served version is not the one that a model was compared with."""
    served = max(artifact.versions(folder), default=None)
    if served != baseline:
        raise FailedRun(
            f"Version {served} is served from {folder} by now, but the model was compared with "
            f"{'none' if baseline is None else f'version {baseline}'}. Start the same command "
            "again: it compares them again."
        )


def after_push(folder: str | pathlib.Path, version: int) -> str:
    """Says which version is served: a model that was pushed before may not be the latest."""
    served = artifact.versions(folder)[-1]
    if served == version:
        return f"Version {version} is served from {folder}."
    return (
        f"This model was pushed before, as version {version}; version {served} is served from "
        f"{folder}. To go back: python -m stugan_tf.pipelines.rollback --serving={folder} "
        f"--version={version}"
    )


def try_out(path: str | pathlib.Path) -> None:
    """Loads an artifact, checks its checksums, and draws images.

    Raises:
        FailedRun: if that fails.
    """
    try:
        generator = serving.load(path)
        images = generator(2, seed=0)
    except Exception as error:  # A broken model can raise anything.
        raise FailedRun(f"The export does not work, so it is not pushed: {error}") from error
    if images.dtype != np.uint8 or len(images) != 2:
        raise FailedRun(f"The export draws {images.dtype} {images.shape}, so it is not pushed.")


def roll_back(
    folder: str | pathlib.Path, version: int | None = None, reason: str = ""
) -> tuple[int, list[int]]:
    """Serves an earlier version again and withdraws the later ones.

    Args:
        folder: of versions.
        version: int, the version to go back to, or a withdrawn one to bring back. None is the one
            before the served one.
        reason: str, for the record.

    Returns:
        `(version, withdrawn)`: the served version, and a list of those that are no longer served.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    with _locked(folder):
        there, gone = artifact.versions(folder), artifact.versions(folder / WITHDRAWN)
        if version is None:
            if len(there) < 2:
                raise InputError(
                    f"{folder} serves {there or 'nothing'}: there is no earlier version to go back "
                    f"to. Withdrawn versions: {gone or 'none'}; --version brings one back."
                )
            version = there[-2]
        if version not in there and version not in gone:
            raise InputError(
                f"{folder} has no version {version}. There are {there}, and withdrawn {gone}."
            )
        try_out(place_of(folder, version))
        if version in gone:
            (folder / WITHDRAWN / str(version)).rename(folder / str(version))
            (folder / str(version) / REASON).unlink(missing_ok=True)
        later = [number for number in reversed(there) if number > version]
        (folder / WITHDRAWN).mkdir(exist_ok=True)
        for number in later:
            about = {"time": _now(), "reason": reason or f"rolled back to version {version}"}
            # Inside the folder of the version, so that it moves with it.
            write_atomically(folder / str(number) / REASON, json.dumps(about).encode())
            (folder / str(number)).rename(folder / WITHDRAWN / str(number))
    return version, later


def _locked(folder):
    """Waits for another process that pushes or rolls back, which takes seconds."""
    say = functools.partial(print, flush=True)
    return locked(folder / ".lock", f"Push.folder: {folder}", say)


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
