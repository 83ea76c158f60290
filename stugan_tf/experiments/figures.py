"""Figures in the paper's form, and curves of FID during training.

A figure shows FID along an axis, with a line for each method; dense training is dashed.
"""

import io
import math
import textwrap

from stugan_tf import plots
from stugan_tf.experiments.collecting import means
from stugan_tf.experiments.grid import S_G
from stugan_tf.files import write_atomically

SUFFIXES = ("png", "svg")
MAX_COLUMNS = 4


def write_figure(path, grid, results, protocols, choice):
    """Draws a figure of the finished runs.

    Missing runs leave a gap. A model without a finished run does not get a panel.

    Args:
        path: path of the files, without suffix. No file is written if no run has finished.
        grid: a `Grid` with an axis.
        results: its `Result`s.
        protocols: {model: id of the protocol of its scores}.
        choice: as for `collecting.score_of`.
    """
    models = list(dict.fromkeys(r.cell.model for r in results if r.state == "done"))
    if not models:
        return
    panels = list(dict.fromkeys(line.panel for line in grid.lines if line.panel)) or [""]
    # Models are rows. With a single panel they are columns.
    rows, columns = (1, len(models)) if len(panels) == 1 else (len(models), len(panels))
    figure = new_figure(rows, columns)
    several = len(panels) > 1
    subplots = figure.subplots(
        rows, columns, squeeze=False, sharex=several, sharey="row" if several else False
    )
    axes = iter(subplots.flat)
    for model in models:
        of_model = [result for result in results if result.cell.model == model]
        found = means(of_model, protocols[model], choice)
        for panel in panels:
            _draw_panel(next(axes), grid, model, panel, of_model, found)
    figure.supylabel(f"FID ({choice} evaluation)")
    save(figure, path, grid)


def write_curves(path, grid, results, protocols):
    """Draws FID during training: a panel for each point, a line for each run, finished or not.

    Args:
        path: path of the files, without suffix. No file is written if no run has a score.
        grid: a `Grid`.
        results: its `Result`s.
        protocols: as for `write_figure`.
    """
    scored = [(result, curve_of(result, protocols[result.cell.model])) for result in results]
    scored = [(result, curve) for result, curve in scored if curve]
    panels = list(dict.fromkeys((r.cell.model, r.cell.point) for r, _ in scored if r.cell.point))
    # Runs that stand for all points have curves in every panel, or else a panel of their own.
    with_points = {model for model, _ in panels}
    panels += list(
        dict.fromkeys((r.cell.model, None) for r, _ in scored if r.cell.model not in with_points)
    )
    if not panels:
        return
    columns = min(MAX_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(rows, columns, margin=3.5)  # The legend's place is beside the panels.
    first = {}  # The first axes of each model, whose panels share one scale.
    for number, (model, point) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number, sharey=first.get(model))
        first.setdefault(model, axes)
        here = [pair for pair in scored if _is_in(pair[0].cell, model, point)]
        _draw_curves(axes, [line.label for line in grid.lines], here)
        axes.set_title(", ".join(text for text in (model, point) if text))
    figure.supxlabel("generator steps")
    figure.supylabel("FID")
    figure.suptitle(
        textwrap.fill(f"{grid.title}: during training", round(10 * figure.get_figwidth()))
    )
    add_legend(figure, grid)
    save(figure, path, grid)


def add_legend(figure, grid):
    """Adds one legend for all panels, in the order of the grid's lines."""
    known = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        known |= zip(labels, handles, strict=True)
    known = {line.label: known[line.label] for line in grid.lines if line.label in known}
    figure.legend(known.values(), known, loc="outside right center", fontsize="small")


def _is_in(cell, model, point):
    return cell.model == model and cell.point in (point, None)


def curve_of(result, protocol_id):
    """[(step, FID)] of the evaluations of a run by a protocol; None is that of its last one."""
    if protocol_id is None and result.records:
        protocol_id = result.records[-1]["protocol"]["id"]
    return [
        (record["step"], record["fid"])
        for record in result.records
        if record["protocol"]["id"] == protocol_id and record.get("fid") is not None
    ]


def _draw_curves(axes, labels, scored):
    """One colour for each line of the grid, the same in all panels."""
    there = set()
    for result, curve in scored:
        label = result.cell.line
        steps, scores = zip(*curve, strict=True)
        style = {"linestyle": "--"} if result.cell.point is None else {}
        axes.plot(
            steps,
            scores,
            color=f"C{labels.index(label) % 10}",
            marker=".",
            label=None if label in there else label,
            **style,
        )
        there.add(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    scale_fid(axes)


def scale_fid(axes):
    """Gives axes a logarithmic scale of FID, and lines to read it by."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")


def new_figure(rows, columns, margin=1):
    """A figure for rows and columns of panels; `margin`, in inches, is for a legend."""
    return plots.new_figure(margin + 4 * columns, 0.6 + 3.4 * rows)


def save(figure, path, grid):
    """Writes a figure of a grid in each format."""
    import matplotlib

    # The same results make the same file.
    with matplotlib.rc_context({"svg.hashsalt": grid.name}):
        for suffix in SUFFIXES:
            metadata = {"Date": None} if suffix == "svg" else None
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=120, metadata=metadata)
            write_atomically(path.with_suffix(f".{suffix}"), buffer.getvalue())


def _draw_panel(axes, grid, model, panel, results, found):
    lines = [
        line
        for line in grid.lines
        if line.panel in ("", panel) and (line.models is None or model in line.models)
    ]
    draw = _bars if grid.style == "bars" else _curves
    draw(
        axes,
        grid,
        [
            (line.label.removesuffix(f", {panel}"), _series(line, grid, results, found))
            for line in lines
        ],
    )
    labels = {line.label for line in lines}
    states = [result.state for result in results if result.cell.line in labels]
    done = states.count("done")
    partly = f"{done} of {len(states)} runs" if done < len(states) else ""
    axes.set_title(", ".join(text for text in (model, panel, partly) if text))
    axes.set_xlabel(_axis_label(grid))
    axes.tick_params(labelbottom=True)
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize="small", loc="upper left" if grid.style == "bars" else "best")


def _axis_label(grid):
    return f"{grid.axis} (%)" if grid.axis == S_G else grid.axis


def _series(line, grid, results, found):
    """(place on the axis, `Mean` of FID) of the runs of a line; None stands for all places."""
    places = {r.cell.point: r.cell.value for r in results if r.cell.line == line.label}
    scale = 100 if grid.axis == S_G else 1
    return [
        (None if value is None else scale * value, found[line.label, point][0]["fid"])
        for point, value in places.items()
        if "fid" in found.get((line.label, point), ({},))[0]
    ]


def _curves(axes, grid, lines):
    for label, series in lines:
        along = sorted((x, fid) for x, fid in series if x is not None)
        if along:
            axes.errorbar(
                [x for x, _ in along],
                [fid.mean for _, fid in along],
                [fid.deviation or 0.0 for _, fid in along],
                label=label,
                marker="o",
                markersize=4,
                capsize=2,
            )
        _across(axes, label, series)
    if grid.logarithmic:
        axes.set_xscale("log")
        places = sorted({x for _, series in lines for x, _ in series if x is not None})
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.set_xticks([], minor=True)


def _bars(axes, grid, lines):
    del grid
    lines_along = [(label, dict(series)) for label, series in lines if None not in dict(series)]
    places = sorted({x for _, series in lines_along for x in series})
    width = 0.8 / max(1, len(lines_along))
    for number, (label, series) in enumerate(lines_along):
        there = [(places.index(x), fid) for x, fid in sorted(series.items())]
        axes.bar(
            [x + (number - (len(lines_along) - 1) / 2) * width for x, _ in there],
            [fid.mean for _, fid in there],
            width,
            yerr=[fid.deviation or 0.0 for _, fid in there],
            capsize=2,
            label=label,
        )
    for label, series in lines:
        _across(axes, label, series)
    axes.set_xticks(range(len(places)), [f"{x:g}" for x in places])
    axes.set_axisbelow(True)
    axes.set_ymargin(0.5)  # Room for the legend.


def _across(axes, label, series):
    """Draws a run that stands for all points."""
    for x, fid in series:
        if x is None:
            axes.axhline(fid.mean, color="black", linestyle="--", label=label)
            if fid.deviation:
                axes.axhspan(
                    fid.mean - fid.deviation, fid.mean + fid.deviation, color="black", alpha=0.08
                )
