"""Commands as child processes that do not outlive the pipeline."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from stugan_tf.errors import FailedRun, InputError

TAIL = 2000  # characters of a log that an error shows
POLL_SECONDS = 0.2

# Executed by a Python process of its own: in this process, which has threads, code between fork and
# exec may hang. A trainer that is asked to end saves first.
_LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run(
    module: str,
    flags: Sequence[str],
    log: str | pathlib.Path,
    show: bool = False,
    keep: Sequence[int] = (),
) -> None:
    """Runs `python -m module flags` to its end.

    Args:
        module: str.
        flags: list of str.
        log: path of a file that its output is added to. Not a pipe: the command may outlive its
            reader.
        show: whether its output is also shown.
        keep: file descriptors that the command holds open, and with them their locks.

    Raises:
        InputError: with its message, if it refused its input.
        FailedRun: if it failed for another reason.
    """
    command = [sys.executable, "-m", module, *map(str, flags)]
    launch = [sys.executable, "-c", _LAUNCH, str(os.getpid()), *command]
    log = pathlib.Path(log)
    start = log.stat().st_size if log.exists() else 0
    with open(log, "ab") as file:
        child = subprocess.Popen(launch, stdout=file, stderr=file, pass_fds=keep)
    try:
        if show:
            _show(child, log, start)
        code = child.wait()
    except KeyboardInterrupt:  # A terminal sends it to the child too.
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if code:
        _fail(module, code, log.read_bytes()[start:].decode(errors="replace"))


def _show(child, log, start):
    """Copies the lines that a child adds to its log to our output, until it ends."""
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        ended = False
        while not ended:
            ended = child.poll() is not None  # Asked first, so that its last lines are read.
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not ended:
                time.sleep(POLL_SECONDS)


def _fail(module, code, output):
    message = output.rpartition("\nerror: ")[2] if "\nerror: " in f"\n{output}" else ""
    if code == 1 and message:
        raise InputError(message.removeprefix("error: ").strip())
    shown = f":\n{output[-TAIL:].strip()}" if output.strip() else "."
    if code < 0:
        code = signal.Signals(-code).name
    raise FailedRun(
        f"{module} ended with {code}{shown}\nThe same command goes on from what was finished."
    )
