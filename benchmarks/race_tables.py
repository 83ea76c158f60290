"""Tables of a race of runtimes, from its measurements (`inference`, `browser_inference`).

A measurement is a dictionary that JSON can hold. All have `model`, `sparsity` (of the network that
the runner was given), `threads` and `runner`, and one of

- `batch`, `ms`, `processor_ms`: one call;
- `first_ms`: one start of the process, up to its first image; with `bytes`, of the file;
- `peak_mib`: the most memory of the process so far;
- `rms`, `most_999`, `most`: how far images are from those of TensorFlow in float32, in levels of
  1/255: root mean square, what 99.9 % of the pixels keep within, and the greatest difference.
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One entry of a race, as tables need it.

    Attributes:
        title: name in tables.
        precision: of its arithmetic: 'float32', 'bfloat16' or 'int8'.
        is_rival: whether ours is measured against it.
        skips_zeros: whether its time depends on the sparsity. One that multiplies all zeros runs
            on one network only, the sparsest.
    """

    title: str
    precision: str = "float32"
    is_rival: bool = True
    skips_zeros: bool = False


class Measurements:
    """Rows in a file of JSON lines; a race that was stopped goes on from them."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads what is there; half a line, of a process that was killed, is dropped."""
        self._path = path
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        self.rows: list[Row] = [json.loads(line) for line in whole.splitlines()]

    def keep(self, row: Row) -> None:
        """Adds a row, here and in the file."""
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(f"{json.dumps(row)}\n")

    def count(self, what: str, **same: Any) -> int:
        """How many rows have a value `what`, and these."""
        return len(values(self.rows, what, **same))


def values(rows: Iterable[Row], what: str, **same: Any) -> list[float]:
    """The values `what` of the rows that have it, and these."""
    return [row[what] for row in rows if what in row and same.items() <= row.items()]


def short(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def in_words(numbers: Sequence[float]) -> str:
    """Median, and in brackets the least and the greatest; empty if there are none."""
    if not numbers:
        return ""
    return f"{short(statistics.median(numbers))} ({short(min(numbers))} to {short(max(numbers))})"


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _zeros(entrant: Entrant, sparsity: str) -> str:
    return f"{float(sparsity):.0%}" if entrant.skips_zeros else "any"


def _keys(rows: Iterable[Row], entrants: Mapping[str, Entrant]) -> list[tuple[str, str]]:
    """`(runner, sparsity)` of each line of a table, ours first."""
    order = list(entrants)
    found = {(row["runner"], row["sparsity"]) for row in rows if row["runner"] in entrants}
    return sorted(found, key=lambda key: (order.index(key[0]), -float(key[1])))


def times(rows: list[Row], entrants: Mapping[str, Entrant], what: str = "ms") -> str:
    """Milliseconds of a call, of one model.

    Args:
        rows: measurements of the model.
        entrants: the entries by name.
        what: `ms`, on the clock, or `processor_ms`, of all threads together.
    """
    cells = sorted(
        {(row["threads"], row["batch"]) for row in rows if what in row},
        key=lambda cell: (-cell[0], cell[1]),
    )
    titles = ["runner", "zeros"]
    titles += [f"{counted(threads, 'thread')}, batch {batch}" for threads, batch in cells]
    lines = []
    for name, sparsity in _keys((row for row in rows if what in row), entrants):
        same = {"runner": name, "sparsity": sparsity}
        numbers = [values(rows, what, threads=t, batch=b, **same) for t, b in cells]
        entrant = entrants[name]
        lines.append([entrant.title, _zeros(entrant, sparsity), *map(in_words, numbers)])
    return markdown(titles, lines)


def counted(number: int, noun: str) -> str:
    """'1 thread', '2 threads'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ratios(rows: list[Row], entrants: Mapping[str, Entrant], ours: str) -> str:
    """How many times as long the best rivals take, of one model, by medians.

    A rival that skips zeros is compared at the same sparsity. Above 1 ours is faster.

    Args:
        rows: measurements of the model.
        entrants: the entries by name.
        ours: name of the entry that all others are compared with.
    """
    medians: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if "ms" in row:
            key = (row["runner"], row["sparsity"], row["threads"], row["batch"])
            if key not in medians:
                names = ("runner", "sparsity", "threads", "batch")
                same = dict(zip(names, key, strict=True))
                medians[key] = statistics.median(values(rows, "ms", **same))

    def best(precisions: Sequence[str], sparsity: str, threads: int, batch: int) -> str:
        mine = medians.get((ours, sparsity, threads, batch))
        times = {
            entrants[name].title: median
            for (name, zeros, *cell), median in medians.items()
            if name in entrants
            and entrants[name].is_rival
            and entrants[name].precision in precisions
            and cell == [threads, batch]
            and (zeros == sparsity or not entrants[name].skips_zeros)
        }
        if mine is None or not times:
            return ""
        title = min(times, key=times.__getitem__)
        return f"{times[title] / mine:.2g} ({title})"

    cells = sorted({(row["threads"], row["batch"]) for row in rows if "ms" in row})
    batches = sorted({batch for _, batch in cells})
    precisions = sorted({one.precision for one in entrants.values()})
    titles = ["zeros", "threads", "rivals", *(f"batch {batch}" for batch in batches)]
    lines = []
    for sparsity in sorted({key[1] for key in medians if key[0] == ours}, key=float, reverse=True):
        for threads in sorted({threads for threads, _ in cells}, reverse=True):
            for words, allowed in (("float32", ["float32"]), ("any precision", precisions)):
                best_ones = [best(allowed, sparsity, threads, batch) for batch in batches]
                lines.append([f"{float(sparsity):.0%}", str(threads), words, *best_ones])
    return markdown(titles, lines)


def scaling(rows: list[Row], entrants: Mapping[str, Entrant]) -> str:
    """How many times as fast two threads are as one, of one model, by medians."""
    batches = sorted({row["batch"] for row in rows if "ms" in row})
    lines = []
    for name, sparsity in _keys((row for row in rows if "ms" in row), entrants):
        line = [entrants[name].title, _zeros(entrants[name], sparsity)]
        for batch in batches:
            same = {"runner": name, "sparsity": sparsity, "batch": batch}
            one, two = (values(rows, "ms", threads=threads, **same) for threads in (1, 2))
            both = one and two
            line.append(f"{statistics.median(one) / statistics.median(two):.2f}" if both else "")
        if any(line[2:]):
            lines.append(line)
    return markdown(["runner", "zeros", *(f"batch {batch}" for batch in batches)], lines)


def resources(rows: list[Row], entrants: Mapping[str, Entrant]) -> str:
    """Time to the first image, memory and bytes, of one model."""
    lines = []
    for name, sparsity in _keys((row for row in rows if "first_ms" in row), entrants):
        same = {"runner": name, "sparsity": sparsity}
        peaks = values(rows, "peak_mib", **same)
        size = values(rows, "bytes", **same)[-1]
        line = [entrants[name].title, _zeros(entrants[name], sparsity)]
        line.append(in_words(values(rows, "first_ms", **same)))
        line += [f"{max(peaks):,.0f}" if peaks else "", f"{size / 1024:,.0f}"]
        lines.append(line)
    return markdown(["runner", "zeros", "first image, ms", "peak MiB", "file KiB"], lines)


def errors(rows: list[Row], entrants: Mapping[str, Entrant]) -> str:
    """How far images are from those of TensorFlow, in levels of 1/255."""
    lines = []
    for name, sparsity in _keys((row for row in rows if "rms" in row), entrants):
        same = {"runner": name, "sparsity": sparsity}
        last = [values(rows, what, **same)[-1] for what in ("rms", "most_999", "most")]
        words = (short(value) if value >= 0.001 else "under 0.001" for value in last)
        lines.append([entrants[name].title, *words])
    return markdown(["runner", "rms", "99.9 % of pixels within", "greatest"], lines)
