"""From uint8 images to what a network wants: named resize modes and ranges of values."""

import dataclasses
import numbers

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError

# float32 [B, H, W, C] and (height, width) to float32 [B, height, width, C].
RESIZE = {
    # Images have the size of the network, or it takes any.
    "none": lambda images, size: images,
    # TensorFlow 1's: output pixel i is at i * old / new; no average over what is left out.
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
        size: (height, width) that the network gets, an int for a square, or None for any.
        resize: a name in `RESIZE`.
        input_range: (low, high), what 0 and 255 become.
    """

    size: tuple[int, int] | int | None
    resize: str
    input_range: tuple[float, float]

    def __post_init__(self):
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
                f"`resize` = {self.resize!r} needs a `size` to resize to, for the network takes "
                "images of any size. Set `size`, or `resize` = 'none'."
            )
        is_range = _is_pair(self.input_range, lambda end: isinstance(end, numbers.Real))
        if not is_range or not self.input_range[0] < self.input_range[1]:
            raise InputError(
                f"`input_range` must be (low, high) with low < high, got {self.input_range!r}. "
                "Usual are (-1, 1), (0, 1) and (0, 255)."
            )
        object.__setattr__(self, "size", None if size is None else tuple(size))
        object.__setattr__(self, "input_range", tuple(map(float, self.input_range)))

    def __call__(self, images):
        """uint8 [B, H, W, C] to float32 [B, height, width, C] in `input_range`."""
        if self.resize == "none" and self.size is not None:
            self._check_size(images.shape[1:3])
        low, high = self.input_range
        # A table, because a compiled graph would multiply by the rounded 1 / 255.
        levels = (255.0 * low + np.arange(256.0) * (high - low)) / 255.0
        images = tf.gather(tf.constant(levels, tf.float32), tf.cast(images, tf.int32))
        resized = RESIZE[self.resize](images, self.size)
        return tf.clip_by_value(resized, low, high)

    def describe(self):
        """As a protocol states it: JSON-able."""
        size = None if self.size is None else list(self.size)
        return {"size": size, "resize": self.resize, "range": list(self.input_range)}

    def _check_size(self, size):
        if not size.is_compatible_with(self.size):
            others = [name for name in RESIZE if name != "none"]
            raise InputError(
                "The network takes images of {} x {}, got {} x {}. ".format(*self.size, *size)
                + f"Set its `resize` to one of {', '.join(others)}."
            )


def _is_pair(value, is_valid):
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_valid, value))
