"""Image data sets of TensorFlow Datasets, read from their prepared shards."""

import difflib
import os
import pathlib
import socket
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

import gin
import numpy as np

from stugan_tf.data.order import FileRange
from stugan_tf.data.tfrecords import TFRecords
from stugan_tf.errors import InputError
from stugan_tf.files import expanded
from stugan_tf.telling import say

if TYPE_CHECKING:  # It takes a second to import, and not every source needs it.
    import tensorflow_datasets as tfds

_PORTS = {"https": 443, "http": 80}


@gin.configurable
def cifar10(
    split: str = "train", flip: bool = False, data_dir: str | os.PathLike[str] | None = None
) -> TFRecords:
    """CIFAR-10: 50000 (`train`) or 10000 (`test`) images of 32 x 32, 10 classes.

    The arguments are those of `tfds_images`.
    """
    return tfds_images("cifar10", split, flip=flip, data_dir=data_dir)


@gin.configurable
def imagenet2012(
    split: str = "train",
    image_size: int = 128,
    flip: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    block_size: int = 8192,
) -> TFRecords:
    """ImageNet: 1281167 (`train`) or 50000 (`validation`) images, 1000 classes.

    The arguments are those of `tfds_images`.
    """
    return tfds_images(
        "imagenet2012", split, image_size, flip=flip, data_dir=data_dir, block_size=block_size
    )


@gin.configurable
def tfds_images(
    name: str = gin.REQUIRED,
    split: str = "train",
    image_size: int | None = None,
    image_feature: str = "image",
    label_feature: str | None = "label",
    flip: bool = False,
    cache_gib: float = 2.0,
    block_size: int = 8192,
    data_dir: str | os.PathLike[str] | None = None,
) -> TFRecords:
    """Any image data set of TensorFlow Datasets.

    The data set is prepared at first use. Everything but `num_images` is known before that.

    Args:
        name: name that `tfds.builder` takes, e.g. "stl10" or "lsun/classroom:3.*.*".
        split: name of the split; may be a slice, such as "train[:90%]".
        image_size: height and width in pixels; images are cropped to a square and resized. None if
            all images have the same size.
        image_feature: name of the image.
        label_feature: name of the class, None for a set without classes.
        flip: as in `Source`.
        cache_gib: as in `Source`.
        block_size: about how many records of a set too large for memory are shuffled at once.
        data_dir: where data sets are prepared; None is TensorFlow Datasets' default.

    Raises:
        InputError: if the data set or a feature does not exist, images are not uint8, or images
            differ in size. At first use: if the split does not exist, the data set cannot be
            prepared, or it is not stored as TFRecord files.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    features = dict(builder.info.features)
    image, label = features.get(image_feature), features.get(label_feature)
    if not isinstance(image, tfds.features.Image):
        raise InputError(
            f"{name} has no image feature {image_feature!r}; it has {', '.join(features)}. "
            "Name one as `image_feature`."
        )
    if label_feature is not None and not isinstance(label, tfds.features.ClassLabel):
        raise InputError(
            f"{name} has no class feature {label_feature!r}; it has {', '.join(features)}. "
            "Name one as `label_feature`, or None for a set without classes."
        )
    if image.np_dtype != np.uint8:
        raise InputError(
            f"Images of {name} are {np.dtype(image.np_dtype).name}, whose range is not known, but "
            "only uint8 can be read. Write them as uint8 images: a folder for `image_folder`, "
            "or another data set."
        )
    height, width, channels = image.shape
    if image_size is None and None in (height, width):
        raise InputError(f"Images of {name} differ in size: give an `image_size`, such as 128.")
    channels = 1 if channels == 1 else 3
    return TFRecords(
        name=name if split == "train" else f"{name} {split}",
        find_shards=lambda: _shards(builder, split),
        image_size=image_size,
        image_shape=(image_size or height, image_size or width, channels),
        channels=channels,
        num_classes=label.num_classes if label else 1,
        class_names=tuple(label.names) if label else None,
        image_feature=image_feature,
        label_feature=label_feature,
        flip=flip,
        cache_gib=cache_gib,
        block_size=block_size,
    )


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    if data_dir is not None:
        data_dir = expanded(data_dir, "`data_dir`")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        similar = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f"Did you mean {' or '.join(similar)}?" if similar else "See `tfds.list_builders()`."
        raise InputError(f"TensorFlow Datasets has no data set {name!r}. {hint}") from error
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        # Of another configuration or version, or not a name at all.
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"TensorFlow Datasets cannot open the data set {name!r}: {why:.400}. Give a name such "
            "as 'cifar10', 'lsun/classroom' or 'mnist:3.*.*'."
        ) from error


def _check_network(builder: "tfds.core.DatasetBuilder") -> None:
    """Raises InputError if the data set must be downloaded and its host cannot be reached.

    TensorFlow Datasets would try again and again for minutes, without a word.
    """
    urls = map(urllib.parse.urlsplit, builder.url_infos or ())
    url = next((url for url in urls if url.scheme in _PORTS and url.hostname), None)
    folders = pathlib.Path(builder.data_dir).parents[1:3]  # Above name/version, name/config/version
    if (
        url is None
        or builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        or urllib.request.getproxies()  # The host itself need not be reachable.
        or any((folder / "downloads").is_dir() for folder in folders)  # It may be there already.
    ):
        return
    try:
        address = url.hostname, url.port or _PORTS[url.scheme]
        socket.create_connection(address, timeout=10).close()
    except OSError as error:
        raise InputError(
            f"{builder.name} is not prepared in {builder.data_dir}, and {url.hostname}, where it "
            f"comes from, cannot be reached: {error.strerror or error}. {_advice(builder)}"
        ) from error


def _advice(builder: "tfds.core.DatasetBuilder") -> str:
    return (
        f"Run `tfds build {builder.name}` where it can be downloaded, and give that directory as "
        "`data_dir` or TFDS_DATA_DIR."
    )


def _shards(builder: "tfds.core.DatasetBuilder", split: str) -> list[FileRange]:
    """List of `(path, skip, take)`; prepares the data set if needed."""
    if not builder.is_prepared():
        _check_network(builder)
        say(f"preparing {builder.name} in {builder.data_dir}, once")
        try:
            builder.download_and_prepare()
        except Exception as error:  # A download can raise anything; the user has to mend it.
            raise InputError(
                f"{builder.name} is not prepared in {builder.data_dir}, and preparing it failed: "
                f"{error}. {_advice(builder)}"
            ) from error
    file_format = builder.info.file_format
    if file_format is not None and file_format.value != "tfrecord":
        raise InputError(
            f"{builder.name} in {builder.data_dir} is stored as {file_format.value}, but only "
            f"tfrecord can be read. Run `tfds build {builder.name} --file_format=tfrecord` with "
            "another --data_dir, and give that directory as `data_dir`."
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{builder.name} has no split {split!r}. It has {', '.join(builder.info.splits)}."
        ) from error
    return [(file.filename, file.skip, file.take) for file in instructions]
