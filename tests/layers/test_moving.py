"""A forward pass in training mode that leaves no trace."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.layers.masked import Masked, masked_layers
from stugan_tf.layers.moving import moving_variables, undisturbed
from stugan_tf.layers.spectral import SpectralConv2D


def build():
    images = keras.Input((4, 4, 1))
    outputs = Masked(SpectralConv2D(2, 3))(images)
    outputs = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(outputs))
    return keras.Model(images, outputs)


@pytest.mark.parametrize("compiled", [False, True])
def test_passes_inside_leave_all_state_as_it_was(compiled):
    """Moving statistics, singular vectors and the seeds of layers that draw numbers."""
    model = build()
    images = tf.random.stateless_normal([3, 4, 4, 1], [0, 1])

    def call():
        with undisturbed(model):
            model(images, training=True)
            return [tf.identity(variable) for variable in moving_variables(model)]

    before = [variable.numpy() for variable in model.variables]
    former = [variable.numpy() for variable in moving_variables(model)]
    inside = (tf.function(call) if compiled else call)()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    assert all(np.any(now != then) for now, then in zip(inside, former, strict=True))
    masks = [layer.kernel_mask.value for layer in masked_layers(model)]
    assert not any(variable is mask for variable in moving_variables(model) for mask in masks)


def test_a_pass_that_fails_leaves_no_trace():
    model = build()
    before = [variable.numpy() for variable in model.variables]

    def fail():
        with undisturbed(model):
            model(tf.ones([3, 4, 4, 1]), training=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
