"""Images that are arrays in memory, as a source."""

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.checks import check_bool
from stugan_tf.data.source import Source
from stugan_tf.errors import InputError


def arrays(
    images: npt.ArrayLike, labels: npt.ArrayLike | None = None, flip: bool = False
) -> "Arrays":
    """Images in memory as a source.

    Args:
        images: [N, H, W, C], uint8, or float in [-1, 1], which is rounded to 8 bits as in the
            files of images.
        labels: integers [N] or [N, 1], the classes from 0 on; None means one class.
        flip: as in `Source`.

    Raises:
        InputError: if the arrays have another shape, type or range.
    """
    return Arrays(images, labels, flip)


class Arrays(Source):
    """See `arrays`."""

    name = "arrays"

    def __init__(
        self, images: npt.ArrayLike, labels: npt.ArrayLike | None = None, flip: bool = False
    ) -> None:
        check_bool("flip", flip)
        self.flip = flip
        self._images = _pixels(np.asarray(images))
        self.num_images, *shape = self._images.shape
        height, width, channels = shape
        self.image_shape = (height, width, channels)
        self.num_classes, self._labels = _classes(labels, self.num_images)

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Picks image number `record`."""
        return tf.gather(self._images, record), tf.gather(self._labels, record)


def _pixels(images: np.ndarray) -> np.ndarray:
    """The images as uint8."""
    if images.ndim != 4 or not images.size:
        raise InputError(
            f"Images must be an array [N, H, W, C], got the shape {images.shape}. Grey images have "
            "C = 1: add an axis by `images[..., None]`."
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"Images must be uint8, or float in [-1, 1], got {images.dtype}. Convert them by "
            "`images.astype('uint8')`."
        )
    check_pixels("Images", float(images.min()), float(images.max()))
    return np.rint(127.5 * images + 127.5).astype(np.uint8)


def check_pixels(what: str, lowest: float, highest: float) -> None:
    """Raises InputError unless these extremes of float images are pixels in [-1, 1].

    Images in [0, 1] are not told apart from bright ones, unless none is below 0.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise InputError(f"{what} must be finite numbers, but some are NaN or infinite.")
    if lowest < -1 or highest > 1:
        raise InputError(
            f"{what} of floats must be in [-1, 1], got [{lowest:.4g}, {highest:.4g}]. Scale pixels "
            "from 0 to 255 by `images / 127.5 - 1`."
        )
    if lowest >= 0:
        raise InputError(
            f"{what} of floats must be in [-1, 1], but none is below 0: they look like [0, 1]. "
            "Scale them by `2 * images - 1`. The generator makes images in [-1, 1], too."
        )


def _classes(labels: npt.ArrayLike | None, num_images: int) -> tuple[int, np.ndarray]:
    """The number of classes, and int32 [num_images]."""
    if labels is None:
        return 1, np.zeros([num_images], np.int32)
    given = np.asarray(labels)
    if given.shape not in ((num_images,), (num_images, 1)):
        raise InputError(
            f"Labels must be integers [{num_images}], one for each image, got the shape "
            f"{given.shape}. Turn one-hot vectors into integers by `labels.argmax(-1)`."
        )
    if not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"Labels must be integers, got {given.dtype}.")
    given = given.reshape(-1)
    if given.min() < 0:
        raise InputError(f"Labels must be integers from 0 on, got {given.min()}.")
    return int(given.max()) + 1, given.astype(np.int32)
