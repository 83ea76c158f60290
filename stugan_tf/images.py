"""Images for people: grids and PNG files."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically

PADDING = 2
SMALLEST = 64  # Pixels; smaller images are enlarged.
MAX_PIXELS = 2**28  # of a picture: 16,384 x 16,384


def to_uint8(images: npt.ArrayLike) -> np.ndarray:
    """Maps [-1, 1] to 0..255, truncating as the reference evaluation does."""
    return np.clip(127.5 * np.asarray(images) + 127.5, 0, 255).astype(np.uint8)


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images out row by row on white.

    Args:
        images: uint8, or float in [-1, 1], [n, H, W, C].
        columns: the most images in a row. By default the grid is about square.

    Returns:
        uint8 [height, width, C]; images of less than 64 pixels are enlarged by a whole factor.

    Raises:
        InputError: if the picture would be too large.
    """
    images = images if images.dtype == np.uint8 else to_uint8(images)
    count, height, width, channels = images.shape
    check_grid(count, (height, width), columns)
    columns, _, factor = _layout(count, height, width, columns)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)

    cell = (PADDING + height * factor, PADDING + width * factor)
    grid = np.full([*grid_size(count, (height, width), columns), channels], 255, np.uint8)
    for index, image in enumerate(images):
        top = index // columns * cell[0] + PADDING
        left = index % columns * cell[1] + PADDING
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def check_grid(count: int, size: Sequence[int], columns: int | None = None) -> None:
    """Raises InputError if `image_grid` would make a picture that is too large.

    Args:
        count: number of images.
        size: (H, W) of an image.
        columns: as for `image_grid`.
    """
    columns, rows, _ = _layout(count, size[0], size[1], columns)
    height, width = grid_size(count, size, columns)
    pixels = (height - PADDING) * (width - PADDING)
    if pixels > MAX_PIXELS:
        raise InputError(
            f"A picture of {count:,} images in {rows:,} rows and {columns:,} columns would have "
            f"{pixels:,} pixels; at most {MAX_PIXELS:,} are allowed. Draw fewer images at once."
        )


def grid_size(count: int, size: Sequence[int], columns: int | None = None) -> tuple[int, int]:
    """The height and width of what `image_grid` makes; the arguments are those of `check_grid`."""
    height, width = size[:2]
    columns, rows, factor = _layout(count, height, width, columns)
    return (
        PADDING + (PADDING + height * factor) * rows,
        PADDING + (PADDING + width * factor) * columns,
    )


def _layout(count: int, height: int, width: int, columns: int | None) -> tuple[int, int, int]:
    """`(columns, rows, factor)` of a grid; `factor` enlarges its images."""
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    return columns, math.ceil(count / columns), math.ceil(SMALLEST / min(height, width, SMALLEST))


def png(image: np.ndarray) -> bytes:
    """The PNG file of an image, uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W, 1 or 3]. Readers see the whole file or none of it."""
    write_atomically(path, png(image))
