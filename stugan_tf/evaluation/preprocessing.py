"""From uint8 images to the input of a network: named resize modes and ranges of values."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError

# (float32 [B, H, W, C], (height, width)) -> float32 [B, height, width, C].
RESIZE: dict[str, Callable[[tf.Tensor, Any], tf.Tensor]] = {
    # Images have the size that the network takes, or it takes any size.
    "none": lambda images, size: images,
    # As in TensorFlow 1: output pixel i is at i * old / new; pixels in between do not count.
    "bilinear_legacy": tf.compat.v1.image.resize_bilinear,
    # Centres of pixels match: output pixel i is at (i + 1/2) * old / new - 1/2.
    "bilinear": lambda images, size: tf.image.resize(images, size, "bilinear"),
    "bilinear_antialias": lambda images, size: tf.image.resize(
        images, size, "bilinear", antialias=True
    ),
    # Cubic weights overshoot at edges; `Preprocessing` clips.
    "bicubic_antialias": lambda images, size: tf.image.resize(
        images, size, "bicubic", antialias=True
    ),
}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Maps [0, 255] linearly onto `input_range`, then resizes without rounding.

    Attributes:
        size: (height, width) of the network's images, an int for a square, or None for any size.
        resize: a name in `RESIZE`.
        input_range: (low, high), the values that 0 and 255 become.
    """

    size: tuple[int, int] | int | None
    resize: str
    input_range: tuple[float, float]

    def __post_init__(self) -> None:
        if self.resize not in RESIZE:
            raise InputError(f"`resize` must be one of {', '.join(RESIZE)}, got {self.resize!r}.")
        size = (self.size,) * 2 if isinstance(self.size, int) else self.size
        if size is not None and not _is_pair(size, lambda side: type(side) is int and side > 0):
            raise InputError(
                f"`size` must be a positive int or (height, width), got {self.size!r}. It is the "
                "size of the images that the network gets."
            )
        if size is None and self.resize != "none":
            raise InputError(
                f"`resize` = {self.resize!r} needs a `size` to resize to: the network takes images "
                "of any size. Set `size`, or `resize` = 'none'."
            )
        is_range = _is_pair(self.input_range, lambda end: isinstance(end, numbers.Real))
        if not is_range or not self.input_range[0] < self.input_range[1]:
            raise InputError(
                f"`input_range` must be (low, high) with low < high, got {self.input_range!r}. "
                "Usual are (-1, 1), (0, 1) and (0, 255)."
            )
        object.__setattr__(self, "size", None if size is None else tuple(size))
        object.__setattr__(self, "input_range", tuple(map(float, self.input_range)))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Maps uint8 [B, H, W, C] to float32 [B, height, width, C] in `input_range`.

        Raises:
            InputError: if `resize` is 'none' and the images have another size.
        """
        if self.resize == "none" and self.size is not None:
            self._check_size(images.shape[1:3])
        low, high = self.input_range
        # A table, because a compiled graph would multiply by the rounded 1 / 255.
        levels = (255.0 * low + np.arange(256.0) * (high - low)) / 255.0
        images = tf.gather(tf.constant(levels, tf.float32), tf.cast(images, tf.int32))
        resized = RESIZE[self.resize](images, self.size)
        return tf.clip_by_value(resized, low, high)

    def describe(self) -> dict[str, Any]:
        """The preprocessing for a protocol, as a dictionary that JSON can hold."""
        size = None if self.size is None else list(self.size)  # type: ignore[arg-type]
        return {"size": size, "resize": self.resize, "range": list(self.input_range)}

    def _check_size(self, size: tf.TensorShape) -> None:
        if not size.is_compatible_with(self.size):
            others = [name for name in RESIZE if name != "none"]
            raise InputError(
                "The network takes images of {} x {}, got {} x {}. ".format(*self.size, *size)  # type: ignore[misc]
                + f"Set its `resize` to one of {', '.join(others)}."
            )


def _is_pair(value: Any, is_valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_valid, value))
