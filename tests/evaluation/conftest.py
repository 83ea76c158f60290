"""Small networks in every format that extractors read."""

import shutil

import keras
import pytest
import tensorflow as tf
from keras import layers

from tests.helpers.networks import Net


@pytest.fixture
def net():
    return Net()


@pytest.fixture(scope="session")
def _saved_net(tmp_path_factory):
    path, net = tmp_path_factory.mktemp("saved") / "net", Net()
    tf.saved_model.save(net, str(path), signatures=net.__call__)
    return path


@pytest.fixture
def saved_net(_saved_net, tmp_path):
    """Path of a SavedModel of `net`."""
    return str(shutil.copytree(_saved_net, tmp_path / "net"))


@pytest.fixture(scope="session")
def _keras_net(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            layers.Conv2D(4, 3, name="convolution"),
            layers.BatchNormalization(name="norm"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(6, name="logits"),
        ]
    )
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model.save(path)
    return path


@pytest.fixture
def keras_net(_keras_net, tmp_path):
    """Path of a .keras file for images of 8 x 8 x 3."""
    return str(shutil.copy(_keras_net, tmp_path / "net.keras"))
