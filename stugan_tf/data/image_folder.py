"""A folder of images; its sub-folders are the classes."""

import functools
import os

import gin
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.checks import check_bool
from stugan_tf.data.decoding import (
    check_channels,
    check_image_size,
    decode,
    fit,
    undecodable,
    upright,
)
from stugan_tf.data.listing import Listing, list_images
from stugan_tf.data.source import Source, check_settings, reason
from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape


@gin.configurable
def image_folder(
    path: str | os.PathLike[str] = gin.REQUIRED,
    image_size: int | None = None,
    channels: int = 3,
    flip: bool = False,
    cache_gib: float = 2.0,
    exif_orientation: bool = False,
) -> "ImageFolder":
    """Images of any size in `path`/CLASS/**, or of one class in `path` itself.

    Classes are numbered in the order of their names, sorted as text: '10' comes before '2'.

    Args:
        path: a folder, local or of a file system that TensorFlow reads, such as gs://.
        image_size: height and width in pixels; images are cropped to a square and resized. None if
            all images have the same size.
        channels: 1 or 3, to which grey and colour images are converted.
        flip: as in `Source`.
        cache_gib: as in `Source`.
        exif_orientation: whether images are turned as their EXIF data say. Loaders of the reference
            do not; `own_images` does.

    Raises:
        InputError: if `path` is not a folder of images, or another argument cannot work.
    """
    return ImageFolder(path, image_size, channels, flip, cache_gib, exif_orientation)


class ImageFolder(Source):
    """See `image_folder`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_size: int | None,
        channels: int,
        flip: bool,
        cache_gib: float,
        exif_orientation: bool = False,
        listing: Listing | None = None,
    ) -> None:
        if image_size is not None:
            check_image_size(image_size)
        check_channels(channels)
        check_settings(flip, cache_gib)
        check_bool("`exif_orientation`", exif_orientation)
        self.name = f"image_folder {path}"
        listing = listing or list_images(path)
        self.class_names, self.remarks = listing.class_names, listing.remarks
        self._paths, self._labels = listing.paths, listing.labels
        self.num_classes = len(self.class_names or [path])
        self.num_images = len(self._paths)
        self.flip = flip
        self.cache_gib = cache_gib
        self._image_size = image_size
        self._channels = channels
        self._exif_orientation = exif_orientation

    @functools.cached_property
    def _path_tensor(self) -> tf.Tensor:
        # Not in `__init__`: a strategy must be made before any tensor.
        with tf.init_scope():
            return tf.constant(self._paths)

    @functools.cached_property
    def image_shape(self) -> ImageShape:  # type: ignore[override]
        """A square of `image_size`, or the shape of the first image."""
        if self._image_size is not None:
            return (self._image_size, self._image_size, self._channels)
        try:
            first = self._decode(self._paths[0])
        except tf.errors.OpError as error:
            raise InputError(self.complaint(0, reason(error), error)) from error
        return tuple(first.shape)

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads and decodes file number `record`."""
        path = tf.gather(self._path_tensor, record)
        image = fit(self._decode(path), path, self._image_size, self.image_shape)
        return image, tf.gather(self._labels, record)

    def _decode(self, path: tf.Tensor | str) -> tf.Tensor:
        encoded = tf.io.read_file(path)
        image = decode(encoded, path, self._channels)
        return upright(image, encoded) if self._exif_orientation else image

    def layout(self) -> list[int]:
        """Bytes of each file."""
        return [tf.io.gfile.stat(path).length for path in self._paths]

    def count_classes(self, labels: npt.ArrayLike) -> tuple[np.ndarray, int]:
        """Counts all files by their folders, not only the images read."""
        del labels
        return super().count_classes(self._labels)

    def complaint(self, position: int, why: str, error: tf.errors.OpError) -> str:
        """Names the file."""
        path = self._paths[position]
        if not isinstance(error, tf.errors.InvalidArgumentError):
            return f"{path} cannot be read: {why.removeprefix(path).lstrip('; ').rstrip('.')}."
        return super().complaint(position, why, error) if path in why else undecodable(path, why)

    def name_of(self, position: int) -> str:
        """The path of the file."""
        return self._paths[position]
