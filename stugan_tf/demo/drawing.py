"""What a page of generators shows: images of a seed, and ways from one image to another."""

import dataclasses
import functools
import threading

import numpy as np

from stugan_tf.checks import check_natural, check_positive
from stugan_tf.errors import InputError
from stugan_tf.images import image_grid, to_uint8
from stugan_tf.latents import between_classes, between_latents, class_rows

ANY = "drawn by the seed"
EACH = "a row of each"
MAX_ROWS = 20  # classes that are shown in a row each
ROW = 6  # images in such a row
POSITIONS = 101  # of a walk, from 0 to 100 %
NO_TRUNCATION = "off"
TRUNCATIONS = (*(f"{tenths / 10:g}" for tenths in range(1, 21)), NO_TRUNCATION)
MAX_SEED = 2**53 - 1  # what a browser can count to

# One at a time: interpreters of TensorFlow Lite hold what they compute, and what is computed
# beside a measurement would be measured.
COMPUTING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Images of a seed.

    Attributes:
        seed: image i of a seed is the same in any number of images.
        num_images: how many; with a row of each class, `ROW` a row.
        label: a class, `ANY` or `EACH`; of no meaning to an unconditional generator.
        truncation: where latents are cut off, or None.
    """

    seed: int = 0
    num_images: int = 16
    label: int | str = ANY
    truncation: float | None = None


@dataclasses.dataclass(frozen=True)
class Walk:
    """A way from the first image of a seed to that of another, and from class to class.

    Attributes:
        seeds: (from, to).
        labels: (from, to); classes, or `ANY` for that which the seed draws.
        truncation: where latents are cut off, or None.
    """

    seeds: tuple = (0, 1)
    labels: tuple = (ANY, ANY)
    truncation: float | None = None


def truncation_of(text):
    """The number, or None, that one of `TRUNCATIONS` means."""
    return None if text == NO_TRUNCATION else float(text)


def classes_of(interfaces):
    """The numbered names of classes to choose from: of the generator that has most of them.

    Args:
        interfaces: an `Interface` of each generator.

    Returns:
        A list, empty if none of them takes labels.
    """
    conditional = [interface for interface in interfaces if interface.conditional]
    return max((interface.numbered_names() for interface in conditional), key=len, default=[])


def draw(generator, sheet):
    """Draws a sheet.

    Args:
        generator: a `ServedGenerator`.
        sheet: a `Sheet`.

    Returns:
        Images uint8 [n, H, W, C], and how many are in a row; None to make a square.

    Raises:
        InputError: if the generator cannot.
    """
    interface = generator.interface
    with COMPUTING:
        if not interface.conditional or sheet.label == ANY:
            return generator(sheet.num_images, sheet.seed, truncation=sheet.truncation), None
        if sheet.label != EACH:
            images = generator(
                sheet.num_images, sheet.seed, labels=sheet.label, truncation=sheet.truncation
            )
            return images, None
        if interface.num_classes > MAX_ROWS:
            raise InputError(
                f"A row of each of {interface.num_classes} classes is too much for this page, "
                f"which shows up to {MAX_ROWS}. Choose a class."
            )
        latents, _ = generator.inputs(ROW, sheet.seed, sheet.truncation)
        latents, labels = class_rows(latents, range(interface.num_classes))
        return generator(latents=latents, labels=labels), ROW


def describe(generator, sheet):
    """What a sheet shows, in words."""
    interface = generator.interface
    start = f"Seed {sheet.seed}"
    if not interface.conditional:
        return f"{start}. This generator takes no classes."
    names = interface.numbered_names()
    if sheet.label == EACH:
        return f"{start}. Rows from the top: {', '.join(names)}."
    if sheet.label == ANY:
        return f"{start}. Classes are drawn, too."
    return f"{start}. All are of class {names[sheet.label]}."


def walk_images(generator, walk, positions):
    """Images on a walk.

    Latents go along a great circle (see `latents.between_latents`), classes by mixing them.

    Args:
        generator: a `ServedGenerator`.
        walk: a `Walk`.
        positions: integers, from 0 for its start to 100 for its end.

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
def _stop(generator, seed, label, truncation):
    """Latents float32 [1, latent_dim] and class where a walk starts or ends."""
    interface = generator.interface
    latents, labels = generator.inputs(1, seed, truncation)
    label = int(labels[0]) if label == ANY else label
    if interface.conditional and not 0 <= label < interface.num_classes:
        raise InputError(
            f"Classes of this generator are from 0 to {interface.num_classes - 1}, got {label}."
        )
    return latents, label


def describe_walk(generator, walk):
    """What a walk goes from and to, in words."""
    interface = generator.interface
    stops = []
    for seed, label in zip(walk.seeds, walk.labels, strict=True):
        _, label = _stop(generator, seed, label, walk.truncation)
        named = f", class {interface.numbered_names()[label]}" if interface.conditional else ""
        stops.append(f"seed {seed}{named}")
    return f"From {stops[0]} to {stops[1]}."


def strip_positions(num_images):
    """Positions of images at equal distances, the first at the start, the last at the end."""
    check_positive("num_images", num_images)
    return np.round(np.linspace(0, POSITIONS - 1, num_images)).astype(int)


def picture(images, columns=None, width=1):
    """A grid of images, enlarged by a whole factor so that no pixel is blurred.

    Args:
        images: uint8 [n, H, W, C].
        columns: images in a row; by default as many as make the grid square.
        width: in pixels, to come close to without going beyond, where there is a choice.

    Returns:
        uint8 [height, width, C], or [height, width] of grey images.
    """
    check_natural("width", width)
    grid = image_grid(images, columns)
    factor = max(1, width // grid.shape[1])
    grid = grid.repeat(factor, axis=0).repeat(factor, axis=1)
    return grid[..., 0] if grid.shape[-1] == 1 else grid
