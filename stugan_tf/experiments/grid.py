"""What a table or a figure consists of: lines, points along them, and the cells where they meet.

A line is a row of a table or a curve of a figure, a point is a column or a value of the horizontal
axis. Both are settings: files to follow the base file of a model, and bindings. A cell is all that
one run needs to know, apart from the folder it is trained in.
"""

import dataclasses

from stugan_tf.errors import InputError

S_G = "sparsity of the generator, s_G"


@dataclasses.dataclass(frozen=True)
class Point:
    """A column of a table, a value of the horizontal axis.

    Attributes:
        label: what it is called in a table.
        value: where it is on the axis, or None.
        bindings: gin bindings of the runs there.
    """

    label: str
    value: float | None = None
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table, a curve of a figure.

    Attributes:
        label: what it is called.
        files: gin files below `gin/` that follow the base file; the first may be a key of
            `Model.variants`, which replaces the base file.
        bindings: gin bindings of all its runs.
        settings: keys of `Model.settings`, whose bindings precede these.
        points: where it has runs, by label; None is at all points of the grid, () is one run that
            stands for all of them.
        point_bindings: {label of a point: bindings} that replace those of the point.
        models: of which models it is; None is of all of the grid.
        panel: the part of the figure it is drawn in.
        pretrains: whether its method begins with a dense training, which such runs can share.
        key: names its known results in `paper_results.csv`; '' if there are none.
    """

    label: str
    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    points: tuple[str, ...] | None = None
    point_bindings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    models: tuple[str, ...] | None = None
    panel: str = ""
    pretrains: bool = False
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table or a figure.

    Attributes:
        name: what `--name` calls it.
        title: a sentence on what it shows.
        models: keys of `Preset.models`.
        lines: its rows or curves, each label once for a model.
        points: its columns or values, or a function of a preset's `Model` that gives them.
        axis: what the points are; None is a table without a figure.
        claim: what the paper concludes from it.
        style: 'lines' or 'bars'.
        logarithmic: whether the axis is.
    """

    name: str
    title: str
    models: tuple[str, ...]
    lines: tuple[Line, ...]
    points: object
    axis: str | None = None
    claim: str = ""
    style: str = "lines"
    logarithmic: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A base of runs in one preset.

    Attributes:
        base: gin file below `gin/`.
        bindings: of all runs: how long, how often scored.
        intervals: values of Delta T that Figure 6 compares.
        settings: {name: gin bindings} of what follows from how long the runs are.
        variants: {name: gin file below `gin/`} of other bases of the model.
    """

    base: str
    bindings: tuple[str, ...] = ()
    intervals: tuple[int, ...] = ()
    settings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    variants: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
    """At what size the grids are run, and what scores them.

    Attributes:
        models: {name: `Model`}.
        evaluation: gin files below `gin/` that say what scores the runs.
        bindings: of all runs.
        generator_sparsities: those of s_G that are run; None is all that a grid has.
        figure_models: the only models of figures that would show several; None is all.
        seeds: of each cell.
        description: for whoever reads the tables.
    """

    models: dict[str, Model]
    evaluation: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    generator_sparsities: tuple[float, ...] | None = None
    figure_models: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        grid: name of the grid.
        model: name of the model.
        line: label of the line.
        point: label of the point; None stands for all.
        value: of the point on the axis.
        seed: of the run.
        files: gin files below `gin/`, in their order.
        bindings: gin bindings, in their order.
        pretrains: as `Line.pretrains`.
        key: as `Line.key`.
    """

    grid: str
    model: str
    line: str
    point: str | None
    value: float | None
    seed: int
    files: tuple[str, ...]
    bindings: tuple[str, ...]
    pretrains: bool = False
    key: str = ""


def models_of(grid, preset):
    """The names of the models of a grid that a preset runs."""
    if grid.axis is None or len(grid.models) == 1 or preset.figure_models is None:
        return grid.models
    return tuple(model for model in grid.models if model in preset.figure_models)


def points_of(grid, preset, model):
    """The `Point`s of a grid that a preset runs, for one model."""
    points = grid.points
    if callable(points):
        return points(preset.models[model])
    wanted = preset.generator_sparsities
    if wanted is None:
        return points
    return tuple(point for point in points if point.value in wanted)


def cells_of(grid, preset, seeds=None):
    """All `Cell`s of a grid.

    Args:
        grid: a `Grid`.
        preset: a `Preset`.
        seeds: instead of the preset's.
    """
    seeds = preset.seeds if seeds is None else seeds
    return [
        cell
        for model in models_of(grid, preset)
        for line in grid.lines
        if line.models is None or model in line.models
        for point in _points_of_line(line, points_of(grid, preset, model))
        for cell in _cells(grid, preset, model, line, point, seeds)
    ]


def _points_of_line(line, points):
    if line.points == ():
        return [None]
    return [point for point in points if line.points is None or point.label in line.points]


def _cells(grid, preset, model, line, point, seeds):
    sized = preset.models[model]
    base, files = sized.base, line.files
    if files and files[0] in sized.variants:
        base, files = sized.variants[files[0]], files[1:]
    bindings = (*preset.bindings, *sized.bindings)
    bindings += tuple(binding for name in line.settings for binding in sized.settings[name])
    bindings += line.bindings
    if point is not None:
        bindings += line.point_bindings.get(point.label, point.bindings)
    for seed in seeds:
        yield Cell(
            grid.name,
            model,
            line.label,
            point.label if point else None,
            point.value if point else None,
            seed,
            files=(base, *files, *preset.evaluation),
            bindings=(*bindings, f"train.seed = {seed}"),
            pretrains=line.pretrains,
            key=line.key,
        )


def select(cells, models=(), lines=()):
    """The cells of some models and lines.

    Args:
        cells: `Cell`s.
        models: names; none is all.
        lines: beginnings of labels, in any case of letters; none is all.

    Raises:
        InputError: if one of them selects nothing.
    """
    for kind, wanted, known in (
        ("--models", models, sorted({cell.model for cell in cells})),
        ("--line", lines, list(dict.fromkeys(cell.line for cell in cells))),
    ):
        for text in wanted:
            if not any(_matches(text, name) for name in known):
                raise InputError(
                    f"{kind}: nothing here begins with {text!r}. There are: {'; '.join(known)}."
                )
    return [
        cell
        for cell in cells
        if (not models or any(_matches(text, cell.model) for text in models))
        and (not lines or any(_matches(text, cell.line) for text in lines))
    ]


def _matches(text, name):
    return name.lower().startswith(text.lower())
