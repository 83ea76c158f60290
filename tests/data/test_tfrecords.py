import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import tfrecords
from stugan_tf.data.paths import escaped
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import encode, example, numbered, write_tfrecords
from tests.helpers.params import first_by_default


@pytest.mark.parametrize("cache_gib", first_by_default(0, 1))
def test_every_record_once_an_epoch_with_its_label(tmp_path, cache_gib):
    pattern = write_tfrecords(tmp_path, (3, 5, 0, 4), num_classes=3, label_offset=1)
    source = tfrecords(pattern, num_classes=3, label_offset=1, cache_gib=cache_gib, block_size=4)
    assert source.num_images == 12
    images, labels = next(iter(source.batches(12, seed=0)))
    indices = np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert sorted(indices) == list(range(12))
    np.testing.assert_array_equal(labels, indices % 3)


def test_classes_without_images_are_told(tmp_path):
    pattern = write_tfrecords(tmp_path, (3, 5), num_classes=2, label_offset=1)
    assert "1 of 3 classes have no image: number 0." in str(
        tfrecords(pattern, num_classes=3).inspect()
    )
    found = tfrecords(pattern, num_classes=2, label_offset=1).inspect().remarks
    assert not any("no image" in remark for remark in found)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a positive integer, got 0"),
        ({"num_classes": "2"}, "`num_classes` must be a positive integer, got '2'"),
        ({"label_offset": 0.5}, "`label_offset` must be an integer, got 0.5"),
        ({"num_classes": 2, "label_feature": None}, "`label_feature` must be the name"),
        ({"num_classes": 2, "class_names": "ab"}, "`class_names` must be a list of names, got"),
        ({"image_size": True}, "`image_size` must be a positive int, got True"),
        ({"cache_gib": "2"}, "`cache_gib` must be a number of at least 0, got '2'"),
        ({"cache_gib": float("nan")}, "`cache_gib` must be a number of at least 0, got nan"),
        ({"block_size": -1}, "`block_size` must be an integer of at least 0, got -1"),
        ({"flip": "no"}, "`flip` must be True or False, got 'no'"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_read(tmp_path, settings, message):
    (tmp_path / "x.tfrecord").write_bytes(b"not read")
    with pytest.raises(InputError, match=message):
        tfrecords(str(tmp_path / "x.tfrecord"), **settings)


def test_shards_without_a_record_are_refused(tmp_path):
    pattern = write_tfrecords(tmp_path, (0, 0))
    with pytest.raises(InputError, match="holds no image"):
        tfrecords(pattern).image_shape  # noqa: B018


def test_an_address_that_tensorflow_does_not_read_is_refused():
    for pattern in ("ftp9://host/x-*.tfrecord", "ftp9://host/x.tfrecord"):
        with pytest.raises(InputError, match=r"ftp9://host/x.* cannot be read: .*scheme 'ftp9'"):
            tfrecords(pattern)


def test_a_record_without_a_label_is_named(tmp_path):
    pattern = write_tfrecords(tmp_path, (2, 3))
    bare = tf.train.Example(
        features=tf.train.Features(
            feature={
                "image/encoded": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[encode(numbered(0))])
                )
            }
        )
    )
    with tf.io.TFRecordWriter(str(tmp_path / "train-1.tfrecord")) as writer:
        writer.write(example(encode(numbered(1)), 0))
        writer.write(bare.SerializeToString())
    message = (
        r"^Record 1 of .*train-1\.tfrecord cannot be read: Feature: image/class/label .*required"
    )
    for cache_gib in (0, 1):
        with pytest.raises(InputError, match=message):
            tfrecords(pattern, 4, num_classes=2, cache_gib=cache_gib).inspect()


def test_a_label_that_32_bits_would_wrap_is_refused(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        writer.write(example(encode(numbered(0)), 2**32 + 1))
    with pytest.raises(InputError, match=rf"label outside 0 \.\. 1:\] \[{2**32 + 1}\]"):
        tfrecords(str(tmp_path / "x.tfrecord"), num_classes=2).inspect()


@pytest.mark.parametrize(
    "name", ["shards [v1]", "a*b?", "{a,b}", "a\\b", "new\nline", "'q\"", " ", "é", "n" * 200]
)
def test_a_folder_of_any_name_holds_shards(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    pattern = write_tfrecords(folder)
    assert tfrecords(pattern).num_images == 11
    assert tfrecords(f"{escaped(str(folder))}/train-[12]*").num_images == 6
    assert tfrecords(str(folder / "train-1.tfrecord")).num_images == 5
    (folder / "one [1]").write_bytes((folder / "train-1.tfrecord").read_bytes())
    assert tfrecords(str(folder / "one [1]")).num_images == 5


def test_wildcards_in_folders_still_match(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_tfrecords(tmp_path / name)
    assert tfrecords(str(tmp_path / "[ab]" / "train-?.tfrecord")).num_images == 22


def test_a_pattern_that_matches_a_folder_is_refused(tmp_path):
    write_tfrecords(tmp_path)
    (tmp_path / "train-more").mkdir()
    with pytest.raises(InputError, match=r"matches the folder .*train-more"):
        tfrecords(str(tmp_path / "train-*"))


def test_shards_that_are_not_there_are_told(tmp_path):
    for number, total in ((0, 3), (1, 3), (0, 2), (1, 2)):
        with tf.io.TFRecordWriter(str(tmp_path / f"x-0000{number}-of-0000{total}")) as writer:
            writer.write(example(encode(numbered(number)), 0))
    remarks = tfrecords(str(tmp_path / "x-*")).remarks
    assert remarks[0] == "2 of 3 shards x-*-of-00003 are there."
    assert "Shards of 2 sets are read" in remarks[1]
    assert tfrecords(str(tmp_path / "x-*-of-00002")).remarks == ()
