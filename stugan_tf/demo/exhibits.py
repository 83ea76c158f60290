"""Exported generators to show side by side: the name of each and the facts of its card."""

import dataclasses
import functools
import math
import os
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


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """A generator with its name and the facts of its model card."""

    name: str
    generator: ServedGenerator
    facts: Facts


@functools.cache
def open_exhibits(paths: tuple[str, ...]) -> tuple[Exhibit, ...]:
    """Loads artifacts, once in a process.

    Args:
        paths: paths that `stugan_tf.serving.load` takes.

    Raises:
        InputError: if an artifact or its model card is missing or damaged.
    """
    # TensorFlow mixes classes, as walks do.
    loaded = [(load(path, by="tensorflow"), path) for path in paths]
    return tuple(
        Exhibit(name, generator, _facts(path, generator.about))
        for name, (generator, path) in zip(short_names(paths), loaded, strict=True)
    )


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
        ValueError: if a fact is missing or impossible.
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
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"The card lacks {error}.") from None


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
