"""Conditional batch norm and self-attention against NumPy, and what sampling relies on."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from stugan_tf.layers.conditional import (
    ConditionalBatchNormalization,
    LearnedScale,
    self_attention,
)
from stugan_tf.layers.spectral import SpectralDense

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(1, 2, (6, 4, 5, 3)).astype(np.float32)
GAIN, BIAS = RANDOM.normal(size=(2, 6, 3)).astype(np.float32)


def normalize(images, mean, variance):
    return (images - mean) / np.sqrt(variance + 1e-5)


def batch_norm(**settings):
    return ConditionalBatchNormalization(**{"momentum": 0.9, "epsilon": 1e-5, **settings})


def test_training_mode_normalises_by_the_batch_and_moves_the_statistics():
    layer = batch_norm()
    mean, variance = IMAGES.mean((0, 1, 2)), IMAGES.var((0, 1, 2))
    outputs = layer(IMAGES, GAIN, BIAS, training=True)
    expected = normalize(IMAGES, mean, variance)
    expected = expected * (1 + GAIN[:, None, None]) + BIAS[:, None, None]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)
    assert layer.momentum == 0.9


def test_inference_mode_normalises_by_the_moving_statistics_and_leaves_them():
    layer = batch_norm()
    layer.build(IMAGES.shape, GAIN.shape, BIAS.shape)
    layer.moving_mean.assign([1, 2, 3])
    layer.moving_variance.assign([4, 5, 6])
    outputs = layer(IMAGES, GAIN, BIAS, training=False)
    expected = normalize(IMAGES, np.array([1, 2, 3]), np.array([4, 5, 6]))
    expected = expected * (1 + GAIN[:, None, None]) + BIAS[:, None, None]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [1, 2, 3])


@pytest.mark.parametrize("training", [True, False])
def test_without_gain_and_bias_it_is_plain_batch_norm(training):
    layer, plain = batch_norm(), layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    zeros = np.zeros_like(GAIN)
    np.testing.assert_allclose(
        layer(IMAGES, zeros, zeros, training=training), plain(IMAGES, training=training), atol=1e-6
    )


def test_it_has_no_weights_of_its_own():
    layer = batch_norm()
    layer(IMAGES, GAIN, BIAS)
    assert layer.trainable_variables == []
    assert [variable.name for variable in layer.variables] == ["moving_mean", "moving_variance"]


def test_two_replicas_normalise_by_the_global_batch_if_asked(mirrored):
    with mirrored.scope():
        layers_ = {flag: batch_norm(synchronized=flag) for flag in (True, False)}
        for layer in layers_.values():
            layer.build(IMAGES.shape, GAIN.shape, BIAS.shape)

    def call(flag):
        @tf.function
        def on_replica():
            first = 3 * tf.distribute.get_replica_context().replica_id_in_sync_group
            parts = [tf.slice(x, [first] + [0] * (x.ndim - 1), [3, *x.shape[1:]]) for x in inputs]
            return layers_[flag](*parts, training=True)

        inputs = IMAGES, GAIN, BIAS
        results = mirrored.experimental_local_results(mirrored.run(on_replica))
        return np.concatenate([result.numpy() for result in results])

    whole = batch_norm()(IMAGES, GAIN, BIAS, training=True)
    halves = [batch_norm()(IMAGES[s], GAIN[s], BIAS[s], training=True) for s in np.s_[:3, 3:]]
    np.testing.assert_allclose(call(True), whole, atol=1e-5)
    np.testing.assert_allclose(call(False), np.concatenate(halves), atol=1e-5)


@pytest.mark.parametrize("kind", ["table", "dense"])
def test_a_saved_model_computes_the_same(kind, tmp_path):
    images, labels = keras.Input((4, 5, 3)), keras.Input([], dtype="int32")
    condition = layers.Embedding(7, 4)(labels)
    if kind == "table":
        gain, bias = layers.Embedding(7, 3)(labels), layers.Embedding(7, 3)(labels)
    else:
        gain, bias = (SpectralDense(3, use_bias=False)(condition) for _ in range(2))
    model = keras.Model([images, labels], batch_norm()(images, gain, bias))
    inputs = [IMAGES, np.arange(6, dtype=np.int32)]
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for training in (False, True):
        np.testing.assert_array_equal(
            loaded(inputs, training=training), model(inputs, training=training)
        )


def attend(images, kernels, gamma):
    """Self-attention as SAGAN's equations have it, one position of one image at a time."""
    theta, phi, g, o = (kernel[0, 0] for kernel in kernels)
    outputs = np.array(images, np.float64)
    for image, output in zip(images, outputs, strict=True):

        def pooled(features):
            height, width, channels = features.shape
            cells = features.reshape(height // 2, 2, width // 2, 2, channels)
            return cells.max(axis=(1, 3)).reshape(-1, channels)

        keys, values = pooled(image @ phi), pooled(image @ g)
        for row, column in np.ndindex(image.shape[:2]):
            scores = keys @ (image[row, column] @ theta)
            weights = np.exp(scores - scores.max())
            output[row, column] += gamma * (weights / weights.sum() @ values @ o)
    return outputs


@pytest.fixture
def attention():
    """A model of self-attention of images with 16 channels."""
    images = keras.Input((4, 6, 16))

    def convolution(images, filters, name):
        return layers.Conv2D(filters, 1, use_bias=False, name=name)(images)

    return keras.Model(images, self_attention(images, convolution, "attention"))


def test_attention_follows_its_equations(attention):
    images = RANDOM.normal(size=(2, 4, 6, 16)).astype(np.float32)
    names = [f"attention_{name}" for name in ("theta", "phi", "g", "o")]
    kernels = [attention.get_layer(name).kernel for name in names]
    assert [kernel.shape[2:] for kernel in kernels] == [(16, 2), (16, 2), (16, 8), (8, 16)]
    attention.get_layer("attention_gamma").gamma.assign(0.7)
    for kernel in kernels:
        kernel.assign(RANDOM.normal(size=kernel.shape))
    expected = attend(images, [kernel.numpy() for kernel in kernels], 0.7)
    np.testing.assert_allclose(attention(images), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_the_identity_at_first_and_learns_its_scale(attention):
    images = tf.constant(RANDOM.normal(size=(2, 4, 6, 16)), tf.float32)
    np.testing.assert_array_equal(attention(images), images)
    gamma = attention.get_layer("attention_gamma").gamma
    assert gamma.shape == ()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(attention(images) ** 2)
    assert float(tape.gradient(loss, gamma.value)) != 0


def test_a_learned_scale_is_one_number():
    layer = LearnedScale()
    layer(GAIN)
    layer.gamma.assign(-2)
    np.testing.assert_array_equal(layer(GAIN), -2 * GAIN)
    assert len(layer.trainable_variables) == 1
