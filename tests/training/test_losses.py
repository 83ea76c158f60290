import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stugan_tf.training.losses import hinge, least_squares, non_saturating, of_labels, wasserstein
from tests.helpers.params import examples, first_by_default

REAL = tf.constant([[2.0], [0.5]])
FAKE = tf.constant([[-3.0], [0.0]])


def log1p_exp(values):
    return np.mean(np.logaddexp(0, values))


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (hinge(), (0 + 0.5) / 2 + (0 + 1) / 2, 1.5),
        (wasserstein(), -1.5 - 1.25, 1.5),
        (least_squares(), ((1 + 0.25) / 2 + (9 + 0) / 2) / 2, (16 + 1) / 2 / 2),
        (non_saturating(), log1p_exp([-2, -0.5]) + log1p_exp([-3, 0]), log1p_exp([3, 0])),
    ],
    ids=["hinge", "wasserstein", "least_squares", "non_saturating"],
)
def test_losses_by_hand(loss, discriminator, generator):
    assert float(loss.discriminator(REAL, FAKE)) == pytest.approx(discriminator, rel=1e-6)
    assert float(loss.generator(FAKE)) == pytest.approx(generator, rel=1e-6)


logits = arrays(np.float32, (3, 1), elements=st.floats(-30, 30, width=32))


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    first_by_default(
        (
            hinge(),
            "wasserstein_hinge_discriminator_loss",
            "wasserstein_hinge_generator_loss",
        ),
        (wasserstein(), "wasserstein_discriminator_loss", "wasserstein_generator_loss"),
        (least_squares(), "least_squares_discriminator_loss", "least_squares_generator_loss"),
        (non_saturating(), "minimax_discriminator_loss", "modified_generator_loss"),
    ),
    ids=["hinge", "wasserstein", "least_squares", "non_saturating"],
)
@examples(25)
@given(real=logits, fake=logits)
def test_losses_and_gradients_are_those_of_tf_gan(
    loss, discriminator, generator, real, fake, tfgan
):
    real, fake = tf.constant(real), tf.constant(fake)
    discriminator, generator = (
        getattr(tfgan.losses.wargs, name) for name in (discriminator, generator)
    )
    if discriminator is tfgan.losses.wargs.minimax_discriminator_loss:
        discriminator = functools.partial(discriminator, label_smoothing=0.0)
    for ours, theirs, inputs in (
        (loss.discriminator, discriminator, (real, fake)),
        (loss.generator, generator, (fake,)),
    ):
        results = []
        for function in (ours, theirs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = function(*inputs)
            results.append((value, tape.gradient(value, inputs)))
        (value, gradients), (expected, expected_gradients) = results
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
        # At the corner of a hinge either slope is right.
        if not any(np.any(np.abs(np.abs(x) - 1) < 1e-3) for x in inputs):
            for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
                np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_a_mean_of_half_precision_logits_is_taken_in_full():
    many = tf.concat([tf.fill([4096, 1], tf.constant(1.0, tf.bfloat16)), [[3.0]]], axis=0)
    loss = hinge().generator(many)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(-(4096 + 3) / 4097, rel=1e-6)


def test_a_loss_of_keras_is_of_the_labels_1_for_real_and_0_for_generated():
    loss, ours = of_labels(keras.losses.BinaryCrossentropy(from_logits=True)), non_saturating()
    expected = ours.discriminator(REAL, FAKE) / 2
    np.testing.assert_allclose(loss.discriminator(REAL, FAKE), expected, rtol=1e-5)
    np.testing.assert_allclose(loss.generator(FAKE), ours.generator(FAKE), rtol=1e-5)
