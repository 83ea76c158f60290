import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import tfrecords
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, example, numbered, write_tfrecords


@pytest.mark.parametrize("cache_gib", [0, 1])
def test_every_record_once_an_epoch_with_its_label(tmp_path, cache_gib):
    pattern = write_tfrecords(tmp_path, (3, 5, 0, 4), num_classes=3, label_offset=1)
    source = tfrecords(pattern, num_classes=3, label_offset=1, cache_gib=cache_gib, block_size=4)
    assert source.num_images == 12
    images, labels = next(iter(source.batches(12, seed=0)))
    indices = np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert sorted(indices) == list(range(12))
    np.testing.assert_array_equal(labels, indices % 3)


def test_the_shape_is_known_without_reading_where_told(tmp_path):
    pattern = write_tfrecords(tmp_path, (1,))
    (tmp_path / "train-0.tfrecord").write_bytes(b"not read")
    assert tfrecords(pattern, image_size=8, channels=1).image_shape == (8, 8, 1)


def test_labels_are_not_asked_for_with_one_class(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "one")) as writer:
        writer.write(example(encode(numbered(0)), label=7))
    assert tfrecords(str(tmp_path / "one")).inspect().class_counts == (1,)


@pytest.mark.parametrize(
    "content", [lambda whole: whole[:-3], lambda whole: b"some text, not records"]
)
def test_a_truncated_file_is_named(tmp_path, content):
    pattern = write_tfrecords(tmp_path)
    shard = tmp_path / "train-1.tfrecord"
    shard.write_bytes(content(shard.read_bytes()))
    with pytest.raises(InputError, match=r"train-1\.tfrecord is truncated or not a TFRecord"):
        tfrecords(pattern, 4).batches(2, seed=0)


def test_damaged_records_are_refused(tmp_path):
    pattern = write_tfrecords(tmp_path, (2,))
    shard = tmp_path / "train-0.tfrecord"
    damaged = bytearray(shard.read_bytes())
    damaged[60] ^= 255
    shard.write_bytes(damaged)
    with pytest.raises(InputError, match=r"train-0\.tfrecord is damaged"):
        tfrecords(pattern, 4).inspect()


def test_impossible_records_are_refused(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        tfrecords(str(tmp_path / "*"))
    pattern = write_tfrecords(tmp_path, (2, 3))
    with pytest.raises(InputError, match=r"Feature: image/jpeg .* is required"):
        tfrecords(pattern, 4, image_feature="image/jpeg").inspect()
    with pytest.raises(InputError, match=r"label outside 0 \.\. 1:\] \[-1\]"):
        tfrecords(pattern, 4, num_classes=2, label_offset=1).inspect()
    with tf.io.TFRecordWriter(str(tmp_path / "train-2.tfrecord")) as writer:
        writer.write(example(encode(numbered(0, size=5)), 0))
    with pytest.raises(InputError, match="give an `image_size`"):
        tfrecords(pattern).inspect()
