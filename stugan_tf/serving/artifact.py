"""Artifacts: numbered folders with an exported generator, a model card and a manifest.

    OUTPUT/1/  OUTPUT/2/  ...      versions, as TensorFlow Serving expects; the newest counts

A version appears in one piece: it is written aside and gets its name last. The checksums of the
manifest guard against damage, not against somebody who can write both files and manifest.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from stugan_tf.choices import in_words
from stugan_tf.errors import InputError
from stugan_tf.files import locked, sha256_of, write_atomically
from stugan_tf.serving.formats import FORMATS
from stugan_tf.serving.interface import Interface

VERSION = 2  # In version 1 the manifest had no checksum of its own.
MANIFEST = "manifest.json"
CARD = "model_card.json"
CARD_TEXT = "MODEL_CARD.md"
MAX_MANIFEST = MAX_CARD = 2**23  # bytes
MAX_FILES = 2**12
MAX_BYTES = 2**34  # of all files; the weights of the largest generator have 2**30
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_ASIDE = ".writing_"


def versions(output: str | os.PathLike[str]) -> list[int]:
    """The numbers of the versions in a folder, ascending."""
    output = pathlib.Path(output)
    entries = output.iterdir() if output.is_dir() else ()
    return sorted(
        int(entry.name) for entry in entries if entry.is_dir() and _NUMBER.fullmatch(entry.name)
    )


@contextlib.contextmanager
def new_version(output: str | os.PathLike[str], kind: str) -> Iterator[tuple[pathlib.Path, int]]:
    """Makes a folder for the next version, and renames it to that version at the end.

    Args:
        output: folder of the versions, made if needed.
        kind: name of one of `FORMATS`.

    Yields:
        (folder, number): the folder to write into, and the number that it will get.

    Raises:
        InputError: if `output` is used for something else.
    """
    output = pathlib.Path(output)
    with locked(output / ".lock", f"--output={output}"):
        _check_is_ours(output, kind)
        number = max(versions(output), default=0) + 1
        with appearing(output, number) as folder:
            yield folder, number


@contextlib.contextmanager
def appearing(output: pathlib.Path, number: int) -> Iterator[pathlib.Path]:
    """Makes a folder to write into, and renames it to version `number` at the end.

    Args:
        output: folder of the versions, which the caller has locked.
        number: number of the version.

    Yields:
        The folder. It is removed if anything fails. If the process is killed, the next writer
        removes it.
    """
    for leftover in output.glob(f"{_ASIDE}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    folder = output / f"{_ASIDE}{number}"
    folder.mkdir()
    try:
        yield folder
        _sync([*folder.rglob("*"), folder])
        folder.rename(output / str(number))
        _sync([output])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_output(output: str | os.PathLike[str], kind: str) -> None:
    """Raises InputError if `new_version` would refuse the folder as it is now."""
    output = pathlib.Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output} is a file. Name a folder.")
    if output.is_dir():
        _check_is_ours(output, kind)


def _check_is_ours(output: pathlib.Path, kind: str) -> None:
    there = versions(output)
    known = set(map(str, there))
    others = sorted(
        entry.name
        for entry in output.iterdir()
        if entry.name not in known and not entry.name.startswith((".lock", _ASIDE))
    )
    if others:
        raise InputError(
            f"--output={output} is neither empty nor a folder of versions: it holds {others[0]!r}. "
            "Choose another."
        )
    if there:
        former = read_manifest(find(output))["kind"]
        if former != kind:
            raise InputError(
                f"--output={output} holds artifacts of format {former}. Choose another folder for "
                f"format {kind}."
            )


def _sync(paths: Iterable[pathlib.Path]) -> None:
    """Writes files and folders to the disk, so that a version is whole after a power cut."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_manifest(folder: pathlib.Path, kind: str, interface: Interface) -> None:
    """Writes the manifest of a version: format, interface, and the SHA-256 of all other files."""
    manifest = {
        "version": VERSION,
        "kind": kind,
        "interface": interface.to_json(),
        "files": {
            name: {"bytes": size, "sha256": sha256_of(folder / name)}
            for name, size in sizes(folder).items()
        },
    }
    manifest["sha256"] = digest_of(manifest)
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def sizes(folder: pathlib.Path) -> dict[str, int]:
    """{path inside the folder: bytes} of its files, in the order of their paths."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest_of(manifest: dict[str, Any]) -> str:
    """The SHA-256 of a manifest without its entry `sha256`."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def find(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a version: the path itself, or the newest version in it that has a manifest.

    A version without a manifest is a copy that has just begun, or an emptied folder.

    Raises:
        InputError: if the path holds no artifact.
    """
    path = pathlib.Path(path)
    if (path / MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise InputError(f"There is no artifact {path}: it is not a folder.")
    there = versions(path)
    if not there:
        raise InputError(
            f"{path} is not an artifact: it holds neither {MANIFEST} nor folders of versions. Make "
            "one by python -m stugan_tf.export."
        )
    whole = [number for number in there if (path / str(number) / MANIFEST).is_file()]
    return path / str((whole or there)[-1])


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks the manifest of a version.

    Raises:
        InputError: if it is missing, damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(_read(path, MAX_MANIFEST))
        version = manifest["version"]
        if type(version) is not int or version != VERSION:
            raise InputError(
                f"{folder} is of version {version!r:.20} of artifacts; this stugan_tf reads "
                f"version {VERSION}. Use the stugan_tf that wrote it, or export it again."
            )
        _check_manifest(manifest)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(path, error) from None
    return manifest


def read_card(folder: pathlib.Path) -> Any:
    """Reads the model card of a version: anything that JSON can hold.

    Raises:
        InputError: if it is missing or not JSON.
    """
    path = folder / CARD
    try:
        return json.loads(_read(path, MAX_CARD))
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, error) from None


def _read(path: pathlib.Path, most: int) -> bytes:
    """The bytes of a file; ValueError if there are more than `most`."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # Reading a pipe would wait.
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError("too long")
    return data


def _unusable(path: pathlib.Path, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else f"{error!r:.80}"
    return InputError(
        f"{path} is missing or damaged ({reason}). Copy or export the artifact again."
    )


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raises ValueError or a similar error if a manifest is damaged, or names files outside.

    Raises InputError if the format is not known.
    """
    files, kind = manifest["files"], manifest["kind"]
    if manifest["sha256"] != digest_of(manifest):
        raise ValueError("checksum")
    if kind not in FORMATS:
        raise InputError(
            f"The artifact is of format {kind!r:.60}; this stugan_tf reads {in_words(FORMATS)}. "
            "Use the stugan_tf that wrote it, or export it again."
        )
    if FORMATS[kind].file not in files or len(files) > MAX_FILES:
        raise ValueError("files")
    num_bytes = 0
    for name, about in files.items():
        parts = pathlib.PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\0" in name or "\\" in name:
            raise ValueError("path")
        size = about["bytes"]
        if type(size) is not int or size < 0 or not isinstance(about["sha256"], str):
            raise TypeError("file")
        num_bytes += size
    if num_bytes > MAX_BYTES:
        raise ValueError("sizes")


def facts(folder: pathlib.Path) -> dict[str, Any]:
    """What a version is, for records of it.

    Returns:
        `sha256` of its manifest, which stands for all its files; `format`; and from its model card
        `precision`, and `step`, `weights` and `batch_norm` of the checkpoint.

    Raises:
        InputError: if the manifest or the card is missing or damaged.
    """
    manifest, card = read_manifest(folder), read_card(folder)
    try:
        found = {"precision": card["precision"], **card["checkpoint"]}
    except (LookupError, TypeError) as error:
        raise _unusable(folder / CARD, error) from None
    return {"sha256": manifest["sha256"], "format": manifest["kind"], **found}


def check_files(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Raises InputError unless all files of a version are as they were written."""
    for name, about in manifest["files"].items():
        path = folder / name
        if not _is_own(folder, name):
            raise InputError(
                f"{folder} cannot be used: {name!r:.200} is missing, or is a link or below one. "
                "Links are not followed, because they may lead anywhere: copy the files themselves "
                "(`cp -rL`), or export it again."
            )
        if path.stat().st_size != about["bytes"]:
            raise InputError(
                f"{folder} is damaged: {name!r:.200} has {path.stat().st_size:,} bytes, not "
                f"{about['bytes']:,}. Copy or export it again."
            )
        if sha256_of(path) != about["sha256"]:
            raise InputError(
                f"{folder} is damaged: {name!r:.200} is not as it was written. Copy or export it "
                "again."
            )


def _is_own(folder: pathlib.Path, name: str) -> bool:
    """Whether the folder has a file of that name that is not a link.

    A link may lead anywhere, even if its target has the right digest now.
    """
    path = folder / name
    try:
        return path.is_file() and path.resolve() == folder.resolve() / name
    except OSError:  # The name is too long for any file.
        return False
