"""What `fit` takes, as batches that are a function of the step."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.data import arrays
from stugan_tf.fit.feed import feed_of
from stugan_tf.training.algorithm import Algorithm

SHAPE = (2, 2, 1)
IMAGES = np.repeat(np.arange(-5, 6) / 5, 4).reshape(11, *SHAPE).astype(np.float32)
LABELS = np.arange(11) % 3


def dataset():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)  # The last has three.


def taken(feed, step, num, strategy=None, **settings):
    """The first pixels and the labels of some micro-batches after a step."""
    settings = {"total_steps": 9, "batch_size": 4, "generator_batch_size": 4, **settings}
    batches = feed.batches(
        Algorithm(**settings), strategy or tf.distribute.get_strategy(), seed=0, step=step
    )
    return list(itertools.islice(iter(batches), num))


def test_a_data_set_goes_round_in_full_batches_from_any_step():
    feed = feed_of(dataset(), None, None, SHAPE, 3)
    assert (feed.batch_size, feed.num_images) == (4, 12)
    batches = taken(feed, step=0, num=6)
    order = np.resize(np.arange(11), 24).reshape(6, 4)
    for (images, labels), indices in zip(batches, order, strict=True):
        np.testing.assert_array_equal(images, IMAGES[indices])
        np.testing.assert_array_equal(labels, LABELS[indices])
    later = taken(feed, step=2, num=2, discriminator_steps=2)
    for (images, _), indices in zip(later, order[4:], strict=True):
        np.testing.assert_array_equal(images, IMAGES[indices])


def test_two_devices_and_micro_batches_share_a_batch_in_its_order(mirrored):
    feed = feed_of(dataset(), None, None, SHAPE, 3)
    batches = taken(feed, step=1, num=2, strategy=mirrored, accumulation_steps=2)
    parts = [
        part.numpy()
        for images, _ in batches
        for part in mirrored.experimental_local_results(images)
    ]
    assert [part.shape for part in parts] == [(1, *SHAPE)] * 4
    np.testing.assert_array_equal(np.concatenate(parts), IMAGES[4:8])


def test_pixels_of_8_bits_are_scaled_and_labels_may_be_left_out():
    pixels = np.array([0, 255, 51], np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)
    feed = feed_of(tf.data.Dataset.from_tensor_slices(pixels).batch(3), None, None, SHAPE, None)
    ((images, labels),) = taken(feed, step=0, num=1, batch_size=3)
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images[:, 0, 0, 0], [-1, 1, -0.6], atol=1e-6)
    np.testing.assert_array_equal(labels, [0, 0, 0])


def test_a_label_without_a_class_ends_the_training():
    feed = feed_of(dataset(), None, None, SHAPE, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a label outside 0 \.\. 1"):
        taken(feed, step=0, num=1)


def test_arrays_are_a_source_of_their_pixels_and_classes():
    pixels = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)
    source = arrays(pixels, LABELS[:, None])
    assert (source.num_images, source.num_classes, source.image_shape) == (11, 3, SHAPE)
    ((images, labels),) = source.in_order(11)
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, LABELS)
    # Floats of 8 bits come back as they were.
    ((images, _),) = arrays(pixels / 127.5 - 1).in_order(11)
    np.testing.assert_array_equal(images, pixels)
