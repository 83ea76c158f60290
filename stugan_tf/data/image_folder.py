"""A folder of images; its sub-folders are the classes."""

import functools
import os

import gin
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.data.decoding import (
    check_channels,
    check_image_size,
    decode,
    decode_with_pillow,
    fit,
)
from stugan_tf.data.source import Source
from stugan_tf.errors import InputError
from stugan_tf.signatures import ImageShape

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


@gin.configurable
def image_folder(
    path: str,
    image_size: int | None = None,
    channels: int = 3,
    flip: bool = False,
    cache_gib: float = 2.0,
) -> "ImageFolder":
    """Images of any size in `path`/CLASS/**, or of one class in `path` itself.

    Args:
        path: a folder, local or of a file system that TensorFlow reads, such as gs://.
        image_size: height and width in pixels; images are cropped to a square and resized. None if
            all images have the same size.
        channels: 1 or 3, to which grey and colour images are converted.
        flip: as in `Source`.
        cache_gib: as in `Source`.

    Raises:
        InputError: if `path` is not a folder of images, or another argument cannot work.
    """
    return ImageFolder(path, image_size, channels, flip, cache_gib)


class ImageFolder(Source):
    """See `image_folder`."""

    def __init__(
        self, path: str, image_size: int | None, channels: int, flip: bool, cache_gib: float
    ) -> None:
        check_image_size(image_size)
        check_channels(channels)
        self.name = f"image_folder {path}"
        self.class_names, self._paths, self._labels = list_images(path)
        self.num_classes = len(self.class_names or [path])
        self.num_images = len(self._paths)
        self.flip = flip
        self.cache_gib = cache_gib
        self._image_size = image_size
        self._channels = channels

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
        with self.reading():
            first = decode(tf.io.read_file(self._paths[0]), self._paths[0], self._channels)
        return tuple(first.shape)

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads and decodes file number `record`."""
        path = tf.gather(self._path_tensor, record)
        image = decode(tf.io.read_file(path), path, self._channels)
        image = fit(image, path, self._image_size, self.image_shape)
        return image, tf.gather(self._labels, record)

    def layout(self) -> list[int]:
        """Bytes of each file."""
        return [tf.io.gfile.stat(path).length for path in self._paths]

    def count_classes(self, labels: npt.ArrayLike) -> tuple[np.ndarray, int]:
        """Counts all files by their folders, not only the images read."""
        del labels
        return super().count_classes(self._labels)

    def diagnose(self) -> None:
        """Names the first file that cannot be decoded."""
        for path in self._paths:
            decode_with_pillow(tf.io.gfile.GFile(path, "rb").read(), path.encode())


def list_images(path: str) -> tuple[tuple[str, ...] | None, list[str], np.ndarray]:
    """Finds the images of a folder.

    Returns:
        Names of the classes, or None if there are no sub-folders; paths, sorted within each class;
        labels, int32 [n], one for each path.

    Raises:
        InputError: if `path` is not a folder, holds no image, or has images both in sub-folders
            and beside them.
    """
    if not tf.io.gfile.isdir(path):
        raise InputError(f"`path` {path!r} is not a folder. Give one that holds images.")
    try:
        return _list(path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} holds a name that is not UTF-8: {error.object!r}. Rename it."
        ) from error


def _list(path: str) -> tuple[tuple[str, ...] | None, list[str], np.ndarray]:
    entries = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(path))
    folders = [
        name
        for name in entries
        if name[0] not in "._" and tf.io.gfile.isdir(os.path.join(path, name))
    ]
    flat = [os.path.join(path, name) for name in entries if _is_image(name)]
    classes = [
        sorted(
            os.path.join(root, name)
            for root, _, names in tf.io.gfile.walk(os.path.join(path, folder))
            for name in names
            if _is_image(name)
        )
        for folder in folders
    ]
    if not flat and not any(classes):
        raise InputError(f"{path} holds no image: no file ends with {', '.join(SUFFIXES)}.")
    if flat and any(classes):
        raise InputError(
            f"{path} holds images both beside its sub-folders, such as {flat[0]}, and in them. "
            "Move them into sub-folders, one for each class, or have no sub-folders."
        )
    if flat:
        return None, flat, np.zeros(len(flat), np.int32)
    for folder, paths in zip(folders, classes, strict=True):
        if not paths:
            raise InputError(f"{path} has a class without images, {folder!r}: remove the folder.")
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(paths) for paths in classes])
    return tuple(folders), [path for paths in classes for path in paths], labels


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and name[0] != "."
