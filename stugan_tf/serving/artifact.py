"""Artifacts: numbered folders with what was exported, a model card and a manifest of checksums.

    OUTPUT/1/  OUTPUT/2/  ...      versions, as TensorFlow Serving looks for them; the newest counts

A version appears in one piece: it is written aside and gets its name last. The manifest guards
against damage, not against somebody who can write both files and manifest.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil

from stugan_tf.errors import InputError
from stugan_tf.files import locked, sha256_of, write_atomically
from stugan_tf.serving.formats import FORMATS, in_words

VERSION = 2  # since the manifest has a checksum of its own
MANIFEST = "manifest.json"
CARD = "model_card.json"
CARD_TEXT = "MODEL_CARD.md"
MAX_MANIFEST = 2**23
MAX_FILES = 2**12
MAX_BYTES = 2**34  # of all files; the largest generator that is read has 2**30 of weights
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_ASIDE = ".writing_"


def versions(output):
    """The versions in a folder, ascending."""
    output = pathlib.Path(output)
    entries = output.iterdir() if output.is_dir() else ()
    return sorted(
        int(entry.name) for entry in entries if entry.is_dir() and _NUMBER.fullmatch(entry.name)
    )


@contextlib.contextmanager
def new_version(output, kind):
    """Makes a folder to write the next version into, and that version of it at the end.

    Args:
        output: folder, made if needed.
        kind: name of one of `FORMATS`.

    Yields:
        (folder, number): where to write, and the version it will be.

    Raises:
        InputError: if the folder is used for something else.
    """
    output = pathlib.Path(output)
    with locked(output / ".lock", f"--output={output}"):
        _check_is_ours(output, kind)
        number = max(versions(output), default=0) + 1
        with appearing(output, number) as folder:
            yield folder, number


@contextlib.contextmanager
def appearing(output, number):
    """Makes a folder to write into, which at the end is version `number`; `output` is locked.

    Yields:
        The folder. If anything fails it is gone; if the process is killed, the next one that
        writes removes it.
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


def check_output(output, kind):
    """Raises InputError if `new_version` would refuse the folder, as far as can be told before."""
    output = pathlib.Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output} is a file. Name a folder.")
    if output.is_dir():
        _check_is_ours(output, kind)


def _check_is_ours(output, kind):
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
        former = read_manifest(output / str(there[-1]))["kind"]
        if former != kind:
            raise InputError(
                f"--output={output} holds artifacts of format {former}. Choose another folder for "
                f"those of format {kind}."
            )


def _sync(paths):
    """Has the disk write files and folders, so that a version is whole after a power cut."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_manifest(folder, kind, interface):
    """Writes the manifest of a version: what it is, and the SHA-256 of all its other files."""
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


def sizes(folder):
    """{path inside: bytes} of the files in a folder, in the order of their paths."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest_of(manifest):
    """The SHA-256 of a manifest, of all but its `sha256`."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def find(path):
    """The folder of the version that a path means: itself, or the newest in it.

    Raises:
        InputError: if there is none.
    """
    path = pathlib.Path(path)
    if (path / MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise InputError(f"There is no artifact {path}: it is no folder.")
    there = versions(path)
    if not there:
        raise InputError(
            f"{path} is no artifact: it holds neither {MANIFEST} nor folders of versions. Make one "
            "by python -m stugan_tf.export."
        )
    return path / str(there[-1])


def read_manifest(folder):
    """The manifest of a version, with no more in it than this stugan_tf knows.

    Raises:
        InputError: if it is missing, damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a pipe would be waited for")
        with open(path, "rb") as file:
            text = file.read(MAX_MANIFEST + 1)
        if len(text) > MAX_MANIFEST:
            raise ValueError("too long")
        manifest = json.loads(text)
        version = manifest["version"]
        if type(version) is not int or version != VERSION:
            raise InputError(
                f"{folder} is of version {version!r:.20} of artifacts; this stugan_tf reads "
                f"version {VERSION}. Use the stugan_tf that wrote it, or export it anew."
            )
        _check_manifest(manifest)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error!r:.80}"
        raise InputError(
            f"{path} is missing or damaged ({reason}). Copy or export the artifact anew."
        ) from None
    return manifest


def _check_manifest(manifest):
    """Raises ValueError or the like if a manifest is damaged, or names files outside.

    A format that is not known is an InputError.
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


def check_files(folder, manifest):
    """Raises InputError unless all files of a version are as they were written."""
    for name, about in manifest["files"].items():
        path = folder / name
        if not _is_own(folder, name) or path.stat().st_size != about["bytes"]:
            raise InputError(
                f"{folder} is damaged: {name!r:.200} is missing, a link, or not of "
                f"{about['bytes']:,} bytes. Copy or export it anew."
            )
        if sha256_of(path) != about["sha256"]:
            raise InputError(
                f"{folder} is damaged: {name!r:.200} is not as it was written. Copy or export it "
                "anew."
            )


def _is_own(folder, name):
    """Whether there is a file of that name; no link.

    A link may lead anywhere, even if what it leads to has the right digest now.
    """
    path = folder / name
    try:
        return path.is_file() and path.resolve() == folder.resolve() / name
    except OSError:  # The name is too long for any file.
        return False
