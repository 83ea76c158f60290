"""Files that survive a kill: written whole or not at all, or line by line."""

import contextlib
import json
import math
import os
import pathlib

import numpy as np


def cache_folder():
    """Where what can be made or fetched again is kept: `stugan_tf` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "stugan_tf"


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
