"""Weights alone do not make a network: what is computed with them has a digest of its own."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.data import arrays, digits
from stugan_tf.evaluation import statistics
from stugan_tf.evaluation.computation import sha256_of_computation
from stugan_tf.evaluation.extractors import Extractor, keras_model, saved_model
from stugan_tf.evaluation.preprocessing import Preprocessing
from stugan_tf.evaluation.statistics import CacheEntry
from tests.helpers.networks import Net

IMAGES = tf.TensorSpec([None, 4], tf.float32, "images")


def digest(function, *specs):
    return sha256_of_computation(tf.function(function).get_concrete_function(*specs or [IMAGES]))


def save_keras(path, pooling=layers.GlobalAveragePooling2D, scale=1 / 255):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            layers.Rescaling(scale),
            layers.Conv2D(4, 3, name="convolution"),
            pooling(name="pool"),
        ]
    )
    model.save(path)
    return str(path)


@pytest.mark.ci
@pytest.mark.parametrize("change", [{"pooling": layers.GlobalMaxPooling2D}, {"scale": 1.0}])
def test_a_keras_file_with_another_layer_is_another_extractor(tmp_path, change):
    path = tmp_path / "net.keras"
    first = keras_model(save_keras(path), "pool")
    second = keras_model(save_keras(path, **change), "pool")
    again = keras_model(save_keras(path), "pool")
    assert first.sha256 == second.sha256  # of the weights
    assert first.protocol != second.protocol
    assert first.protocol == again.protocol
    keys = [CacheEntry(digits(), one, 10, tmp_path).path.stem for one in (first, second, again)]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


class Pooled(tf.Module):
    """The same weights, with the pooling and the preprocessing of choice."""

    def __init__(self, pool, offset=0.0):
        super().__init__()
        self.kernel = Net().kernel
        self.pool, self.offset = pool, offset

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")])
    def __call__(self, images):
        return {"pool": self.pool(images + self.offset, [1, 2]) @ self.kernel}


def test_a_saved_model_with_another_graph_is_another_extractor(tmp_path):
    def extractor(name, *settings):
        module, folder = Pooled(*settings), tmp_path / name / "net"
        tf.saved_model.save(module, str(folder), signatures=module.__call__)
        return saved_model(str(folder), logits=None)

    mean = extractor("mean", tf.reduce_mean)
    others = [
        extractor("max", tf.reduce_max),
        extractor("offset", tf.reduce_mean, 1.0),
    ]
    for other in others:
        assert other.sha256 == mean.sha256
        assert other.protocol["computation"] != mean.protocol["computation"]
    again = extractor("again", tf.reduce_mean)
    assert again.protocol == mean.protocol


def test_a_function_of_a_users_own_is_told_by_what_it_does():
    def extractor(network):
        return Extractor(
            network, Preprocessing(None, "none", (0, 1)), name="x", sha256="0" * 64, outputs=["x"]
        )

    table = np.eye(3, dtype=np.float32)
    captured = tf.constant(2.0 * table)
    networks = [
        lambda images: (tf.reduce_mean(images, [1, 2]), None),
        lambda images: (tf.reduce_max(images, [1, 2]), None),
        lambda images: (2.0 * tf.reduce_mean(images, [1, 2]), None),
        lambda images: (tf.reduce_mean(images, [1, 2]) @ table, None),
        lambda images: (tf.reduce_mean(images, [1, 2]) @ captured, None),
        lambda images: (tf.reduce_mean(images, [1, 2]), tf.reduce_max(images, [1, 2]) - 9),
    ]
    found = [extractor(network).computation for network in networks]
    assert len(set(found)) == len(networks)
    assert (
        extractor(lambda x: (tf.reduce_mean(x, axis=[1, 2], name="y"), None)).computation in found
    )


def test_python_code_is_not_seen_and_a_warning_says_so(caplog):
    def extractor(network):
        Extractor(
            network, Preprocessing(None, "none", (0, 1)), name="x", sha256="0" * 64, outputs=["x"]
        )

    def outside(images):
        pooled = tf.numpy_function(lambda x: x.mean((1, 2)), [images], tf.float32)
        return tf.ensure_shape(pooled, [None, 3]), None

    extractor(lambda images: (tf.reduce_mean(images, [1, 2]), None))
    assert not caplog.messages
    extractor(tf.function(outside, autograph=False))
    assert "x calls Python code" in caplog.text


def test_a_cache_is_of_one_version_and_of_images_of_one_size(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, [20, 128], np.uint8)
    wide, high = arrays(pixels.reshape(20, 8, 16, 1)), arrays(pixels.reshape(20, 16, 8, 1))
    assert wide.inspect().fingerprint == high.inspect().fingerprint
    extractor = types.SimpleNamespace(protocol={}, num_features=1)

    def key(source):
        return CacheEntry(source, extractor, 10, tmp_path).path.stem

    keys = [key(wide), key(high)]
    monkeypatch.setattr(statistics, "VERSION", 1)
    keys += [key(wide), key(high)]
    assert len(set(keys)) == 4


def test_names_and_unused_nodes_do_not_count():
    def plain(images):
        return tf.nn.relu(images) + 1.0

    def named(images):
        tf.square(images, name="unused")
        with tf.name_scope("another"):
            return tf.add(tf.nn.relu(images, name="r"), 1.0)

    assert digest(plain) == digest(named)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: 1.0 + tf.nn.relu(x),  # Rounding may differ, so it is not the same.
        lambda x: tf.nn.relu(x + 1.0),
        lambda x: tf.nn.relu(x) + 2.0,
        lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.relu(x) + 1.0, lambda: x),
        lambda x: tf.map_fn(lambda row: tf.nn.relu(row) + 1.0, x),
    ],
)
def test_everything_else_counts(other):
    assert digest(other) != digest(lambda x: tf.nn.relu(x) + 1.0)


def test_bodies_of_functions_and_loops_count():
    def loop(factor):
        return lambda x: tf.map_fn(lambda row: factor * row, x)

    assert digest(loop(2.0)) == digest(loop(2.0))
    assert digest(loop(2.0)) != digest(loop(3.0))


@pytest.mark.ci
def test_a_graph_deeper_than_pythons_stack_has_a_digest():
    def deep(images):
        for _ in range(1100):
            images = images + 1.0
        return images

    assert digest(deep) != digest(lambda images: images)
