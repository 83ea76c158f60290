"""Figures in the paper's form: FID along an axis, a line for each method, dense training dashed."""

import importlib.util
import io

from stugan_tf.errors import InputError
from stugan_tf.experiments.collecting import means
from stugan_tf.experiments.grid import S_G
from stugan_tf.files import write_atomically

FORMATS = ("png", "svg")


def check_plots():
    """Raises InputError unless figures can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("Figures need matplotlib: install it by `pip install 'stugan_tf[plots]'`.")


def write_figure(path, grid, results, protocols, choice):
    """Draws a figure of what has finished; what is missing leaves a gap.

    Args:
        path: of the files, without suffix.
        grid: a `Grid` with an axis.
        results: its `Result`s.
        protocols: {model: id of the protocol of its scores}.
        choice: as in `collecting.score_of`.
    """
    check_plots()
    import matplotlib
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(result.cell.model for result in results))
    panels = list(dict.fromkeys(line.panel for line in grid.lines if line.panel)) or [""]
    # Models are rows, unless they would be rows of a single panel.
    rows, columns = (1, len(models)) if len(panels) == 1 else (len(models), len(panels))
    figure = Figure(figsize=(1 + 4 * columns, 0.6 + 3.4 * rows), layout="constrained")
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
    figure.suptitle(grid.title)
    # The same results make the same file.
    with matplotlib.rc_context({"svg.hashsalt": grid.name}):
        for suffix in FORMATS:
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
        axes.legend(fontsize="small", loc="upper left")


def _axis_label(grid):
    return f"{grid.axis} (%)" if grid.axis == S_G else grid.axis


def _series(line, grid, results, found):
    """(place on the axis, `Mean` of FID) of a line where it has runs; None is all places."""
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
    """A run that stands for all points."""
    for x, fid in series:
        if x is None:
            axes.axhline(fid.mean, color="black", linestyle="--", label=label)
            if fid.deviation:
                axes.axhspan(
                    fid.mean - fid.deviation, fid.mean + fid.deviation, color="black", alpha=0.08
                )
