"""The images on the page: images of a seed, and walks from one image to another."""

import dataclasses
import functools
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from stugan_tf.checks import check_natural, check_positive
from stugan_tf.errors import InputError
from stugan_tf.images import image_grid, to_uint8
from stugan_tf.latents import between_classes, between_latents, class_rows
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.interface import Interface

ANY = "drawn by the seed"
EACH = "a row of each"
MAX_ROWS = 20  # most classes for a row of each
ROW = 6  # images in such a row
POSITIONS = 101  # of a walk, from 0 to 100 %
NO_TRUNCATION = "off"
TRUNCATIONS = (*(f"{tenths / 10:g}" for tenths in range(1, 21)), NO_TRUNCATION)
MAX_SEED = 2**53 - 1  # the largest integer that a browser can count to

# Generators compute one at a time: an interpreter of TensorFlow Lite has one memory, and other
# computations would disturb a measurement.
COMPUTING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Images of a seed.

    Attributes:
        seed: image i of a seed is the same in any number of images.
        num_images: number of images; ignored with a row of each class, which has `ROW` images.
        label: a class, `ANY` or `EACH`; an unconditional generator ignores it.
        truncation: where latents are cut off, or None.
    """

    seed: int = 0
    num_images: int = 16
    label: int | str = ANY
    truncation: float | None = None


@dataclasses.dataclass(frozen=True)
class Walk:
    """A walk from the first image of one seed to that of another, and from class to class.

    Attributes:
        seeds: (from, to).
        labels: (from, to); classes, or `ANY` for the class that the seed draws.
        truncation: where latents are cut off, or None.
    """

    seeds: tuple[int, int] = (0, 1)
    labels: tuple[int | str, int | str] = (ANY, ANY)
    truncation: float | None = None


def truncation_of(text: str) -> float | None:
    """The number of one of `TRUNCATIONS`; None for `NO_TRUNCATION`."""
    return None if text == NO_TRUNCATION else float(text)


def classes_of(interfaces: Iterable[Interface]) -> list[str]:
    """The numbered names of the classes to choose from: those of the generator with most classes.

    Args:
        interfaces: the interface of each generator.

    Returns:
        A list, empty if no generator takes labels.
    """
    conditional = [interface for interface in interfaces if interface.conditional]
    return max((interface.numbered_names() for interface in conditional), key=len, default=[])


def draw(generator: ServedGenerator, sheet: Sheet) -> tuple[np.ndarray, int | None]:
    """Draws a sheet.

    Args:
        generator: draws the images.
        sheet: the images to draw.

    Returns:
        Images, uint8 [n, H, W, C], and the number of images in a row; None for a square.

    Raises:
        InputError: if the generator cannot draw the sheet.
    """
    interface = generator.interface
    with COMPUTING:
        if not interface.conditional or sheet.label == ANY:
            return generator(sheet.num_images, sheet.seed, truncation=sheet.truncation), None
        if sheet.label != EACH:
            images = generator(
                sheet.num_images,
                sheet.seed,
                labels=sheet.label,
                truncation=sheet.truncation,
            )
            return images, None
        if interface.num_classes > MAX_ROWS:
            raise InputError(
                f"This page shows a row of each class for up to {MAX_ROWS} classes, got "
                f"{interface.num_classes}. Choose a class."
            )
        latents, _ = generator.inputs(ROW, sheet.seed, sheet.truncation)
        latents, labels = class_rows(latents, range(interface.num_classes))
        return generator(latents=latents, labels=labels), ROW


def describe(generator: ServedGenerator, sheet: Sheet) -> str:
    """Describes a sheet in words."""
    interface = generator.interface
    start = f"Seed {sheet.seed}"
    if not interface.conditional:
        return f"{start}. This generator takes no classes."
    names = interface.numbered_names()
    if sheet.label == EACH:
        return f"{start}. Rows from the top: {', '.join(names)}."
    if sheet.label == ANY:
        return f"{start}. Classes are drawn, too."
    return f"{start}. All are of class {names[int(sheet.label)]}."


def walk_images(
    generator: ServedGenerator, walk: Walk, positions: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Draws images on a walk.

    Latents go along a great circle (see `latents.between_latents`); classes are mixed.

    Args:
        generator: draws the images.
        walk: start and end.
        positions: integers, from 0 for the start to 100 for the end.

    Returns:
        uint8 [number of positions, H, W, C].

    Raises:
        InputError: if the generator cannot go from one class to another.
    """
    positions = np.asarray(positions)
    if not len(positions) or positions.min() < 0 or positions.max() >= POSITIONS:
        raise InputError(f"Positions of a walk are from 0 to {POSITIONS - 1}, got {positions}.")
    (start, first), (end, last) = (
        _stop(generator, seed, label, walk.truncation)
        for seed, label in zip(walk.seeds, walk.labels, strict=True)
    )
    latents = between_latents(start, end, POSITIONS)[positions]
    interface = generator.interface
    with COMPUTING:
        if not interface.conditional:
            return generator(latents=latents)
        if first == last:
            return generator(latents=latents, labels=first)
        generator.check_mixes()
        weights = between_classes([first], [last], interface.num_classes, POSITIONS)[positions]
        return to_uint8(np.concatenate(list(generator.batches(latents, weights))))


@functools.lru_cache(maxsize=128)
def _stop(
    generator: ServedGenerator, seed: int, label: int | str, truncation: float | None
) -> tuple[np.ndarray, int]:
    """Latents, float32 [1, latent_dim], and class at the start or end of a walk."""
    interface = generator.interface
    latents, labels = generator.inputs(1, seed, truncation)
    number = int(labels[0]) if label == ANY else int(label)
    if interface.conditional and not 0 <= number < interface.num_classes:
        raise InputError(
            f"Classes of this generator are from 0 to {interface.num_classes - 1}, got {number}."
        )
    return latents, number


def describe_walk(generator: ServedGenerator, walk: Walk) -> str:
    """Describes the start and the end of a walk in words."""
    interface = generator.interface
    stops = []
    for seed, label in zip(walk.seeds, walk.labels, strict=True):
        _, number = _stop(generator, seed, label, walk.truncation)
        named = f", class {interface.numbered_names()[number]}" if interface.conditional else ""
        stops.append(f"seed {seed}{named}")
    return f"From {stops[0]} to {stops[1]}."


def strip_positions(num_images: int) -> np.ndarray:
    """Positions at equal distances, int [num_images], from the start of a walk to its end."""
    check_positive("num_images", num_images)
    return np.round(np.linspace(0, POSITIONS - 1, num_images)).astype(int)


def picture(images: np.ndarray, columns: int | None = None, width: int = 1) -> np.ndarray:
    """A grid of images, enlarged by a whole factor so that no pixel is blurred.

    Args:
        images: uint8 [n, H, W, C].
        columns: number of images in a row; by default as many as make the grid square.
        width: the grid is enlarged as far as this width in pixels allows.

    Returns:
        uint8 [height, width, C].
    """
    return enlarged(image_grid(images, columns), width)


def enlarged(image: np.ndarray, width: int) -> np.ndarray:
    """An image, [H, W, C], enlarged by the largest whole factor that a width in pixels allows."""
    check_natural("width", width)
    factor = max(1, width // image.shape[1])
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
