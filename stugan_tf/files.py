"""Files that survive a kill: written whole or not at all, or line by line. Locks and paths."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from stugan_tf.errors import InputError

_HOLDER = re.compile(r"([1-9]\d{0,8}) (\S+)")  # The content of a lock file: process, machine.


class InUseError(InputError):
    """Another process holds the lock that this process needs."""


def cache_folder() -> pathlib.Path:
    """The folder of files that can be made or fetched again: `stugan_tf` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "stugan_tf"


def local_path(text: str | os.PathLike[str], flag: str) -> pathlib.Path:
    """The path that a flag names; a leading `~` is the user's home.

    Args:
        text: str or path, as it was given. Brackets, stars and spaces are part of a name.
        flag: its name in messages, e.g. `--workdir`.

    Returns:
        A `pathlib.Path`.

    Raises:
        InputError: for an address such as `gs://bucket/run`, which is not in the file system.
    """
    text = _text(text, flag)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text)
    if scheme and text.startswith(f"{scheme.group()}/"):
        raise InputError(
            f"{flag}={text} is an address that begins with {scheme.group()}/, but it must be a "
            "path in the file system. Mount the bucket or share and give the folder where it is "
            "mounted, or copy what you need to a folder."
        )
    return pathlib.Path(expanded(text, flag))


def expanded(path: str | os.PathLike[str], name: str) -> str:
    """A path whose leading `~` is the user's home; also an address such as gs://bucket/folder.

    Args:
        path: the path as it was given.
        name: its name in messages.

    Raises:
        InputError: if no file system can have it: it is not UTF-8, too long, or not a path.
    """
    text = os.path.expanduser(_text(path, name))
    try:
        text.encode()
        os.lstat(text)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} is not UTF-8: {text!a}. Rename the file or the folder."
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{name} has a name that is too long: {text}") from error
    except ValueError as error:
        raise InputError(f"{name} holds a zero byte, which no path can: {text!r}.") from error
    return text


def _text(path: str | os.PathLike[str], name: str) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{name} must be a path in quotes, got {path!r}.")
    return os.fspath(path)


def check_folder(text: str, flag: str) -> None:
    """Raises InputError unless a flag names a folder, or an address such as gs://bucket/folder."""
    path = pathlib.Path(expanded(text, flag))
    if "://" in text or path.is_dir():
        return
    if path.exists():
        raise InputError(f"{flag}={text} is a file. Give the folder that holds the images.")
    where = "" if path.is_absolute() else f" in {pathlib.Path.cwd()}"
    raise InputError(f"{flag}={text}: there is no such folder{where}.")


def short_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The shortest ends of paths that tell them apart and are not just version numbers."""
    parts = [pathlib.Path(path).absolute().parts for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names) and not any(name.isdigit() for name in names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(paths, start=1)]


def output_file(text: str, flag: str, suffixes: Sequence[str] = ()) -> pathlib.Path:
    """The path of a file that a command will write. It is checked before there is work to lose.

    Args:
        text: the path as it was given; `~` as for `local_path`.
        flag: its name in messages, e.g. `--output`.
        suffixes: endings that the name may have, in lower case, such as `.png`; () allows all.

    Raises:
        InputError: if it has another ending, is a folder, or cannot be written.
    """
    path = local_path(text, flag)
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{flag}={text} must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise InputError(f"{flag}={text} is a folder. Name a file in it.")
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{flag}={text} cannot be written: {folder} is "
            f"{'not writable' if folder.is_dir() else 'not a folder'}. Choose another."
        )
    return path


@contextlib.contextmanager
def without_patterns(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A path to an existing folder that is safe for functions that read paths as patterns.

    TensorFlow reads the path of a checkpoint as a pattern, in which `[a]` stands for `a`.

    Args:
        folder: path of the folder.

    Yields:
        The path itself, or the path of a link that exists while the context is open.
    """
    folder = pathlib.Path(folder)
    if not re.search(r"[][*?{}\\]", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        link = pathlib.Path(scratch) / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`. Readers see all of it, or the former content of the file."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name has at most 255 bytes, of which its temporary name needs some.
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(
    path: str | os.PathLike[str], what: str, wait: Callable[[str], object] | None = None
) -> Iterator[int]:
    """Holds a lock that excludes all other processes, also on other machines that see the file.

    The package `filelock` does not fit, for two reasons: its release unlocks the file also for a
    child process that keeps the descriptor, and a process that cannot get the lock empties the
    file.

    Args:
        path: path of the lock file, made if needed; its folder must be writable.
        what: name of what is locked, with which messages begin.
        wait: if another process holds the lock, this is called with a message for the user, and the
            lock is waited for. None refuses.

    Yields:
        A file descriptor. A child process that keeps it open keeps the lock, even if this process
        ends.

    Raises:
        InUseError: if another process holds the lock and `wait` is None.
        InputError: if the folder is not writable.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file: BinaryIO = open(path, "ab+", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"{what} cannot be written to: {error.strerror}. Choose a folder that is writable, or "
            "one that does not exist yet."
        ) from error
    with file:
        if not _lock(file, fcntl.LOCK_NB):
            message = f"{what} is in use by {_holder(file)}"
            if wait is None:
                raise InUseError(f"{message}. Wait for it, stop it, or choose another folder.")
            wait(f"{message}: waiting")
            _lock(file, 0)
        _write_holder(file, f"{os.getpid()} {platform.node()}")
        try:
            yield file.fileno()
        finally:
            _write_holder(file, "")


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether a process holds the lock at `path`, by the note in the file. Takes no lock itself.

    A process on another machine counts as alive.
    """
    try:
        found = _HOLDER.fullmatch(pathlib.Path(path).read_bytes()[:300].decode(errors="replace"))
    except OSError:
        return False
    if not found:
        return False
    pid, host = found.groups()
    return host != platform.node() or _is_alive(int(pid))


def _write_holder(file: BinaryIO, text: str) -> None:
    with contextlib.suppress(OSError):  # A full disk does not prevent a lock.
        file.truncate(0)
        file.write(text.encode())


def _lock(file: BinaryIO, flags: int) -> bool:
    """Tries to take the lock. Returns whether it is ours."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        return False
    except OSError as error:  # Mounted buckets do not support locks.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _holder(file: BinaryIO) -> str:
    """The process that holds a lock, in words.

    If that process has ended, a child process of it still holds the lock.
    """
    file.seek(0)
    found = _HOLDER.fullmatch(file.read(300).decode(errors="replace"))
    if not found:
        return "another process"
    pid, host = found.groups()
    if host == platform.node() and not _is_alive(int(pid)):
        return "another process"
    return f"process {pid} on {host}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # The process belongs to another user.
        pass
    return True


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file.

    Raises:
        ValueError: if the file holds something else; the message says what.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return {}
    if not data.strip():
        raise ValueError("it is empty")
    try:
        found = json.loads(data)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


class JsonLines:
    """A log of JSON objects, one on each line, each with its `step`.

    Opened at step k, it drops the lines of later steps: a process that was killed wrote them after
    the checkpoint from which this process starts. Meanwhile `append_json_line` of other processes
    waits, so that none of their lines is lost.
    """

    def __init__(self, path: str | os.PathLike[str], start_step: int) -> None:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _locked_log(path):
            kept = [values for values in read_json_lines(path) if values["step"] <= start_step]
            write_atomically(path, "".join(map(json_line, kept)).encode())
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, values: Mapping[str, Any]) -> None:
        """Adds a line of numbers, strings or scalar tensors. Non-finite numbers become null."""
        self._file.write(json_line(values))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def append_json_line(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Adds a line to a log that another process may have open as `JsonLines`."""
    line = json_line(values).encode()
    with _locked_log(path) as file:
        if file.tell() and _last_byte(file) != b"\n":  # A kill tore the line before.
            line = b"\n" + line
        file.write(line)


@contextlib.contextmanager
def _locked_log(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a log for appending and locks it, until the context is left."""
    while True:
        with open(path, "ab+", buffering=0) as file:
            _lock(file, 0)
            if _is_at(file, path):
                yield file
                return
        # The former holder of the lock has replaced the file: open the new one.


def _is_at(file: BinaryIO, path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records in a log: the JSON objects whose `step` is an integer of at least 0.

    Skips all other lines, such as one that a kill left incomplete. Empty if there is no file.
    """
    path = pathlib.Path(path)
    objects = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            objects.append(json.loads(line))
    return [found for found in objects if isinstance(found, dict) and is_step(found.get("step"))]


def is_step(value: Any) -> bool:
    """Whether a value that was read from JSON can be a number of steps."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def json_line(values: Mapping[str, Any]) -> str:
    """A dictionary as a line of JSON, with values as for `JsonLines.append`."""
    return json.dumps({name: _plain(value) for name, value in values.items()}) + "\n"


def _plain(value: Any) -> Any:
    if not isinstance(value, (str, dict, list, type(None))):
        value = np.asarray(value).item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
