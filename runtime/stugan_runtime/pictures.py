"""Grids of images, and PNG files of them."""

import math
import struct
import zlib

import numpy as np

PADDING = 2


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images out row by row on white.

    Args:
        images: uint8 [n, H, W, C].
        columns: images in a row. By default the grid is about square.

    Returns:
        uint8 [height, width, C].
    """
    count, height, width, channels = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = -(-count // columns)
    shape = (rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING, channels)
    picture = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        top = index // columns * (height + PADDING) + PADDING
        left = index % columns * (width + PADDING) + PADDING
        picture[top : top + height, left : left + width] = image
    return picture


def png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG file.

    Args:
        picture: uint8 [height, width, C]; C is 1 (gray) or 3 (red, green, blue).

    Raises:
        ValueError: if there is another number of channels.
    """
    height, width, channels = picture.shape
    if channels not in (1, 3):
        raise ValueError(f"A PNG file has 1 or 3 channels here, got {channels}.")
    rows = np.zeros([height, 1 + width * channels], np.uint8)  # Each begins with its filter: none.
    rows[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(*part) for part in parts)


def _part(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
