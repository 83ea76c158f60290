"""Exported generators to be shown side by side: what each is called, and what its card says."""

import dataclasses
import functools
import json
import math
import pathlib

from stugan_tf.errors import InputError
from stugan_tf.serving.artifact import CARD, find
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.loading import load

MAX_CARD = 2**23  # bytes
MAX_LAYERS = 2**14


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer's kernel, as it was trained.

    Attributes:
        name: of the layer.
        kernel_shape: dimensions.
        weights: how many it has.
        active: how many of them are not under a zero of a mask.
        masked: whether it has a mask.
        flops: theoretical, of one image, zeros left out.
    """

    name: str
    kernel_shape: tuple
    weights: int
    active: int
    masked: bool
    flops: int

    @property
    def density(self):
        """The fraction that is active."""
        return self.active / self.weights


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the card of an artifact says.

    Attributes:
        format: a name of `serving.formats.FORMATS`.
        precision: of the weights.
        step: of the checkpoint.
        num_bytes: of the artifact's files.
        parameters: trained numbers.
        sparsity: the fraction of zeros among weights under masks.
        flops: theoretical, of one image, zeros left out.
        dense_flops: likewise, zeros included.
        layers: each a `Layer`, in order of computation.
    """

    format: str
    precision: str
    step: int
    num_bytes: int
    parameters: int
    sparsity: float
    flops: int
    dense_flops: int
    layers: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """A generator with a name and what is known of it."""

    name: str
    generator: ServedGenerator
    facts: Facts


@functools.cache
def open_exhibits(paths):
    """Loads artifacts, once in a process.

    Args:
        paths: a tuple of what `stugan_tf.serving.load` takes.

    Returns:
        A tuple of `Exhibit`s.

    Raises:
        InputError: if one is missing, damaged, or says nothing of itself.
    """
    loaded = [(load(path), path) for path in paths]
    return tuple(
        Exhibit(name, generator, _facts(path, generator.about))
        for name, (generator, path) in zip(short_names(paths), loaded, strict=True)
    )


def short_names(paths):
    """The shortest ends of paths that tell them apart and are no mere version number."""
    parts = [pathlib.Path(path).absolute().parts for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names) and not any(name.isdigit() for name in names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(paths, start=1)]


def _facts(path, about):
    """Of the card beside the generator, or inside of a single file."""
    path = pathlib.Path(path)
    try:
        if path.is_file():
            return read_facts({**about, "bytes": path.stat().st_size})
        path = find(path) / CARD
        with open(path, "rb") as file:
            text = file.read(MAX_CARD + 1)
        if len(text) > MAX_CARD:
            raise ValueError("too long")
        return read_facts(json.loads(text))
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"The model card of {path} is missing or damaged. Copy or export the artifact anew."
        ) from None


def read_facts(card):
    """What a model card says, which may be anything that JSON can hold.

    Raises:
        ValueError: if it lacks something, or says what cannot be.
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


def _layer(values):
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


def _text(value):
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError("text")
    return value


def _count(value):
    """A number of things; theoretical FLOPs may be halves."""
    if type(value) not in (int, float) or not 0 <= value < 2**63:
        raise ValueError("count")
    return round(value)


def _fraction(value):
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError("fraction")
    return float(value)
