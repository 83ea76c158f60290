"""Which files of a folder are images, and of which class; what is left out is counted and named.

A file is an image by its suffix or, if the suffix says nothing, by its first bytes. Links are
followed, but each file counts once in a class.
"""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from stugan_tf.data.decoding import is_image
from stugan_tf.errors import InputError
from stugan_tf.files import expanded

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
# Formats of photos that are not read.
CONVERTIBLE = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
)
NUM_FIRST_BYTES = 32
# Folders that systems and programs make beside those of a person, in lower case.
SYSTEM_FOLDERS = (
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "__macosx",
    "__pycache__",
    "lost+found",
    "system volume information",
)
# Names of parts of a data set, in lower case.
SPLITS = (
    *("train", "training", "traina", "trainb", "test", "testing", "testa", "testb"),
    *("val", "valid", "validation", "dev", "eval"),
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        class_names: names of the classes, or None if there are no sub-folders.
        paths: of the images, sorted within each class.
        labels: int32 [n], one for each path.
        remarks: sentences about what was left out and what looks wrong.
    """

    class_names: tuple[str, ...] | None
    paths: list[str]
    labels: np.ndarray
    remarks: tuple[str, ...]


def list_images(path: str | os.PathLike[str]) -> Listing:
    """Finds the images of a folder. Its sub-folders are the classes, sorted by code points.

    Args:
        path: a local folder or an address such as gs://bucket/folder.

    Returns:
        A `Listing`.

    Raises:
        InputError: if `path` is not a folder, cannot be read, holds no image, or has images both in
            sub-folders and beside them.
    """
    path = expanded(path, "`path`")
    if not tf.io.gfile.isdir(path):
        raise InputError(f"`path` {path!r} is not a folder. Give one that holds images.")
    try:
        return _list(path)
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        name = os.fsencode(error.object)
        raise InputError(f"{path} holds a name that is not UTF-8: {name!r}. Rename it.") from error
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{path} cannot be listed: {error}") from error


def _list(path: str) -> Listing:
    walk = _Walk(path)
    flat, folders = walk.top()
    classes = [walk.images(folder) for folder in folders]
    remarks = walk.remarks()
    left_out = "".join(f" {remark}" for remark in remarks)
    if not flat and not any(classes):
        raise InputError(
            f"{path} holds no image: no file ends with {', '.join(SUFFIXES)} or begins with the "
            f"bytes of an image.{left_out}"
        )
    if flat and any(classes):
        raise InputError(
            f"{path} holds images both beside its sub-folders, such as {flat[0]}, and in them. "
            "Move them into sub-folders, one for each class, or have no sub-folders."
        )
    if flat:
        return Listing(None, flat, np.zeros(len(flat), np.int32), remarks)
    names = tuple(folder.name for folder in folders)
    for name, paths in zip(names, classes, strict=True):
        if not paths:
            raise InputError(
                f"{path} has a class without images, {name!r}: remove the folder.{left_out}"
            )
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(paths) for paths in classes])
    found = [image for paths in classes for image in paths]
    about = (*walk.shared(classes), *_about_names(names), *_about_depth(names, found))
    return Listing(names, found, labels, (*remarks, *about))


class _Entry(NamedTuple):
    """A file or folder.

    Attributes:
        name: its name.
        path: the path on which it was found.
        identity: the path without links on the way.
        is_folder: whether it is a folder, or a link to one.
        is_regular: whether it is a file with content, or a link to one.
        is_link: whether it is itself a link.
    """

    name: str
    path: str
    identity: str
    is_folder: bool
    is_regular: bool
    is_link: bool


class _Walk:
    """Walks through the folders below `root` and notes what it leaves out."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/") or root
        self._real_root = "" if _is_remote(root) else os.path.realpath(root)
        self._linked: dict[str, str] = {}  # {path that leads through a link: identity}
        self._hidden: list[tuple[str, int]] = []  # (folder or file, number of files)
        self._others: list[str] = []
        self._repeated: list[str] = []

    def top(self) -> tuple[list[str], list[_Entry]]:
        """The images beside the sub-folders, and the sub-folders that are classes."""
        entries = self._visible(self._root, self._root)
        folders = [entry for entry in entries if entry.is_folder]
        return self._only_images([entry for entry in entries if not entry.is_folder]), folders

    def images(self, folder: _Entry) -> list[str]:
        """The sorted paths of the images in a folder and its sub-folders."""
        plain = [folder]
        links: list[_Entry] = []
        files: list[_Entry] = []
        seen: set[str] = set()
        while plain or links:  # Links come last, so that a file is known by its own path.
            entry = plain.pop() if plain else links.pop(0)
            if entry.identity in seen or self._leads_up(entry):
                self._repeated.append(entry.path)
                continue
            seen.add(entry.identity)
            for inner in self._visible(entry.path, entry.identity):
                if not inner.is_folder:
                    files.append(inner)
                elif inner.is_link:
                    links.append(inner)
                else:
                    plain.append(inner)
        return self._only_images(files)

    def shared(self, classes: Sequence[Sequence[str]]) -> Iterator[str]:
        """A remark about files that several classes hold through links."""
        if not self._linked:
            return
        first: dict[str, int] = {}
        twice = [
            path
            for number, paths in enumerate(classes)
            for path in paths
            if first.setdefault(self._linked.get(path, path), number) != number
        ]
        if twice:
            yield (
                f"{_count(len(twice), 'image')} of several classes at once, through links, such as "
                f"{twice[0]}."
            )

    def remarks(self) -> tuple[str, ...]:
        """Sentences about what was left out."""
        found = []
        hidden = sum(number for _, number in self._hidden)
        if hidden:
            found.append(
                f"Left out: {_count(hidden, 'file')} hidden or of the system, such as "
                f"{self._hidden[0][0]}."
            )
        if self._others:
            kinds = collections.Counter(
                os.path.splitext(path)[1].lower() or "without suffix" for path in self._others
            )
            listed = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common(8))
            convertible = [kind for kind in kinds if kind in CONVERTIBLE]
            advice = (
                f" Convert {' and '.join(convertible)} to JPEG to use them." if convertible else ""
            )
            found.append(
                f"Left out: {_count(len(self._others), 'file')} not of a known image format "
                f"({listed}), such as {min(self._others)}.{advice}"
            )
        if self._repeated:
            found.append(
                f"Left out: {_count(len(self._repeated), 'path')} to files or folders that are "
                f"counted already, through links, such as {min(self._repeated)}."
            )
        return tuple(found)

    def _visible(self, path: str, identity: str) -> list[_Entry]:
        """The entries of a folder, sorted, without those that are hidden or of the system."""
        visible = []
        for entry in sorted(self._entries(path, identity)):
            entry.name.encode()
            if entry.name.startswith(".") or (
                entry.is_folder and entry.name.lower() in SYSTEM_FOLDERS
            ):
                self._note_hidden(entry)
            else:
                visible.append(entry)
                if entry.identity != entry.path and not entry.is_folder:
                    self._linked[entry.path] = entry.identity
        return visible

    def _entries(self, path: str, identity: str) -> Iterator[_Entry]:
        if _is_remote(path):
            for _, folders, files in tf.io.gfile.walk(path):
                for name in [*folders, *files]:
                    inner = f"{path}/{name.rstrip('/')}"
                    is_folder = name in folders
                    yield _Entry(name.rstrip("/"), inner, inner, is_folder, not is_folder, False)
                return
            return
        with os.scandir(path) as entries:
            for entry in entries:
                inner = f"{path}/{entry.name}"
                if not entry.is_symlink():
                    yield _Entry(
                        entry.name,
                        inner,
                        inner if identity == path else f"{identity}/{entry.name}",
                        entry.is_dir(),
                        entry.is_file(),
                        False,
                    )
                    continue
                target = self._identity(inner)
                yield _Entry(
                    entry.name, inner, target, os.path.isdir(inner), os.path.isfile(inner), True
                )

    def _identity(self, path: str) -> str:
        real = os.path.realpath(path)
        if real == self._real_root or real.startswith(f"{self._real_root}/"):
            return f"{self._root}{real[len(self._real_root) :]}"
        return real

    def _leads_up(self, entry: _Entry) -> bool:
        """Whether a link leads to a folder that it lies in."""
        above = self._identity(os.path.dirname(entry.path)) if entry.is_link else ""
        return entry.is_link and f"{above}/".startswith(f"{entry.identity}/")

    def _note_hidden(self, entry: _Entry) -> None:
        if not entry.is_folder:
            if entry.name.lower().endswith(SUFFIXES):  # Others, such as .DS_Store, are no news.
                self._hidden.append((entry.path, 1))
        elif not entry.is_link:
            number = sum(len(files) for _, _, files in _walked(entry.path))
            if number:
                self._hidden.append((entry.path, number))

    def _only_images(self, files: list[_Entry]) -> list[str]:
        unknown = [file for file in files if not file.name.lower().endswith(SUFFIXES)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            contents = pool.map(_first_bytes, unknown)
            found = [is_image(content) for content in contents]
        others = {file.path for file, is_one in zip(unknown, found, strict=True) if not is_one}
        # A link to nothing is kept, so that it is named as damaged. A pipe or a socket is not.
        others |= {file.path for file in files if _is_special(file)}
        self._others += sorted(others)
        chosen = [file for file in files if file.path not in others]
        if any(file.path in self._linked for file in chosen):
            chosen = self._each_once(chosen)
        return sorted(file.path for file in chosen)

    def _each_once(self, files: list[_Entry]) -> list[_Entry]:
        kept: dict[str, _Entry] = {}
        for file in sorted(files, key=lambda file: (file.path in self._linked, file.path)):
            if kept.setdefault(file.identity, file) is not file:
                self._repeated.append(file.path)
        return list(kept.values())


def _is_remote(path: str) -> bool:
    return "://" in path


def _walked(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    return tf.io.gfile.walk(path) if _is_remote(path) else os.walk(path)


def _is_special(file: _Entry) -> bool:
    """Whether it is a pipe, a socket or a device, which would be read for ever."""
    return not file.is_regular and os.path.exists(file.path)


def _first_bytes(file: _Entry) -> bytes:
    if not file.is_regular:
        return b""
    with tf.io.gfile.GFile(file.path, "rb") as opened:
        return opened.read(NUM_FIRST_BYTES)


def _about_names(names: Sequence[str]) -> Iterator[str]:
    """Remarks about folders that are probably not classes, or are numbered in another order."""
    splits = [name for name in names if name.lower() in SPLITS]
    if len(splits) > 1 or len(splits) == len(names):
        yield (
            f"Classes that look like parts of a data set: {', '.join(splits)}. To use one of them, "
            "give its folder as the path; then its own sub-folders are the classes."
        )
    if all(name.isdecimal() for name in names):
        differ = [(label, name) for label, name in enumerate(names) if int(name) != label]
        if differ:
            label, name = differ[0]
            yield (
                "The folders are numbers, but they are sorted as text, and classes are numbered in "
                f"that order: class {label} is the folder {name}."
            )


def _about_depth(names: Sequence[str], paths: Sequence[str]) -> Iterator[str]:
    """A remark if the folders below a single class could be meant as the classes."""
    if len(names) == 1:
        folders = {os.path.dirname(path) for path in paths}
        whole = [f"{folder}/" for folder in folders]
        below = os.path.dirname(os.path.commonprefix(whole))  # noqa: RUF071 - up to a slash
        if below not in folders:
            yield (
                f"All images are of one class, {names[0]}. If the folders in {below} are the "
                "classes, give that as the path."
            )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun} is" if number == 1 else f"{number:,} {noun}s are"
