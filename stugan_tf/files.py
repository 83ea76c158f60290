"""Files that survive a kill: written whole or not at all, or line by line; and whose they are."""

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

import numpy as np

from stugan_tf.errors import InputError

_HOLDER = re.compile(r"([1-9]\d{0,8}) (\S+)")  # What a lock file says: process, machine.


class InUseError(InputError):
    """Another process works where this one was to work."""


def cache_folder():
    """Where what can be made or fetched again is kept: `stugan_tf` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "stugan_tf"


def local_path(text, flag):
    """The path that a flag names; a leading `~` is the user's home.

    Args:
        text: str or path, as it was given. Brackets, stars and spaces are part of a name.
        flag: how a message calls it, e.g. `--workdir`.

    Returns:
        A `pathlib.Path`.

    Raises:
        InputError: for an address such as `gs://bucket/run`, which is not in the file system.
    """
    text = os.fspath(text)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text)
    if scheme and text.startswith(f"{scheme.group()}/"):
        raise InputError(
            f"{flag}={text} is an address that begins with {scheme.group()}/, but this must be a "
            "path in the file system. Mount the bucket or share and give the folder it is mounted "
            "at, or copy what you need to a folder."
        )
    return pathlib.Path(os.path.expanduser(text))


@contextlib.contextmanager
def without_patterns(folder):
    """A path to an existing folder that is safe to give to functions that read it as a pattern.

    TensorFlow takes the path of a checkpoint for a pattern, in which `[a]` stands for `a`.

    Args:
        folder: path.

    Yields:
        The path itself, or that of a link to it, which goes when the context is left.
    """
    folder = pathlib.Path(folder)
    if not re.search(r"[][*?{}\\]", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        link = pathlib.Path(scratch) / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def write_atomically(path, data):
    """Writes the bytes `data` to `path`, where a reader sees all of them or the former content."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path):
    """Hex digest of the content of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path, what, wait=None):
    """Holds a lock that no other process can hold, on this machine or another that sees the file.

    The package `filelock` does the same without two things that are needed here: it unlocks when it
    is released, also for a child that keeps the descriptor, and who asks in vain empties the file.

    Args:
        path: of the lock file, made if needed; its folder must be fit to write to.
        what: str that messages begin with, names what is locked.
        wait: called with a line for people if another process has it, then it is waited for; None
            refuses.

    Yields:
        A file descriptor. A child process that keeps it open keeps the lock, whatever becomes of
        this one.

    Raises:
        InUseError: if another process has it and is not to be waited for.
        InputError: if nothing can be written there.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"{what} cannot be written to: {error.strerror}. Choose a folder that can be, or that "
            "does not exist yet."
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


def is_held(path):
    """Whether a process holds the lock at `path`, as far as its note tells; takes no lock itself.

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


def _write_holder(file, text):
    with contextlib.suppress(OSError):  # A full disk hinders nobody from holding a lock.
        file.truncate(0)
        file.write(text.encode())


def _lock(file, flags):
    """Whether the lock is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        return False
    except OSError as error:  # Buckets that are mounted know no locks.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _holder(file):
    """Who has a lock, in words. If it is gone, one that it started still keeps the lock."""
    file.seek(0)
    found = _HOLDER.fullmatch(file.read(300).decode(errors="replace"))
    if not found:
        return "another process"
    pid, host = found.groups()
    if host == platform.node() and not _is_alive(int(pid)):
        return "another process"
    return f"process {pid} on {host}"


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It is somebody else's.
        pass
    return True


class JsonLines:
    """A log of JSON objects, one a line, each with its `step`.

    Opened at step k it forgets later lines: a process that was killed wrote them after the
    checkpoint that this one starts from.
    """

    def __init__(self, path, start_step):
        kept = [values for values in read_json_lines(path) if values["step"] <= start_step]
        write_atomically(path, "".join(map(json_line, kept)).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, values):
        """Adds a line of numbers, strings or scalar tensors; what is not finite becomes null."""
        self._file.write(json_line(values))
        self._file.flush()

    def close(self):
        """Closes the file."""
        self._file.close()


def read_json_lines(path):
    """The objects of a JSON lines file, less what a kill tore; none if there is no file."""
    path = pathlib.Path(path)
    objects = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            objects.append(json.loads(line))
    return [found for found in objects if isinstance(found, dict)]


def json_line(values):
    """A dictionary as a line of JSON; values as for `JsonLines.append`."""
    return json.dumps({name: _plain(value) for name, value in values.items()}) + "\n"


def _plain(value):
    if not isinstance(value, (str, dict, list, type(None))):
        value = np.asarray(value).item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
