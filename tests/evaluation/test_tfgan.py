import sys

import numpy as np
import pytest
import tensorflow as tf

real = tf.constant([[2.0], [0.5]])
generated = tf.constant([[-3.0], [0.0]])


def test_hinge_losses_by_hand(tfgan):
    wargs = tfgan.losses.wargs
    assert float(wargs.wasserstein_hinge_generator_loss(generated)) == pytest.approx(1.5)
    # relu(1 - real) = [0, 0.5], relu(1 + generated) = [0, 1]
    d_loss = wargs.wasserstein_hinge_discriminator_loss(real, generated)
    assert float(d_loss) == pytest.approx(0.75)


def test_minimax_discriminator_loss_by_hand(tfgan):
    loss = tfgan.losses.wargs.minimax_discriminator_loss(real, generated, label_smoothing=0.0)
    expected = np.mean(np.logaddexp(0, [-2, -0.5])) + np.mean(np.logaddexp(0, [-3, 0]))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_shifted_activations_is_the_squared_shift(tfgan):
    activations = tf.random.stateless_normal([500, 4], seed=(0, 1))
    distance = tfgan.eval.frechet_classifier_distance_from_activations(activations, activations + 2)
    assert float(distance) == pytest.approx(4 * 2**2, rel=1e-3)


def test_the_stand_ins_are_gone_after_the_import(tfgan):
    assert not hasattr(tf, "estimator")
    assert "tensorflow_gan.python.estimator" not in sys.modules
