"""TFRecord shards of `tf.train.Example`s that hold an encoded image and, maybe, a label."""

import collections
import concurrent.futures
import functools
import os
import re
import struct
from collections.abc import Callable, Sequence

import gin
import numpy as np
import tensorflow as tf

from stugan_tf.checks import check_natural, check_positive
from stugan_tf.data.decoding import check_channels, check_image_size, decode, fit
from stugan_tf.data.order import FileRange, ShardBlocks
from stugan_tf.data.paths import matching
from stugan_tf.data.source import Source, check_settings, reason
from stugan_tf.errors import InputError
from stugan_tf.files import expanded
from stugan_tf.signatures import ImageShape


@gin.configurable
def tfrecords(
    pattern: str = gin.REQUIRED,
    image_size: int | None = None,
    channels: int = 3,
    num_classes: int = 1,
    image_feature: str = "image/encoded",
    label_feature: str = "image/class/label",
    label_offset: int = 0,
    flip: bool = False,
    cache_gib: float = 2.0,
    block_size: int = 8192,
    class_names: Sequence[str] | None = None,
) -> "TFRecords":
    """Shards whose names match a pattern.

    Args:
        pattern: a path with wildcards, e.g. "/data/train-*.tfrecord"; see `paths.matching`.
        image_size: height and width in pixels; images are cropped to a square and resized. None if
            all images have the same size.
        channels: 1 or 3, to which grey and colour images are converted.
        num_classes: number of classes; with 1, labels are not read.
        image_feature: name of the feature that holds an encoded image.
        label_feature: name of the int64 feature that holds its class.
        label_offset: label of the first class: 1 in the shards that Inception was trained on.
        flip: as in `Source`.
        cache_gib: as in `Source`.
        block_size: about how many records of a set too large for memory are shuffled at once.
        class_names: a name for each class, for messages and model cards.

    Raises:
        InputError: if no file matches or another argument cannot work. At first use: if a file is
            truncated or not a TFRecord file.
    """
    check_channels(channels)
    check_positive("`num_classes`", num_classes)
    if type(label_offset) is not int:
        raise InputError(f"`label_offset` must be an integer, got {label_offset!r}.")
    for name, value in {"image_feature": image_feature, "label_feature": label_feature}.items():
        if not isinstance(value, str):
            raise InputError(f"`{name}` must be the name of a feature, got {value!r}.")
    if isinstance(class_names, str):
        raise InputError(f"`class_names` must be a list of names, got {class_names!r}.")
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            f"tfrecords.class_names has {len(class_names)} names for tfrecords.num_classes = "
            f"{num_classes}. Name every class, or none."
        )
    paths = matching(expanded(pattern, "`pattern`"))
    if not paths:
        raise InputError(
            f"`pattern` {pattern!r} matches no file. Give the shards' path with wildcards, "
            "for example '/data/train-*.tfrecord'."
        )
    folders = [path for path in paths if tf.io.gfile.isdir(path)]
    if folders:
        raise InputError(
            f"`pattern` {pattern!r} matches the folder {folders[0]}. Give a pattern that only "
            "shards match, for example '/data/train-*.tfrecord'."
        )
    return TFRecords(
        name="tfrecords",
        find_shards=lambda: count_records(paths),
        image_size=image_size,
        image_shape=None if image_size is None else (image_size, image_size, channels),
        channels=channels,
        num_classes=num_classes,
        image_feature=image_feature,
        label_feature=label_feature if num_classes > 1 else None,
        label_offset=label_offset,
        class_names=None if class_names is None else tuple(class_names),
        flip=flip,
        cache_gib=cache_gib,
        block_size=block_size,
        remarks=_about_numbers(paths),
    )


def _about_numbers(paths: Sequence[str]) -> tuple[str, ...]:
    """A remark if the shards' names, such as x-00003-of-00005, say that some are not there."""
    numbered = [re.search(r"^(.*)-(\d+)-of-(\d+)", path) for path in paths]
    sets = collections.Counter((found[1], found[3]) for found in numbered if found)
    remarks = [
        f"{there} of {int(total)} shards {os.path.basename(name)}-*-of-{total} are there."
        for (name, total), there in sorted(sets.items())
        if there != int(total)
    ]
    names = collections.Counter(name for name, _ in sets)
    remarks += [
        f"Shards of {number} sets are read, as if they were one: {name}-*."
        for name, number in sorted(names.items())
        if number > 1
    ]
    return tuple(remarks)


def count_records(paths: Sequence[str]) -> list[FileRange]:
    """Counts records by hopping from header to header.

    Returns:
        `[(path, 0, number of records), ...]`, the shards of `ShardBlocks`.
    """

    def count(path: str) -> FileRange:
        num_records = position = 0
        try:
            size = tf.io.gfile.stat(path).length
            with tf.io.gfile.GFile(path, "rb") as file:
                while position < size:
                    file.seek(position)
                    header = file.read(8)  # then 4 bytes of checksum, the data, 4 of checksum
                    position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
                    num_records += 1
        except tf.errors.OpError as error:
            raise InputError(f"{path} cannot be read: {error.message}.") from error
        if position != size:
            raise InputError(
                f"{path} is truncated or not a TFRecord file: its record {num_records - 1} would "
                f"end at byte {position} of {size}. Write or copy it again, uncompressed."
            )
        return path, 0, num_records

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return [shard for shard in pool.map(count, paths) if shard[2]]


class TFRecords(Source):
    """Streams shards. `tfrecords` and `tfds_images` make it and document the arguments.

    `find_shards()` returns the list of `(path, skip, take)`. It is called at first use.
    """

    def __init__(
        self,
        *,
        name: str,
        find_shards: Callable[[], list[FileRange]],
        image_size: int | None,
        image_shape: ImageShape | None,
        channels: int,
        num_classes: int,
        image_feature: str,
        label_feature: str | None,
        label_offset: int = 0,
        class_names: tuple[str, ...] | None = None,
        flip: bool,
        cache_gib: float,
        block_size: int,
        remarks: tuple[str, ...] = (),
    ) -> None:
        if image_size is not None:
            check_image_size(image_size)
        check_settings(flip, cache_gib)
        check_natural("`block_size`", block_size)
        self.name = name
        self.remarks = remarks
        self.num_classes = num_classes
        self.class_names = class_names
        self.flip = flip
        self.cache_gib = cache_gib
        self._find_shards = find_shards
        self._image_size = image_size
        self._image_shape = image_shape
        self._channels = channels
        self._image_feature = image_feature
        self._label_feature = label_feature
        self._label_offset = label_offset
        self._block_size = block_size

    @functools.cached_property
    def shards(self) -> list[FileRange]:
        """List of `(path, skip, take)`."""
        return self._find_shards()

    @property
    def num_images(self) -> int:  # type: ignore[override]
        """Sum over shards."""
        return sum(take for _, _, take in self.shards)

    @functools.cached_property
    def image_shape(self) -> ImageShape:  # type: ignore[override]
        """(height, width, channels): as given, or the shape of the first image."""
        if self._image_shape is not None:
            return self._image_shape
        self._check_not_empty()
        try:
            return tuple(self._decode(next(iter(self.records())))[0].shape)
        except tf.errors.OpError as error:
            raise InputError(self.complaint(0, reason(error), error)) from error

    @functools.cached_property
    def blocks(self) -> ShardBlocks:
        """Blocks of about `block_size` records."""
        return ShardBlocks(self.shards, self._block_size)

    def records(self) -> tf.data.Dataset:
        """Serialized examples."""
        return self._read(self.shards)

    def records_at(self, positions: Sequence[int] | np.ndarray) -> tf.data.Dataset:
        """See `Source`; opens only the shards that hold some of the records."""
        start, stop = positions[0], positions[-1] + 1
        parts, first = [], 0
        for path, skip, take in self.shards:
            begin, end = max(start - first, 0), min(stop - first, take)
            if begin < end:
                parts.append((path, skip + begin, end - begin))
            first += take
        return self._read(parts)

    def sample(self, count: int) -> tf.data.Dataset:
        """The first records of evenly spread shards."""
        shards = self.shards[:: max(1, len(self.shards) // 64)]
        per_shard = -(-count // len(shards))
        return self._read([(path, skip, min(take, per_shard)) for path, skip, take in shards])

    def layout(self) -> list[tuple[int, int, int]]:
        """Bytes and records of each shard."""
        return [(tf.io.gfile.stat(path).length, skip, take) for path, skip, take in self.shards]

    def complaint(self, position: int, why: str, error: tf.errors.OpError) -> str:
        """Names the shard, and the record unless the shard itself is damaged."""
        if isinstance(error, tf.errors.DataLossError):
            path, _ = self._place(position)
            return f"{path} is damaged or truncated: write, copy or prepare it again."
        return super().complaint(position, why, error)

    def name_of(self, position: int) -> str:
        """Says which record of which shard it is."""
        path, record = self._place(position)
        return f"Record {record} of {path}"

    def _place(self, position: int) -> tuple[str, int]:
        """`(path of the shard, number of the record in it)` of a record in stored order."""
        for path, skip, take in self.shards:
            if position < take:
                return path, skip + position
            position -= take
        raise IndexError(position)

    def load(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Parses and decodes a serialized example."""
        image, label = self._decode(record)
        return fit(image, self.name, self._image_size, self.image_shape), label

    def _decode(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | int]:
        features = {self._image_feature: tf.io.FixedLenFeature([], tf.string)}
        if self._label_feature is not None:
            features[self._label_feature] = tf.io.FixedLenFeature([], tf.int64)
        example = tf.io.parse_single_example(record, features)
        image = decode(example[self._image_feature], f"An image of {self.name}", self._channels)
        if self._label_feature is None:
            return image, 0
        return image, example[self._label_feature] - self._label_offset

    def _read(self, shards: Sequence[FileRange]) -> tf.data.Dataset:
        columns = zip(*shards, strict=True)
        return tf.data.Dataset.from_tensor_slices(tuple(map(list, columns))).flat_map(
            lambda path, skip, take: (
                tf.data.TFRecordDataset(path)
                .skip(tf.cast(skip, tf.int64))
                .take(tf.cast(take, tf.int64))
            )
        )
