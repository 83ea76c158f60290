"""Quality against time: FID of the runs of a grid against seconds of training and images seen.

Seconds are those of training steps alone, without scores, samples, checkpoints and compilation.
Each run measures its speed (`runs.events.Speed`). Where `benchmarks.step_times` has measured the
steps of all lines in turn on an idle machine, these times count instead.
"""

import csv
import io
import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.experiments import figures, runs
from stugan_tf.experiments.collecting import in_words, of_numbers
from stugan_tf.tables import markdown

STEP_TIMES = "step_times.json"  # In the folder of the grid.
SEED = 0  # of the cells whose steps were measured


class Curve(NamedTuple):
    """The evaluations of a run by one protocol, one number each.

    Attributes:
        line: label of its line in the grid.
        seed: its seed.
        done: whether the run has finished.
        steps: generator steps.
        seconds: of training until then.
        images: real images seen until then, each time one is seen counted.
        fids: FIDs.
    """

    line: str
    seed: int
    done: bool
    steps: np.ndarray
    seconds: np.ndarray
    images: np.ndarray
    fids: np.ndarray

    def seconds_until(self, fid: float) -> float | None:
        """The seconds until FID is at most `fid` for the first time; None if it never is.

        Between two evaluations FID is taken to change evenly.
        """
        reached = np.flatnonzero(self.fids <= fid)
        if not reached.size:
            return None
        i = reached[0]
        if i == 0:
            return float(self.seconds[0])
        share = (self.fids[i - 1] - fid) / (self.fids[i - 1] - self.fids[i])
        return float(self.seconds[i - 1] + share * (self.seconds[i] - self.seconds[i - 1]))


def step_times(folder: pathlib.Path, cells: Mapping[str, str | None]) -> dict[str, float]:
    """{line of the grid in `folder`: seconds a step}, measured in turn; empty if not measured.

    Args:
        folder: the folder of the grid.
        cells: {line: name of its cell}. Times of other cells, such as those of another preset, are
            left out.

    Raises:
        InputError: if the lines were measured on several machines.
    """
    path = folder / STEP_TIMES
    if not path.is_file():
        return {}
    measured = {
        line: record
        for line, record in json.loads(path.read_text(encoding="utf-8")).items()
        if line in cells and record["cell"] == cells[line]
    }
    machines = sorted({record["machine"] for record in measured.values()})
    if len(machines) > 1:
        raise InputError(
            f"{path} has times of several machines, which do not compare: {'; '.join(machines)}. "
            "Measure all lines on one: python -m benchmarks.step_times."
        )
    return {line: statistics.median(record["seconds"]) for line, record in measured.items()}


def curves(results, protocol_id, folder, measured=None):
    """The `Curve`s of the runs of one model that have scores and have measured their speed.

    Args:
        results: `collecting.Result`s.
        protocol_id: id of the protocol of the scores.
        folder: folder of all cells.
        measured: `step_times` of the grid. If there are any, runs of other lines are left out.
    """
    found = []
    for result in results:
        points = figures.curve_of(result, protocol_id)
        clock = runs.clock_of(folder / result.name) if points else None
        line = result.cell.line
        if clock is None or (measured and line not in measured):
            continue
        steps, fids = map(np.array, zip(*points, strict=True))
        seconds = steps * measured[line] if measured else clock.seconds(steps)
        found.append(
            Curve(
                line,
                result.cell.seed,
                result.state == "done",
                steps,
                seconds,
                steps * clock.images_of_a_step,
                fids,
            )
        )
    return found


def as_csv(found: list[Curve]) -> str:
    """All evaluations as CSV: line, seed, step, seconds, images, FID."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["line", "seed", "step", "seconds", "images", "fid"])
    for c in found:
        for step, seconds, images, fid in zip(c.steps, c.seconds, c.images, c.fids, strict=True):
            writer.writerow([c.line, c.seed, step, round(float(seconds), 3), images, float(fid)])
    return file.getvalue()


def as_markdown(reference: str, found: list[Curve], in_turn: bool = False) -> str:
    """A table with a row for each line: speed, seconds, last FID, and when the reference's is met.

    Args:
        reference: label of the line whose last FID, a mean over seeds, the others are to reach.
        found: `Curve`s; those of unfinished runs are left out.
        in_turn: whether seconds are `step_times`.
    """
    done = [c for c in found if c.done]
    lines = {
        line: [c for c in done if c.line == line] for line in dict.fromkeys(c.line for c in done)
    }
    if reference not in lines:
        return f"No run of the reference ({reference}) is done yet."
    goal = statistics.fmean(float(c.fids[-1]) for c in lines[reference])
    whole = statistics.fmean(float(c.seconds[-1]) for c in lines[reference])
    header = ["", "steps", "ms a step", "seconds", "last FID", f"seconds until FID {goal:.1f}", ""]
    rows = []
    for line, of_line in lines.items():
        until = [c.seconds_until(goal) for c in of_line]
        reached = [seconds for seconds in until if seconds is not None]
        text = in_words(of_numbers(reached)) if reached else "not reached"
        if reached and len(reached) < len(until):
            text += f" ({len(reached)} of {len(until)} seeds)"
        share = f"{statistics.fmean(reached) / whole:.2f} of its seconds" if reached else ""
        speeds = of_numbers([float(1e3 * c.seconds[-1] / c.steps[-1]) for c in of_line])
        rows.append(
            [
                line,
                f"{max(int(c.steps[-1]) for c in of_line):,}",
                in_words(speeds),
                in_words(of_numbers([float(c.seconds[-1]) for c in of_line])),
                f"{in_words(of_numbers([float(c.fids[-1]) for c in of_line]))} ({len(of_line)})",
                text,
                share,
            ]
        )
    how = "measured in turn on an idle machine" if in_turn else "as each run measured them"
    return (
        f"{markdown(header, rows)}\n\nMeans ± standard deviation over seeds (their number). "
        f"Seconds are of training steps alone, {how}. The goal, {goal:.1f}, is the last FID of "
        f"{reference}."
    )


def write_figure(path, grid, found):
    """Draws FID against seconds and against images: means of seeds, and a band of their range.

    Args:
        path: path of the files, without suffix. Nothing is written if there is no curve.
        grid: a `Grid`.
        found: `Curve`s of one model.
    """
    if not found:
        return
    figure = figures.new_figure(1, 2, margin=3.5)
    panels = figure.subplots(1, 2, sharey=True)
    labels = [line.label for line in grid.lines]
    for axes, name, unit in (
        (panels[0], "seconds", "seconds of training"),
        (panels[1], "images", "images seen"),
    ):
        for number, label in enumerate(labels):
            of_line = [c for c in found if c.line == label]
            steps = (
                sorted(set.intersection(*(set(c.steps.tolist()) for c in of_line)))
                if of_line
                else []
            )
            if not steps:
                continue
            places = [[c.steps.tolist().index(step) for step in steps] for c in of_line]
            x = np.mean([getattr(c, name)[p] for c, p in zip(of_line, places, strict=True)], axis=0)
            fids = np.array([c.fids[p] for c, p in zip(of_line, places, strict=True)])
            color = f"C{number % 10}"
            style = "--" if label == grid.reference else "-"
            axes.plot(x, fids.mean(axis=0), style, color=color, marker=".", label=label)
            axes.fill_between(x, fids.min(axis=0), fids.max(axis=0), color=color, alpha=0.15)
        axes.set_xlabel(unit)
        figures.scale_fid(axes)
    panels[0].set_ylabel("FID")
    figure.suptitle(grid.title)
    figures.add_legend(figure, grid)
    figures.save(figure, path, grid)
