"""A path that a person gives is that path, whatever characters it has."""

import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf import config
from stugan_tf.data import digits, image_folder, tfrecords
from stugan_tf.data.sharding import Encoding, Sharding
from stugan_tf.errors import InputError
from stugan_tf.evaluation.extractors import frozen_inception, keras_model, saved_model
from stugan_tf.evaluation.statistics import CacheEntry, ttur_statistics
from stugan_tf.files import local_path, write_atomically
from stugan_tf.pipelines import steps
from stugan_tf.pipelines.configuration import Configuration
from stugan_tf.runs.opening import open_run
from stugan_tf.serving.loading import load
from tests.helpers.numbered_images import write_folder, write_tfrecords

NAMES = ["a [v1]*? {x,y}", "back\\slash\\", "new\nline 'q\" %d é", "n" * 200]


@pytest.fixture(params=NAMES)
def folder(request, tmp_path):
    path = tmp_path / request.param
    path.mkdir()
    return path


def test_extractors_are_read_from_any_folder(folder):
    inputs = keras.Input([4, 4, 1])
    outputs = keras.layers.Dense(2, name="pool")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    model.save(folder / "net.keras")
    of_keras = keras_model(folder / "net.keras", features="pool")

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.ones([16, 2]))

        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1])])
        def __call__(self, images):
            return {"pool": tf.reshape(images, [-1, 16]) @ self.kernel}

    net = Net()
    tf.saved_model.save(net, str(folder / "net"), signatures=net.__call__)
    of_saved = saved_model(folder / "net", features="pool", logits=None, input_range=(0, 255))
    np.testing.assert_allclose(of_keras(images)[0], model(images.astype(np.float32)), rtol=1e-4)
    np.testing.assert_allclose(of_saved(images)[0], [[120, 120], [376, 376]], rtol=1e-4)


def test_gin_gives_paths_on_unchanged(folder):
    write_folder(folder / "images")
    pattern = write_tfrecords(folder)
    file = folder / "data [1].gin"
    for source, path in (("image_folder", folder / "images"), ("tfrecords", pattern)):
        argument = {"image_folder": "path", "tfrecords": "pattern"}[source]
        file.write_text(f"data.source = @{source}()\n{source}.{argument} = {str(path)!r}\n")
        config.parse_gin([file])
        text = config.gin.config_str()
        config.parse_gin((), [text])
        found = config.gin.get_configurable("data")()
        assert found.num_images == 11
    config.parse_gin()


@pytest.mark.parametrize("name", ["--workdir", "Evaluator.cache_dir"])
def test_what_no_file_system_can_hold_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="not UTF-8"):
        local_path(os.fsdecode(b"caf\xe9"), name)
    with pytest.raises(InputError, match="has a name that is too long"):
        local_path(tmp_path / ("n" * 300), name)
    with pytest.raises(InputError, match="zero byte"):
        local_path("a\0b", name)


@pytest.mark.parametrize("path", [None, 3, b"x", ["x"]])
@pytest.mark.parametrize("use", [image_folder, tfrecords, load, ttur_statistics])
def test_what_is_not_a_path_is_refused(use, path):
    with pytest.raises(InputError, match="must be a path in quotes, got"):
        use(path)


def test_a_file_with_the_longest_name_is_written(tmp_path):
    for name in ("n" * 255, "é" * 127):
        write_atomically(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_home_is_meant_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    write_tfrecords(tmp_path)
    (tmp_path / "x.gin").write_text("data.source = @image_folder()\nimage_folder.path = '~/images'")
    config.parse_gin(["~/x.gin"])
    assert config.gin.get_configurable("data")().num_images == 11
    config.parse_gin()
    assert image_folder("~/images/").num_images == 11
    assert tfrecords("~/train-*").num_images == 11

    assert cache_entry("~/cache").path.parent == tmp_path / "cache"
    with pytest.raises(InputError, match=f"{tmp_path}/artifact"):
        load("~/artifact")
    assert not (tmp_path / "~").exists()


def cache_entry(folder):
    return CacheEntry(digits(), types.SimpleNamespace(protocol={}, num_features=0), 0, folder)


def pipeline_root(folder):
    return steps.Context(folder, Configuration("", "", ""))


def shards(folder):
    return Sharding(".", folder, Encoding())


def keras_file(path):
    return keras_model(path, features="pool")


@pytest.mark.parametrize(
    "use",
    [
        load,
        cache_entry,
        pipeline_root,
        shards,
        open_run,
        keras_file,
        saved_model,
        frozen_inception,
        ttur_statistics,
    ],
)
def test_an_address_makes_no_local_folder(use):
    with pytest.raises(InputError, match=r"gs://bucket/x is an address that begins with gs://"):
        use("gs://bucket/x")
