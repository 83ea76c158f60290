"""The workers of a run on several machines: what TF_CONFIG says, and which of them are missing.

TensorFlow takes TF_CONFIG as it is: a wrong one lets each worker train alone, raises errors about
protocols, or waits for ever without a word. So it is checked here before TensorFlow sees it.
"""

import contextlib
import dataclasses
import difflib
import errno
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.progress import duration
from stugan_tf.telling import say

VARIABLE = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["HOST1:PORT", "HOST2:PORT"]}, "task": {"type": "worker", "index": 0}}'
)
KINDS = ("chief", "worker")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")
_SECONDS = 10.0  # Until the first line about missing workers.
_MOST_SECONDS = 300.0  # Between later ones.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
        addresses: {name such as 'worker 0': its address, 'host:port'}, the chief first.
        own: the name of this process.
    """

    addresses: dict[str, str]
    own: str

    @property
    def others(self) -> dict[str, str]:
        """The addresses of all processes but this one."""
        return {name: text for name, text in self.addresses.items() if name != self.own}


def read_cluster(text: str | None) -> Cluster:
    """Reads the value of TF_CONFIG.

    Args:
        text: str, the value; None if the variable is not set.

    Returns:
        A `Cluster`.

    Raises:
        InputError: if TensorFlow could not work with the value, or would ignore it.
    """
    if text is None:
        raise InputError(
            f"--strategy=multi_worker needs the environment variable {VARIABLE}, which lists "
            "the workers and says which of them this process is."
        )
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is not JSON ({error})" if text.strip() else "is empty") from None
    if not isinstance(found, dict):
        raise _wrong(f"must be a JSON object, got {_short(found)}")
    addresses = _addresses(_entry(found, "cluster"))
    return Cluster(addresses, _own(_entry(found, "task"), addresses))


def _entry(found: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in found:
        close = difflib.get_close_matches(name, map(str, found), 1)
        meant = f", but {close[0]!r}" if close else ""
        raise _wrong(f"has no {name!r}{meant}")
    if not isinstance(found[name], dict):
        raise _wrong(f"must have a JSON object as {name!r}, got {_short(found[name])}")
    return found[name]


def _addresses(cluster: dict[str, Any]) -> dict[str, str]:
    for kind in cluster:
        if kind not in KINDS:
            raise _wrong(
                f"lists processes of the kind {kind!r}, which this training does not have. List "
                f"only {' and '.join(map(repr, KINDS))}"
            )
    found: dict[str, str] = {}
    for kind in KINDS:
        listed = cluster.get(kind, [])
        if not isinstance(listed, list):
            raise _wrong(f"must have a list of addresses as {kind!r}, got {_short(listed)}")
        for index, address in enumerate(listed):
            _check_address(f"{kind} {index}", address)
            found[f"{kind} {index}"] = address
    if not found:
        raise _wrong("lists no worker")
    if "chief 1" in found:
        raise _wrong("lists several chiefs. List one, and the others as 'worker'")
    names: dict[str, str] = {}
    for name, address in found.items():
        former = names.setdefault(address.lower(), name)
        if former != name:
            raise _wrong(f"gives {former} and {name} the same address, {address}")
    return found


def _check_address(name: str, address: Any) -> None:
    matched = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if not matched or not 0 < int(matched[2]) < 2**16:
        raise _wrong(
            f"must give {name} an address such as 'host:2222', with a port from 1 to 65535, got "
            f"{_short(address)}"
        )


def _own(task: dict[str, Any], addresses: dict[str, str]) -> str:
    kind, index = task.get("type"), task.get("index")
    known = ", ".join(addresses)
    if kind == "evaluator":
        raise _wrong(
            "makes this process an evaluator, which this training does not have. Leave it out, "
            "and score the run by `python -m stugan_tf.evaluate --watch --workdir=...`"
        )
    if kind not in KINDS:
        raise _wrong(f"must have 'chief' or 'worker' as type of 'task', got {_short(kind)}")
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise _wrong(f"must have an integer as index of 'task', got {_short(index)}")
    if f"{kind} {index}" not in addresses:
        raise _wrong(f"makes this process {kind} {index}, but lists only {known}")
    return f"{kind} {index}"


def _wrong(what: str) -> InputError:
    return InputError(
        f"--strategy=multi_worker: the environment variable {VARIABLE} {what}. Each worker needs "
        f"one such as {EXAMPLE}, with its own index."
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_port(cluster: Cluster) -> None:
    """Raises InputError if another process on this machine listens at this worker's port."""
    address = cluster.addresses[cluster.own]
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", _host_and_port(address)[1]))
            server.listen()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                return
            raise InputError(
                f"{VARIABLE} gives this process, {cluster.own}, the address {address}, but its "
                f"port cannot be used here: {error.strerror}. Stop the process that has it, such "
                "as a worker of an earlier start, or give all workers another port."
            ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def announced(cluster: Cluster, seconds: float = _SECONDS) -> Iterator[None]:
    """While the context is open, says on stderr which workers are missing, and for how long.

    A process of its own says it: TensorFlow lets no other thread run while it waits.

    Args:
        cluster: the `Cluster` of TF_CONFIG.
        seconds: the time until the first line.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", __name__, str(seconds), str(os.getpid())]
    root = pathlib.Path(__file__).parents[2]
    watch = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        watch.kill()
        watch.wait()
    waited = time.monotonic() - start
    if waited > seconds:
        say(f"all {len(cluster.addresses)} workers are there, after {duration(waited)}")


def announce(cluster: Cluster, seconds: float, is_over: Callable[[], bool]) -> None:
    """Says which workers are missing, until all have answered.

    Args:
        cluster: the `Cluster`.
        seconds: the time until the first line; the time between lines doubles, up to five minutes.
        is_over: is asked about once a second whether to end.
    """
    start = time.monotonic()
    missing, due, every = dict(cluster.others), start + seconds, seconds
    while not is_over():
        reasons = {name: _problem(address) for name, address in missing.items()}
        missing = {name: missing[name] for name, reason in reasons.items() if reason}
        if not missing:
            return
        if time.monotonic() >= due:
            every = min(2 * every, _MOST_SECONDS)
            due = time.monotonic() + every
            listed = ", ".join(f"{n} at {missing[n]} ({reasons[n]})" for n in missing)
            say(
                f"{cluster.own} waits for {len(missing)} of {len(cluster.addresses)} workers, for "
                f"{duration(time.monotonic() - start)} now: {listed}"
            )
        time.sleep(min(1.0, seconds))


def _problem(address: str) -> str:
    """Why nobody answers at an address, in words; '' if somebody does."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=2.0):
            return ""
    except socket.gaierror:
        return "there is no such host"
    except TimeoutError:
        return "no answer"
    except (OSError, UnicodeError) as error:
        return str(getattr(error, "strerror", None) or error).lower()


def _watch() -> None:
    seconds, parent = float(sys.argv[1]), int(sys.argv[2])
    announce(read_cluster(os.environ.get(VARIABLE)), seconds, lambda: os.getppid() != parent)


if __name__ == "__main__":
    _watch()
