"""Small networks in every format that extractors read."""

import keras
import pytest
import tensorflow as tf
from keras import layers

from tests.helpers.networks import Net


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def saved_net(net, tmp_path):
    """Path of a SavedModel."""
    tf.saved_model.save(net, str(tmp_path / "net"), signatures=net.__call__)
    return str(tmp_path / "net")


@pytest.fixture
def keras_net(tmp_path):
    """Path of a .keras file for images of 8 x 8 x 3."""
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
    model.save(tmp_path / "net.keras")
    return str(tmp_path / "net.keras")
