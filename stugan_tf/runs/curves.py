"""Curves of runs as one picture: losses, scores, densities of the networks, and R_s.

All of it is read from the logs in a workdir. No network is built.
"""

import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from stugan_tf import plots
from stugan_tf.errors import InputError
from stugan_tf.evaluation import records
from stugan_tf.evaluation.table import METRICS
from stugan_tf.files import read_json_lines, short_names, write_atomically
from stugan_tf.runs.manifest import read_manifest
from stugan_tf.runs.status import started, status_of
from stugan_tf.tables import columns

MOST = len(plots.COLOURS)  # runs in one picture
WIDTH, HEIGHT, DOTS = 10.0, 2.8, 160  # inches of the picture and of a panel; dots in an inch
STYLES: tuple[Any, ...] = ("-", "--")  # of the first and the second name of a panel


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves that share their axes.

    Attributes:
        title: what they show.
        unit: label of the vertical axis.
        names: {name of a number in the records: its name in the picture}, at most two.
        value: function from that number to what is drawn.
        axis: how the vertical axis is scaled: "linear", "log", or "from zero".
    """

    title: str
    unit: str
    names: dict[str, str]
    value: Callable[[float], float] = float
    axis: str = "linear"


_OF_LOSSES = Panel("Losses", "loss", {"g_loss": "generator", "d_loss": "discriminator"})
_OF_NETWORKS = (
    Panel(
        "Density of the networks",
        "active weights under masks (%)",
        {"generator_sparsity": "generator", "discriminator_sparsity": "discriminator"},
        lambda sparsity: 100 * (1 - sparsity),
        "from zero",
    ),
    Panel(
        "Exploration rate $R_s$",
        "weights ever active (%)",
        {
            "generator_exploration_rate": "generator",
            "discriminator_exploration_rate": "discriminator",
        },
        lambda rate: 100 * rate,
        "from zero",
    ),
)
# Metrics that are drawn together: each can be had at the cost of the other.
_PAIRS = {"precision": "recall", "density": "coverage"}


@dataclasses.dataclass(frozen=True)
class History:
    """The logs of a run. Phases follow each other: their steps add up.

    Attributes:
        name: name of the run in the picture.
        workdir: its folder.
        metrics: records of `metrics.jsonl` by step.
        scores: records of `evaluations.jsonl` by step, all of one protocol.
        protocol: id of the protocol; None without scores.
        borders: steps at which phases end, without the last one.
        data: name of the data set, or ''.
    """

    name: str
    workdir: pathlib.Path
    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    protocol: str | None
    borders: list[int]
    data: str

    @property
    def steps(self) -> list[int]:
        """The steps of all records."""
        return [record["step"] for record in (*self.metrics, *self.scores)]

    def points(self, name: str) -> list[tuple[int, float]]:
        """[(step, number)] of a number in the logs, by its name there."""
        return [
            (record["step"], record[name])
            for record in (*self.metrics, *self.scores)
            if _is_number(record.get(name))
        ]

    def last(self, name: str) -> float | None:
        """The last number of this name; None without one."""
        return max(self.points(name), key=lambda point: point[0], default=(0, None))[1]

    def best(self, name: str) -> tuple[int, float] | None:
        """(step, value) of the best value of a metric, the earliest of equal ones, or None."""
        found = self.points(name)
        if not found:
            return None
        best = METRICS[name].best(value for _, value in found)
        return next(point for point in found if point[1] == best)


def read(workdirs: Sequence[pathlib.Path]) -> list[History]:
    """The histories of runs.

    The scores of a run are of a protocol that all scored runs have, if there is one; else of the
    run's newest protocol.

    Args:
        workdirs: folders of runs, with or without phases.

    Raises:
        InputError: if there are too many, or a folder is named twice.
    """
    if len(workdirs) > MOST:
        raise InputError(f"A picture shows up to {MOST} runs, got {len(workdirs)}.")
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise InputError("--workdir names a folder twice. Name each run once.")
    scores = [_in_sequence(workdir, records.read)[0] for workdir in workdirs]
    protocols = [[record["protocol"]["id"] for record in of_run] for of_run in scores]
    scored = [set(known) for known in protocols if known]
    shared = set.intersection(*scored) if scored else set()
    first = next((known for known in protocols if known), [])
    common = next((protocol for protocol in reversed(first) if protocol in shared), None)
    histories = []
    for name, workdir, of_run, known in zip(
        short_names(workdirs), workdirs, scores, protocols, strict=True
    ):
        newest = known[-1] if known else None
        chosen = common if common in known else newest
        metrics, ends = _in_sequence(workdir, _logged)
        data = read_manifest((started(workdir) or [workdir])[-1]).get("data", {})
        histories.append(
            History(
                name,
                workdir,
                metrics,
                [record for record in of_run if record["protocol"]["id"] == chosen],
                chosen,
                ends[:-1],
                str(data.get("source", "")),
            )
        )
    return histories


def _logged(folder: pathlib.Path) -> list[dict[str, Any]]:
    return read_json_lines(folder / "metrics.jsonl")


def _in_sequence(
    workdir: pathlib.Path, read_records: Callable[[pathlib.Path], list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[int]]:
    """The records of all phases with their steps added up, and the last step of each phase."""
    found, ends, done = [], [], 0
    for folder in started(workdir) or [workdir]:
        own = read_records(folder)
        found += [{**record, "step": done + record["step"]} for record in own]
        done += max((record["step"] for record in _logged(folder)), default=0)
        ends.append(done)
    return found, ends


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def write(path: pathlib.Path, histories: Sequence[History]) -> None:
    """Writes `drawn(histories)` as a PNG file."""
    write_atomically(path, plots.png(drawn(histories), DOTS))


def drawn(histories: Sequence[History]) -> Any:
    """The histories as one Matplotlib `Figure`.

    Args:
        histories: one or several runs. A single run has a colour for each curve of a panel;
            several have a colour for each run.

    Raises:
        InputError: if Matplotlib is missing, or nothing was logged yet.
    """
    plots.check_plots()
    panels = [
        panel
        for panel in (_OF_LOSSES, *_of_scores(histories), *_OF_NETWORKS)
        if any(history.points(name) for history in histories for name in panel.names)
    ]
    if not panels:
        raise InputError(
            f"Nothing was logged yet in {', '.join(str(one.workdir) for one in histories)}. The "
            "first numbers come after train.log_every steps."
        )
    rows = math.ceil(len(panels) / 2)
    figure = plots.new_figure(WIDTH, 0.7 + HEIGHT * rows)
    # Of an odd number of panels the first is as wide as two.
    extra = len(panels) % 2
    grid = figure.add_gridspec(rows, 2)
    for number, panel in enumerate(panels):
        row, column = divmod(number + (extra if number else 0), 2)
        axes = figure.add_subplot(grid[row, :] if extra and not number else grid[row, column])
        _draw(axes, panel, histories)
    last = max(step for one in histories for step in one.steps)
    for axes in figure.axes:
        axes.set_xlim(0, 1.02 * max(1, last))
    figure.supxlabel("generator steps", fontsize="medium")
    figure.suptitle(_title(histories))
    if len(histories) > 1:
        handles = [_line(number, 0, one.name) for number, one in enumerate(histories)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)))
    return figure


def _of_scores(histories: Sequence[History]) -> list[Panel]:
    """A panel for each metric, or pair of metrics, that a history has."""
    known = [name for name in METRICS if any(one.points(name) for one in histories)]
    differ = len({one.protocol for one in histories} - {None}) > 1
    panels = []
    for name in known:
        if any(_PAIRS.get(first) == name for first in known):
            continue
        metric, second = METRICS[name], _PAIRS.get(name)
        names = {one: METRICS[one].label for one in (name, second) if one in known}
        title = " and ".join(names.values())
        title = title[0].upper() + title[1:]
        if differ:
            title += ", of different protocols"
        elif len(histories) == len(names) == 1:
            step, value = histories[0].best(name) or (0, 0.0)
            title += f": best {value:.4g} at step {step:,}"
        direction = "lower" if metric.best is min else "higher"
        unit = f"{metric.label if len(names) == 1 else 'value'}, {direction} is better"
        panels.append(Panel(title, unit, names, axis="log" if name == "fid" else "linear"))
    return panels


def _draw(axes: Any, panel: Panel, histories: Sequence[History]) -> None:
    several = len(histories) > 1
    there = []
    for number, history in enumerate(histories):
        for index, name in enumerate(panel.names):
            points = history.points(name)
            if not points:
                continue
            there.append(index)
            line = _line(number if several else index, index, "")
            line.set_data([step for step, _ in points], [panel.value(value) for _, value in points])
            line.set_markevery(max(1, len(points) // 10))
            axes.add_line(line)
        for border in history.borders:
            axes.axvline(border, color="0.6", linewidth=0.8, linestyle=":")
    axes.autoscale_view()
    axes.set_title(panel.title, fontsize="medium")
    axes.set_ylabel(panel.unit, fontsize="small")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelsize="small")
    axes.grid(alpha=0.3)
    if panel.axis == "log":
        _make_logarithmic(axes)
    elif panel.axis == "from zero":
        axes.set_ylim(bottom=0)
    if len(panel.names) > 1:
        labels = list(panel.names.values())
        handles = [
            _line(None if several else index, index, labels[index]) for index in sorted({*there})
        ]
        axes.legend(handles=handles, fontsize="small")


def _line(colour: int | None, style: int, label: str) -> Any:
    """A line of a run or a quantity; colour None is grey, for lines of any run."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color="0.4" if colour is None else plots.COLOURS[colour],
        marker="" if colour is None else plots.MARKERS[colour],
        markersize=4,
        linewidth=1.5,
        linestyle=STYLES[style],
        label=label,
    )


def _make_logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(LogFormatter(minor_thresholds=(2, 0.5)))


def _title(histories: Sequence[History]) -> str:
    if len(histories) > 1:
        return ""
    (one,) = histories
    zeros = [
        f"{name} {100 * value:.1f} %"
        for name in ("generator", "discriminator")
        if (value := one.last(f"{name}_sparsity")) is not None
    ]
    facts = [one.data, f"zeros under masks: {', '.join(zeros)}" if zeros else ""]
    return "\n".join(filter(None, (one.name, "; ".join(filter(None, facts)))))


def compared(histories: Sequence[History]) -> str:
    """The runs as a table: where each stands, sparsities, R_s, the best value of each score."""
    names = [name for name in METRICS if any(one.points(name) for one in histories)]
    header = ("run", "state", "s_G", "s_D", "R_s of G", "R_s of D", "steps/s")
    rows = [(*header, *(f"best {name}" for name in names), "protocol")]
    for one in histories:
        numbers_of_networks = [
            _shown(one.last(f"{network}_{what}"))
            for what in ("sparsity", "exploration_rate")
            for network in ("generator", "discriminator")
        ]
        best = [_shown(point[1] if (point := one.best(name)) else None) for name in names]
        speed = _shown(one.last("steps_per_second"))
        state = str(status_of(one.workdir))
        rows.append((one.name, state, *numbers_of_networks, speed, *best, one.protocol or "-"))
    return columns(rows, num_left=2)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
