"""`SparseGAN.fit` with compiled steps, on several devices, and with models of plain Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.fit.gan import SparseGAN
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.training.losses import Loss, non_saturating
from tests.helpers.fitting import (
    EPOCHS,
    PER_EPOCH,
    assert_close,
    assert_same,
    everything,
    fitted,
    made,
    run,
)

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def whole():
    """A GAN after an uninterrupted `fit`."""
    gan = made()
    fitted(gan)
    return gan


def test_fit_ends_with_the_weights_of_a_run(tmp_path):
    settings = {
        "discriminator_steps": 2,
        "generator_position": 1,
        "accumulation_steps": 2,
        "discriminator_exploration": Exploration(update_interval=3),
    }
    gan = made(**settings, steps_per_execution=3)
    fitted(gan)
    assert_same(gan.gan, run(tmp_path, **settings).gan)


def test_steps_can_be_run_line_by_line(whole):
    was_eager = []

    def loss(real, fake):
        was_eager.append(tf.executing_eagerly())
        return non_saturating().discriminator(real, fake)

    gan = made(loss=Loss(loss, non_saturating().generator), run_eagerly=True)
    fitted(gan)
    assert len(was_eager) >= EPOCHS * PER_EPOCH
    assert all(was_eager)
    assert_close(gan.gan, whole.gan)
    assert not tf.config.functions_run_eagerly()


def test_activations_that_are_computed_again_give_the_same_weights(whole):
    gan = made(rematerialize=True)
    fitted(gan)
    assert_close(gan.gan, whole.gan)


def test_a_later_fit_goes_on_where_the_first_ended(whole, tmp_path):
    path = tmp_path / "gan.weights.h5"
    first = made(total_steps=EPOCHS * PER_EPOCH)
    fitted(first, epochs=1)
    first.save_weights(path)
    loaded = made(total_steps=EPOCHS * PER_EPOCH)
    loaded.load_weights(path)
    for gan in (first, loaded):
        fitted(gan, epochs=EPOCHS, initial_epoch=1)
        assert_same(gan.gan, whole.gan)


def test_models_of_plain_keras_are_trained_with_labels_by_a_loss_of_keras():
    latents, labels = keras.Input([4]), keras.Input([], dtype="int32")
    outputs = keras.layers.Concatenate()([latents, keras.layers.Embedding(10, 4)(labels)])
    outputs = keras.layers.Reshape([8, 8, 1])(keras.layers.Dense(64)(outputs))
    outputs = keras.layers.Conv2D(1, 3, padding="same", activation="tanh")(outputs)
    generator = keras.Model([latents, labels], outputs)
    images, labels = keras.Input([8, 8, 1]), keras.Input([], dtype="int32")
    outputs = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(images)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    outputs = keras.layers.Concatenate()([outputs, keras.layers.Embedding(10, 8)(labels)])
    discriminator = keras.Model([images, labels], keras.layers.Dense(1)(outputs))
    before = [weight.numpy() for weight in generator.weights]
    gan = SparseGAN(generator, discriminator, 0.5, num_classes=10)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.5))
    sgd = keras.optimizers.SGD(1e-2, momentum=0.9, weight_decay=1e-3)
    gan.compile(adam, sgd, keras.losses.BinaryCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, [8, 8, 8, 1], dtype=np.uint8)
    history = gan.fit(pixels, np.arange(8), batch_size=4, verbose=0).history
    assert gan.step == 2  # Two batches are one epoch.
    assert history["g_learning_rate"] == [pytest.approx(5e-4)]
    assert history["d_learning_rate"] == [pytest.approx(1e-2)]
    # The user's own model is the one that is trained.
    assert all(np.any(w != old) for w, old in zip(generator.weights, before, strict=True))
    gan.gan.check_zeros()
    assert gan.gan.sparsities("generator")["generator_sparsity"] == pytest.approx(0.5, abs=0.1)
    images = gan.generate(4, labels=[7, 7, 3, 7])
    np.testing.assert_array_equal(images[:2], gan.generate(2, labels=7))


@pytest.mark.slow
def test_on_two_devices_fit_trains_as_a_run_does(mirrored, tmp_path):
    static = {"generator_exploration": None}
    with mirrored.scope():
        gan = made(**static)
    fitted(gan, epochs=1)
    training = run(tmp_path, mirrored, total_steps=PER_EPOCH, **static)
    expected = everything(training.gan)
    for name, value in everything(gan.gan).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
