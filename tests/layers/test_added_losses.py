"""What layers add to the loss in a call, and the state that the call moves."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from stugan_tf.layers.added_losses import call_with_losses
from stugan_tf.layers.rematerialization import Rematerialized
from tests.helpers.comparison import assert_same, everything


class Adding(layers.Layer):
    """Adds losses, counts its calls, and hides a variable from Keras."""

    def __init__(self):
        super().__init__()
        self.calls = self.add_weight(name="calls", initializer="zeros", trainable=False)
        self.hidden = (lambda variable: lambda: variable)(keras.Variable(0.0, trainable=False))

    def call(self, inputs):
        self.calls.assign_add(1.0)
        self.calls.assign_add(1.0)
        self.hidden().assign(3.0)
        one = tf.reduce_sum(inputs)
        self.add_loss(one)
        self.add_loss([2 * one, one])
        return inputs


def adding_model():
    """Adds losses before, inside and behind a model, so that there are several segments."""
    images = keras.Input([4, 4, 2])
    outputs = layers.Conv2D(2, 3, padding="same", activity_regularizer="l2")(images)
    outputs = layers.BatchNormalization()(outputs)
    inner = keras.Input([4, 4, 2])
    hidden = layers.Conv2D(2, 3, padding="same")(Adding()(inner))
    outputs = keras.Model(inner, layers.ActivityRegularization(l1=0.1)(hidden))(outputs)
    outputs = layers.Conv2D(2, 3, padding="same")(outputs)
    outputs = layers.BatchNormalization()(outputs)
    outputs = layers.Conv2D(2, 3, padding="same", activity_regularizer="l1")(outputs)
    return keras.Model(images, layers.Dropout(0.5)(outputs))


def test_losses_are_of_this_call_and_state_moves_as_ever():
    keras.utils.set_random_seed(0)
    adding = Adding()
    model = keras.Sequential([keras.Input([3]), layers.Dense(3, activity_regularizer="l2"), adding])
    for size in (1.0, 2.0):
        inputs = size * tf.ones([2, 3])
        outputs, losses = call_with_losses(model, inputs, training=True)
        total = float(tf.reduce_sum(outputs))
        of_outputs = 0.01 * float(tf.reduce_sum(outputs**2)) / 2
        np.testing.assert_allclose(losses, [of_outputs, total, 2 * total, total], rtol=1e-5)
    assert float(adding.calls) == 4
    assert float(adding.hidden()) == 3


def test_each_replica_finds_its_own_losses(mirrored):
    """They take turns where they meet to make common statistics."""
    with mirrored.scope():
        model = keras.Sequential(
            [
                keras.Input([2]),
                layers.ActivityRegularization(l1=1.0),
                layers.BatchNormalization(synchronized=True),
                layers.ActivityRegularization(l1=10.0),
            ]
        )

    def call():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        images = tf.ones([3, 2]) * (1.0 + 2.0 * tf.cast(replica, tf.float32))
        return call_with_losses(model, images, training=True)[1]

    before, after = tf.function(lambda: mirrored.run(call))()
    # Sums over the two numbers of an image: 1 and 3 become -1 and 1.
    for loss, expected in ((before, [2.0, 6.0]), (after, [20.0, 20.0])):
        values = mirrored.experimental_local_results(loss)
        np.testing.assert_allclose(values, expected, rtol=1e-2)


def test_a_rematerialised_model_adds_the_same_losses_with_the_same_gradients():
    keras.utils.set_random_seed(1)
    model = adding_model()
    inputs = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    rematerialized = Rematerialized(model)
    assert len(rematerialized.segments) > 1

    def plain(inputs, training):
        outputs, losses = call_with_losses(model, inputs, training)
        return [outputs, *losses]

    def again(inputs, training):
        losses = []
        return [rematerialized(inputs, training, losses), *losses]

    expected = everything(plain, inputs, model.variables)
    assert len([name for name in expected if name.startswith("output")]) == 7
    assert_same(everything(again, inputs, model.variables), expected, tolerance=1e-6)
