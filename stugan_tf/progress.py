"""How far something long is, on stderr: a bar on a terminal, a line now and then elsewhere."""

import datetime
import sys
import time

from tqdm import tqdm


class ProgressBar:
    """Counts what is done; a context manager.

    Rate and remaining time are those of this process: elsewhere than on a terminal, those since
    the line before.
    """

    def __init__(self, total, unit, what="", done=0, seconds=30, leave=False):
        """Starts at `done` of `total`.

        Args:
            total: how many there are.
            unit: what is counted, in the singular.
            what: a label.
            done: how many were done before.
            seconds: between lines of `advance`; None leaves lines to `show`.
            leave: whether the bar stays on the terminal when it is closed.
        """
        self._total, self._unit, self._what = total, unit, what
        self._done, self._seconds = done, seconds
        self._shown_done, self._shown_time = done, time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what or None,
                unit=unit,
                leave=leave,
                dynamic_ncols=True,
            )

    def advance(self, count):
        """Notes that `count` more are done."""
        self._done += count
        if self._bar:
            self._bar.update(count)
        elif self._seconds is not None and time.monotonic() - self._shown_time > self._seconds:
            self._line({})

    def show(self, values):
        """Shows numbers by name."""
        if self._bar:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=True)
        else:
            self._line(values)

    def message(self, text):
        """A line of its own above the bar."""
        if self._bar:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _line(self, values):
        now = time.monotonic()
        rate = (self._done - self._shown_done) / max(now - self._shown_time, 1e-9)
        self._shown_done, self._shown_time = self._done, now
        parts = [self._what] if self._what else []
        parts.append(f"{self._unit} {self._done}/{self._total}")
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        if rate > 0:
            left = datetime.timedelta(seconds=round((self._total - self._done) / rate))
            parts += [f"{rate:.3g} {self._unit}s/s", f"{left} left"]
        self.message("  ".join(parts))

    def close(self):
        """Leaves the bar as it stands, or removes it."""
        if self._bar:
            self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
