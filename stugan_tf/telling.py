"""What a program tells people on stdout and stderr. Telling about the work never ends the work."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

_PASSING = (errno.ENOSPC, errno.EDQUOT)  # A disk that is full may have room again.


class GuardedStream:
    """A text stream that drops what cannot be written. It never raises an error.

    The reader of a stream may go away: `| head`, a terminal that is closed, a connection that
    breaks. Then the descriptor of the stream is opened on the null device, so that nothing else
    that writes to it fails.

    Attributes:
        failure: the first error, or None.
    """

    def __init__(self, stream: Any) -> None:
        """Keeps the stream; None for a stream that was closed before the program started."""
        self._stream = stream
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Writes a text, or drops it. Returns its length."""
        self._try(self._write, text)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            plain = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            self._stream.write(plain)

    def flush(self) -> None:
        """Flushes the stream."""
        self._try(lambda: self._stream.flush())

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return bool(self._try(lambda: self._stream.isatty()))

    def finish(self) -> None:
        """Flushes the stream. If something was dropped, the end of the program is silent too."""
        self.flush()
        if self.failure is not None:
            self._drop_all()

    def _try(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of the stream. Returns None if the stream is gone or fails."""
        if self._stream is None:
            return None
        try:
            return act(*arguments)
        except (OSError, ValueError) as error:  # ValueError: somebody closed the stream.
            self.failure = self.failure or error
            if getattr(error, "errno", None) not in _PASSING:
                self._drop_all()
            return None

    def _drop_all(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                _open_null(stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guarded(stream: Any) -> GuardedStream:
    """A stream that never raises; the stream itself if it is one."""
    return stream if isinstance(stream, GuardedStream) else GuardedStream(stream)


def say(text: str) -> None:
    """Prints a line on stderr, if that is possible."""
    print(text, file=guarded(sys.stderr), flush=True)


def open_standard_descriptors() -> None:
    """Opens stdin, stdout and stderr on the null device where they are closed.

    Otherwise the next file that is opened gets the number of one of them, and what libraries log
    is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)


def _open_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


@contextlib.contextmanager
def standard_streams_guarded() -> Iterator[tuple[GuardedStream, GuardedStream]]:
    """While the context is open, printing to stdout and stderr never raises an error.

    Yields:
        `(stdout, stderr)`.
    """
    former = sys.stdout, sys.stderr
    guards = guarded(sys.stdout), guarded(sys.stderr)
    sys.stdout, sys.stderr = guards
    try:
        yield guards
    finally:
        for guard in guards:
            guard.finish()
        sys.stdout, sys.stderr = former
