import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf import config
from stugan_tf.data import data, digits, image_folder, tfds_images, tfrecords
from stugan_tf.data.source import reason
from stugan_tf.errors import InputError
from tests.helpers.numbered_images import Numbers, short_png
from tests.helpers.params import first_by_default


def first(source, count, batch_size=6, **options):
    options = {"seed": 3, **options}
    return list(source.batches(batch_size, **options).take(count).as_numpy_iterator())


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(batch[0], other[0])
        np.testing.assert_array_equal(batch[1], other[1])


def test_batches_are_full_and_typed(source):
    dataset = source.batches(6, seed=0, num_replicas=2, replicas=(0, 1))
    assert dataset.element_spec == (
        tf.TensorSpec((3, *source.image_shape), tf.float32),
        tf.TensorSpec((3,), tf.int32),
    )
    images, labels = next(iter(dataset))
    assert tf.reduce_max(tf.abs(images)) <= 1.0
    assert tf.reduce_all((labels >= 0) & (labels < source.num_classes))


@pytest.mark.parametrize("start", first_by_default(5, 2))
def test_starting_late_equals_skipping(source, start):
    assert_equal(first(source, 6)[start:], first(source, 6 - start, start=start))


@pytest.mark.ci
@pytest.mark.parametrize("source", ["digits", "folder streamed", "records streamed"], indirect=True)
def test_slices_of_replicas_make_up_the_global_batch(source):
    whole = first(source, 3)
    in_turn = first(source, 9, num_replicas=3, replicas=(0, 1, 2))
    alone = [first(source, 3, num_replicas=3, replicas=(replica,)) for replica in range(3)]
    assert_equal(in_turn, list(itertools.chain(*zip(*alone, strict=True))))
    joined = [
        tuple(
            np.concatenate(parts) for parts in zip(*in_turn[3 * step : 3 * step + 3], strict=True)
        )
        for step in range(3)
    ]
    assert_equal(whole, joined)


def test_an_epoch_has_every_image_once_with_its_label():
    source = Numbers(11, cache_gib=1.0)
    images, labels = map(np.concatenate, zip(*first(source, 11, batch_size=2), strict=True))
    indices = np.rint((images[:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert sorted(indices[:11]) == sorted(indices[11:]) == list(range(11))
    np.testing.assert_array_equal(labels, indices % 3)


def test_cached_and_loaded_images_are_the_same():
    assert_equal(first(Numbers(11, cache_gib=0.0), 5), first(Numbers(11, cache_gib=1.0), 5))


def test_flips_mirror_some_images_and_change_nothing_else():
    plain, flipped = first(Numbers(50), 10, 10), first(Numbers(50, flip=True), 10, 10)
    mirrored = 0
    for (images, labels), (others, other_labels) in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        for image, other in zip(images, others, strict=True):
            is_mirrored = not np.array_equal(image, other)
            np.testing.assert_array_equal(image[:, ::-1] if is_mirrored else image, other)
            mirrored += is_mirrored
    assert 30 < mirrored < 70


def test_a_strategy_feeds_its_replicas_their_slices():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    distributed = strategy.distribute_datasets_from_function(
        lambda context: Numbers(11).batches(4, seed=3, num_replicas=2, replicas=(0, 1))
    )
    values = strategy.experimental_local_results(next(iter(distributed))[1])
    np.testing.assert_array_equal(np.concatenate(values), first(Numbers(11), 1, 4)[0][1])


def test_inspection_counts_classes_and_prints(source):
    inspection = source.inspect()
    assert sum(inspection.class_counts) == inspection.num_read <= inspection.num_images
    assert str(source.num_images) in str(inspection)
    assert inspection.fingerprint in str(inspection)
    assert inspection == source.inspect()


def test_fingerprint_is_of_content():
    class Renamed(Numbers):
        name = "renamed"

    class Changed(Numbers):
        def load(self, record):
            image, label = super().load(record)
            return image, tf.where(record == 10, tf.zeros_like(label), label)

    fingerprint = Numbers(11).inspect().fingerprint
    assert Renamed(11, cache_gib=1.0).inspect().fingerprint == fingerprint
    assert Changed(11).inspect().fingerprint != fingerprint
    assert Numbers(10).inspect().fingerprint != fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_batch_size": 0}, "positive multiple"),
        ({"global_batch_size": 7, "num_replicas": 2}, "got 7 for 2 replicas"),
        ({"start": -1}, "`start`"),
        ({"num_replicas": 2, "replicas": (1, 0)}, "ascending"),
        ({"replicas": (1,)}, "below 1"),
        ({"replicas": ()}, "below 1"),
    ],
)
def test_impossible_batches_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Numbers(11).batches(**{"global_batch_size": 8, "seed": 0, **arguments})


def test_an_empty_source_is_refused():
    with pytest.raises(InputError, match="no image"):
        Numbers(0).batches(1, seed=0)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_labels_out_of_range_are_refused(cache_gib):
    source = Numbers(11, cache_gib=cache_gib)
    source.num_classes = 2
    with pytest.raises(InputError, match=r"label outside 0 \.\. 1:\] \[2\]"):
        source.inspect()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (tf.constant(2**32 + 1, tf.int64), rf"label outside 0 \.\. 2:\] \[{2**32 + 1}\]"),
        (tf.constant(2**64 - 1, tf.uint64), rf"label outside 0 \.\. 2:\] \[{2**64 - 1}\]"),
        (tf.constant(1.7), "must return an integer label, got float32"),
    ],
    ids=["int64", "uint64", "float32"],
)
def test_labels_that_would_not_fit_are_refused(label, message):
    class Wrong(Numbers):
        def load(self, record):
            return super().load(record)[0], label

    with pytest.raises(InputError, match=message):
        Wrong(3).inspect()


def test_an_image_that_cannot_be_loaded_is_named_by_its_number():
    class Broken(Numbers):
        def load(self, record):
            with tf.control_dependencies([tf.debugging.Assert(record != 7, ["no seven"])]):
                return super().load(record)

    with pytest.raises(InputError, match=r"Image number 7 of numbers cannot be read: .*no seven"):
        Broken(11, cache_gib=1.0).inspect()


def test_an_own_source_with_other_images_than_it_says_is_refused():
    source = Numbers(11)
    source.image_shape = (2, 3, 1)
    with pytest.raises(InputError, match=r"must return a uint8 image of shape \(2, 3, 1\)"):
        source.inspect()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_reason_is_without_its_place_in_tensorflow(compiled):
    calls = {
        lambda: tf.io.decode_png(short_png()): r"Invalid PNG data, size \d+",
        lambda: tf.io.read_file("/no/x"): r"/no/x; No such file or directory",
        lambda: tf.io.parse_single_example(b"", {"a": tf.io.FixedLenFeature([], tf.int64)}): (
            r"Feature: a \(data type: int64\) is required but could not be found\."
        ),
    }
    for call, expected in calls.items():
        with pytest.raises(tf.errors.OpError) as caught:
            (tf.function(call) if compiled else call)()
        assert re.fullmatch(expected, reason(caught.value))


def test_data_wants_a_source():
    source = digits()
    assert data(source) is source
    with pytest.raises(InputError, match="parentheses"):
        data(digits)


def test_digits_are_resized_on_request():
    assert digits(32).image_shape == (32, 32, 1)
    for image_size in (0, None, True):
        with pytest.raises(InputError, match=f"positive int, got {image_size}"):
            digits(image_size)


def test_mirroring_is_on_or_off():
    with pytest.raises(InputError, match="`flip` must be True or False, got 'no'"):
        digits(flip="no")


@pytest.mark.parametrize(
    ("source", "setting"), [(image_folder, "path"), (tfrecords, "pattern"), (tfds_images, "name")]
)
def test_where_images_are_must_be_said(source, setting):
    with pytest.raises(RuntimeError, match=rf"Required bindings.*{setting}") as caught:
        source()
    assert "Set them in a gin file" in config.message_of(caught.value)


@pytest.mark.parametrize("start", first_by_default(4, 11, 0, in_ci=1))
def test_one_pass_in_order_has_every_image_as_stored(source, start):
    passes = list(source.in_order(3, start).as_numpy_iterator())
    records = source.records().map(source.load).as_numpy_iterator()
    stored = list(itertools.islice(records, start, None))
    assert [len(labels) for _, labels in passes[:-1]] == [3] * (len(passes) - 1)
    assert_equal(
        [example for batch in passes for example in zip(*batch, strict=True)],
        [(image, label) for image, label in stored],
    )
