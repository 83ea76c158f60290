"""Exported generators to show side by side: the name of each and the facts of its card."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.files import local_path, short_names
from stugan_tf.serving.artifact import CARD, find, read_card
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.loading import load

MAX_LAYERS = 2**14


@dataclasses.dataclass(frozen=True)
class Layer:
    """The kernel of a layer in the trained generator.

    Attributes:
        name: name of the layer.
        kernel_shape: dimensions of the kernel.
        weights: number of weights.
        active: number of weights that no mask makes zero.
        masked: whether the kernel has a mask.
        flops: theoretical FLOPs of one image, zeros left out.
    """

    name: str
    kernel_shape: tuple[int, ...]
    weights: int
    active: int
    masked: bool
    flops: int

    @property
    def density(self) -> float:
        """The fraction of active weights."""
        return self.active / self.weights


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts in the model card of an artifact.

    Attributes:
        format: a name in `serving.formats.FORMATS`.
        precision: precision of the weights.
        step: step of the checkpoint.
        num_bytes: size of the artifact's files.
        parameters: number of trained parameters.
        sparsity: the fraction of zeros among weights under masks.
        flops: theoretical FLOPs of one image, zeros left out.
        dense_flops: theoretical FLOPs of one image, zeros included.
        layers: kernels in order of computation.
        run: name of the run; '' if the card does not say it.
        data: name of the data set; '' if the card does not say it.
        score: the first score of the checkpoint, such as 'FID 5.703'; '' without one.
        digest: the same for all formats of one generator; '' if the card does not say it.
    """

    format: str
    precision: str
    step: int
    num_bytes: int
    parameters: int
    sparsity: float
    flops: int
    dense_flops: int
    layers: tuple[Layer, ...]
    run: str = ""
    data: str = ""
    score: str = ""
    digest: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """An artifact: a generator with its name and the facts of its model card."""

    name: str
    generator: ServedGenerator
    facts: Facts


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained generator in all formats that are shown.

    Attributes:
        name: the name of its run, or of its first exhibit where several models are of that run.
        exhibits: an `Exhibit` for each format.
    """

    name: str
    exhibits: tuple[Exhibit, ...]

    @property
    def about(self) -> str:
        """Data set, score, step, zeros and formats in words."""
        facts = self.exhibits[0].facts
        formats = [f"{one.facts.format} {one.facts.precision}" for one in self.exhibits]
        parts = [
            facts.data,
            facts.score,
            f"step {facts.step:,}",
            f"{facts.sparsity:.1%} zeros under masks",
            ", ".join(formats),
        ]
        return " · ".join(filter(None, parts))


@functools.cache
def open_exhibits(paths: tuple[str, ...]) -> tuple[Exhibit, ...]:
    """Loads artifacts, once in a process.

    Args:
        paths: paths that `stugan_tf.serving.load` takes.

    Raises:
        InputError: if an artifact or its model card is missing or damaged.
    """
    # TensorFlow mixes classes, as walks do.
    generators = [load(path, by="tensorflow") for path in paths]
    facts = [
        _facts(path, generator.about) for path, generator in zip(paths, generators, strict=True)
    ]
    names = names_of(facts, short_names(paths))
    return tuple(map(Exhibit, names, generators, facts))


# From short to long: what may name an artifact, given its facts and the end of its path.
_WAYS: tuple[Callable[[Facts, str], str], ...] = (
    lambda facts, end: facts.run or end,
    lambda facts, end: f"{facts.run or end}, {facts.format}",
    lambda facts, end: f"{facts.run or end}, step {facts.step:,}",
    lambda facts, end: f"{facts.run or end}, {facts.format} {facts.precision}",
    lambda facts, end: f"{facts.run or end} ({end})",
)


def names_of(facts: Sequence[Facts], ends: Sequence[str]) -> list[str]:
    """Names that tell artifacts apart: runs, with format, step or path where that is needed.

    Args:
        facts: the facts of each artifact.
        ends: ends of their paths, all different.
    """
    ways = [[way(*pair) for pair in zip(facts, ends, strict=True)] for way in _WAYS]
    names = [
        next((way[number] for way in ways if way.count(way[number]) == 1), end)
        for number, end in enumerate(ends)
    ]
    return names if len(set(names)) == len(names) else list(ends)


def models_of(exhibits: Sequence[Exhibit]) -> list[Model]:
    """The models that exhibits show, in the order of their first exhibits."""
    groups: dict[Any, list[Exhibit]] = {}
    for exhibit in exhibits:
        groups.setdefault(exhibit.facts.digest or exhibit, []).append(exhibit)
    runs = [group[0].facts.run for group in groups.values()]
    return [
        Model(run if run and runs.count(run) == 1 else group[0].name, tuple(group))
        for run, group in zip(runs, groups.values(), strict=True)
    ]


def _facts(path: str | os.PathLike[str], about: dict[str, Any]) -> Facts:
    """The facts of the card beside the generator, or inside a single file."""
    path = local_path(path, "--artifact")
    if path.is_file():
        where, card = path, {**about, "bytes": path.stat().st_size}
    else:
        folder = find(path)
        where, card = folder / CARD, read_card(folder)
    try:
        return read_facts(card)
    except ValueError:
        raise InputError(
            f"The model card in {where} is damaged. Copy or export the artifact again."
        ) from None


def read_facts(card: Any) -> Facts:
    """Reads the facts of a model card, which may be anything that JSON can hold.

    Raises:
        ValueError: if a fact is missing or impossible. Run, data, score and digest may be missing.
    """
    try:
        generator = card["generator"]
        layers = generator["layers"]
        flops = generator["theoretical_flops_per_image"]
        if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
            raise ValueError("layers")
        return Facts(
            format=_text(card["format"]),
            precision=_text(card["precision"]),
            step=_count(card["checkpoint"]["step"]),
            num_bytes=_count(card["bytes"]),
            parameters=_count(generator["parameters"]),
            sparsity=_fraction(generator["sparsity_under_masks"]),
            flops=_count(flops["sparse"]),
            dense_flops=_count(flops["dense"]),
            layers=tuple(_layer(layer) for layer in layers if layer["kernel_shape"]),
            run=_told(card, "run"),
            data=_told(card, "training", "data", "source"),
            score=_score(card),
            digest=_told(card, "digest"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"The card lacks {error}.") from None


def _told(card: Any, *keys: str) -> str:
    """A text in a card that may be missing; then it is ''."""
    value = card
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value[:1000] if isinstance(value, str) else ""


def _score(card: dict[str, Any]) -> str:
    """The first score of the checkpoint's last record, if it is of the weights that are exported.

    FID comes first where it was computed.
    """
    records = card.get("scores")
    record = records[-1] if isinstance(records, list) and records else None
    if not isinstance(record, dict):
        return ""
    weights = _told(record, "protocol", "generated", "weights")
    if weights and weights != _told(card, "checkpoint", "weights"):
        return ""
    for name, value in record.items():
        if name not in ("step", "time") and type(value) in (int, float) and abs(value) < 1e9:
            short = name.upper() if len(name) <= 3 else name.replace("_", " ")
            return f"{short[:100]} {value:.4g}"
    return ""


def _layer(values: Any) -> Layer:
    weights, active = _count(values["weights"]), _count(values["active"])
    if not 0 <= active <= weights or not weights or not isinstance(values["masked"], bool):
        raise ValueError("layer")
    return Layer(
        name=_text(values["name"]),
        kernel_shape=tuple(_count(size) for size in values["kernel_shape"][:8]),
        weights=weights,
        active=active,
        masked=values["masked"],
        flops=_count(values["theoretical_flops"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("text")
    return value


def _count(value: Any) -> int:
    """A number of things; theoretical FLOPs may be halves."""
    if type(value) not in (int, float) or not 0 <= value < 2**63:
        raise ValueError("count")
    return round(value)


def _fraction(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError("fraction")
    return float(value)
