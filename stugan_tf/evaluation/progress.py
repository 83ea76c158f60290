"""How far an evaluation is, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS = 30  # between lines


class Progress:
    """Counts images; a context manager."""

    def __init__(self, what, total, done=0):
        """Starts at `done` of `total` images of `what`."""
        self._what, self._total = what, total
        self._first = self._done = done
        self._start = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit="image", leave=False, dynamic_ncols=True
            )

    def advance(self, count):
        """Notes that `count` more are done."""
        self._done += count
        if self._bar:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._shown > SECONDS:
            self._shown = now
            meter = tqdm.format_meter(
                self._done,
                self._total,
                now - self._start,
                unit="image",
                initial=self._first,
                bar_format="{n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left",
            )
            print(f"{self._what}: {meter}", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.close()
