"""Small sets of images that tell which image they are: the first pixel holds the index."""

import io
import itertools
import struct
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from stugan_tf.data import Source

SIZE = 4


def numbered(index, size=SIZE):
    """RGB image whose pixels are all (index, index + 1, index + 2)."""
    return np.full((size, size, 3), [index, index + 1, index + 2], np.uint8)


def encode(pixels, image_format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def short_png():
    """A PNG of valid chunks whose pixels end early: Pillow reads it, TensorFlow does not."""
    whole = encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[start : start + 4])
    pixels = zlib.decompress(whole[start + 8 : start + 8 + length])
    data = b"IDAT" + zlib.compress(pixels[: len(pixels) // 2])
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return whole[:start] + chunk + whole[start + 12 + length :]


def write_folder(path, num_images=11, num_classes=2):
    for index in range(num_images):
        folder = path / f"class{index % num_classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:03}.png").write_bytes(encode(numbered(index)))
    return str(path)


def write_tfrecords(path, shard_lengths=(3, 5, 1, 2), num_classes=2, label_offset=0):
    """Shards of the given numbers of records, numbered throughout; returns their pattern."""
    indices = itertools.count()
    for shard, length in enumerate(shard_lengths):
        with tf.io.TFRecordWriter(str(path / f"train-{shard}.tfrecord")) as writer:
            for index in itertools.islice(indices, length):
                label = index % num_classes + label_offset
                writer.write(example(encode(numbered(index)), label))
    return str(path / "train-*.tfrecord")


def example(encoded, label):
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


class Numbers(Source):
    """A user's own source."""

    name = "numbers"
    image_shape = (2, 2, 1)
    num_classes = 3

    def __init__(self, num_images, flip=False, cache_gib=0.0):
        self.num_images = num_images
        self.flip = flip
        self.cache_gib = cache_gib

    def load(self, record):
        left_and_right = tf.stack([record, 255 - record])[None, :, None]
        return tf.cast(tf.repeat(left_and_right, 2, axis=0), tf.uint8), record % 3
