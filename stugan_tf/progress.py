"""The progress of a long task on stderr: a bar on a terminal, else a line now and then."""

import sys
import time
from typing import Any

from tqdm import tqdm

from stugan_tf.telling import guarded, say


def duration(seconds: float) -> str:
    """A time in hours, minutes and seconds: `1:02:03`, also of days: `49:02:03`."""
    hours, seconds = divmod(round(seconds), 3600)
    return f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}"


class ProgressBar:
    """Shows how many units are done; a context manager.

    Rate and remaining time are measured in this process: on a terminal from its start, elsewhere
    from the line before. Units that took longer than others will, because something was compiled
    for them, are left out.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        what: str = "",
        done: int = 0,
        seconds: float | None = 30,
        leave: bool = False,
    ) -> None:
        """Starts at `done` of `total`.

        Args:
            total: the number of units.
            unit: name of a unit, in the singular.
            what: a label.
            done: the number of units that were done before.
            seconds: time between lines of `advance`; None leaves lines to `show`.
            leave: whether the bar stays on the terminal when it is closed.
        """
        self._total, self._unit, self._what = total, unit, what
        self._done, self._seconds = done, seconds
        self._shown_done, self._shown_time = done, time.monotonic()  # Where the rate begins.
        self._bar: Any = None
        self._stream = guarded(sys.stderr)
        if self._stream.isatty():
            self._bar = tqdm(
                file=self._stream,
                total=total,
                initial=done,
                desc=what or None,
                unit=unit,
                leave=leave,
                dynamic_ncols=True,
            )

    def advance(self, count: int, left_out: float = 0.0) -> None:
        """Adds `count` to the units that are done.

        Args:
            count: the number of units.
            left_out: seconds. If it is above 0, these seconds and units say nothing about the time
                of the others, and the rate leaves them out.
        """
        self._done += count
        if left_out > 0:
            self._shown_done += count
            self._shown_time += left_out
        if self._bar:
            if left_out > 0:
                _leave_out(self._bar, count, left_out)
            else:
                self._bar.update(count)
        elif self._seconds is not None and time.monotonic() - self._shown_time > self._seconds:
            self._line({})

    def show(self, values: dict[str, float]) -> None:
        """Shows numbers by name."""
        if self._bar:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=True)
        else:
            self._line(values)

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar:
            self._bar.write(text, file=self._stream)
        else:
            say(text)

    def _line(self, values: dict[str, float]) -> None:
        now = time.monotonic()
        rate = (self._done - self._shown_done) / max(now - self._shown_time, 1e-9)
        self._shown_done, self._shown_time = self._done, now
        parts = [self._what] if self._what else []
        parts.append(f"{self._unit} {self._done}/{self._total}")
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        if rate > 0:
            left = duration((self._total - self._done) / rate)
            parts += [f"{rate:.3g} {self._unit}s/s", f"{left} left"]
        self.message("  ".join(parts))

    def close(self) -> None:
        """Closes the bar: leaves it on the terminal or removes it."""
        if self._bar:
            self._bar.close()

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _leave_out(bar: Any, count: int, seconds: float) -> None:
    """Moves a bar of tqdm on, as if these units had been done before it began."""
    bar.n += count
    bar.initial += count
    bar.last_print_n += count
    bar.start_t += seconds
    bar.last_print_t += seconds
    bar.refresh()
