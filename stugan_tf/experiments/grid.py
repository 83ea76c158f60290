"""The parts of a table or a figure: lines, points along them, and the cells where they meet.

A line is a row of a table or a curve of a figure. A point is a column or a value of the horizontal
axis. Both are settings: bindings, and gin files that follow the base file of a model. A cell is
everything that defines one run, apart from its folder.
"""

import dataclasses
from collections.abc import Sequence

from stugan_tf.errors import InputError

S_G = "sparsity of the generator, s_G"
CHOICES = ("last", "best")  # Which evaluation of a run counts.


@dataclasses.dataclass(frozen=True)
class Point:
    """A column of a table or a value of the horizontal axis.

    Attributes:
        label: its name in a table.
        value: its place on the axis, or None.
        bindings: gin bindings of its runs.
    """

    label: str
    value: float | None = None
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table or a curve of a figure.

    Attributes:
        label: its name.
        files: gin files below `gin/` that follow the base file. The first may be a key of
            `Model.variants`, which replaces the base file.
        bindings: gin bindings of all its runs.
        settings: keys of `Model.settings`, whose bindings come before `bindings`.
        points: labels of the points where it has runs. None is all points of the grid; () is one
            run that stands for all points.
        point_bindings: {label of a point: bindings} that replace the bindings of the point.
        models: names of its models. None is all models of the grid.
        panel: the panel of the figure that shows it.
        pretrains: whether its method begins with a dense training, which runs can share.
        key: key of the paper's results in `paper_results.csv`; '' if there are none.
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
        name: its name for `--name`.
        title: a title that says what it shows.
        models: keys of `Preset.models`. A preset may lack some.
        lines: its rows or curves; for each model, each label occurs once.
        points: its columns or values, or a function `Model -> points`.
        axis: name of the horizontal axis; None for a table without a figure.
        claim: the paper's conclusion.
        style: 'lines' or 'bars'.
        logarithmic: whether the axis is logarithmic.
        reference: label of the line whose last FID the others are timed to reach; '' for a grid
            that is not about time.
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
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Model:
    """The base configuration of a model in one preset.

    Attributes:
        base: gin file below `gin/`.
        bindings: gin bindings of all its runs, such as length and interval of scores.
        intervals: values of Delta T that Figure 6 compares.
        settings: {name: gin bindings} that depend on the length of the runs.
        variants: {name: gin file below `gin/`} of other bases of the model.
    """

    base: str
    bindings: tuple[str, ...] = ()
    intervals: tuple[int, ...] = ()
    settings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    variants: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of the runs of all grids, and the evaluator that scores them.

    Attributes:
        models: {name: `Model`}.
        evaluation: gin files below `gin/` that configure the evaluator.
        bindings: gin bindings of all runs.
        generator_sparsities: values of s_G that are trained; None is all values of a grid.
        figure_models: if a figure has several models, only these are trained; None is all.
        seeds: seeds of each cell.
        description: a description for the readers of the tables.
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
        point: label of the point; None stands for all points.
        value: place of the point on the axis.
        seed: seed of the run.
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


def models_of(grid: Grid, preset: Preset) -> tuple[str, ...]:
    """The names of the models of a grid that a preset has and trains."""
    models = tuple(model for model in grid.models if model in preset.models)
    if grid.axis is None or len(models) == 1 or preset.figure_models is None:
        return models
    return tuple(model for model in models if model in preset.figure_models)


def points_of(grid, preset, model):
    """The `Point`s of a grid that a preset trains, for one model."""
    points = grid.points
    if callable(points):
        return points(preset.models[model])
    wanted = preset.generator_sparsities
    if wanted is None:
        return points
    return tuple(point for point in points if point.value in wanted)


def cells_of(grid: Grid, preset: Preset, seeds: tuple[int, ...] | None = None) -> list[Cell]:
    """All `Cell`s of a grid.

    Args:
        grid: a `Grid`.
        preset: a `Preset`.
        seeds: seeds that replace those of the preset.
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


def select(cells: list[Cell], models: Sequence[str] = (), lines: Sequence[str] = ()) -> list[Cell]:
    """The cells of some models and lines.

    Args:
        cells: `Cell`s.
        models: beginnings of names of models, in upper or lower case; () is all.
        lines: beginnings of labels of lines, in upper or lower case; () is all.

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
