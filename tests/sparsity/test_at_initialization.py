"""SNIP and GraSP against a network of two layers in NumPy, and what they leave alone."""

import keras
import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import masks_of
from stugan_tf.sparsity.at_initialization import grasp, snip
from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.sparsify import sparsify
from tests.helpers import reference

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 4)), RNG.normal(size=(8, 3))
BIASES = RNG.normal(size=5)
KERNELS = [RNG.normal(size=(4, 5)), RNG.normal(size=(5, 3))]
make = pytest.mark.parametrize("prune", [snip, grasp])


def perceptron():
    """y = tanh(x W1 + b) W2."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(hidden))
    model.set_weights([KERNELS[0], BIASES, KERNELS[1]])
    return sparsify(model, 0.0, mask_dense=True)


def gradients(first, second):
    """Of the mean squared error, by hand in float64."""
    hidden = np.tanh(X @ first + BIASES)
    error = 2 * (hidden @ second - Y) / Y.size
    return [X.T @ (error @ second.T * (1 - hidden**2)), hidden.T @ error]


def scores_of(prune, masks):
    kernels = [kernel * mask for kernel, mask in zip(KERNELS, masks, strict=True)]
    found = gradients(*kernels)
    if prune is snip:
        return [np.abs(g * w) for g, w in zip(found, kernels, strict=True)]
    # H g by central differences along g, the gradient of the active weights.
    step = 1e-6
    g = [gradient * mask for gradient, mask in zip(found, masks, strict=True)]
    ahead = gradients(*(w + step * d for w, d in zip(kernels, g, strict=True)))
    behind = gradients(*(w - step * d for w, d in zip(kernels, g, strict=True)))
    products = [m * (a - b) / (2 * step) for m, a, b in zip(masks, ahead, behind, strict=True)]
    return [w * product for w, product in zip(kernels, products, strict=True)]


def kernel_masks(model):
    return masks_of(model.trainable_variables)


def values_of(model):
    return [mask.kernel_mask.numpy() for mask in kernel_masks(model)]


@make
@pytest.mark.parametrize("sparsity", [0.0, 0.35, 0.9])
@pytest.mark.parametrize("starts_sparse", [False, True])
def test_the_best_weights_of_all_layers_stay(prune, sparsity, starts_sparse):
    model = perceptron()
    masks = [np.ones(kernel.shape) for kernel in KERNELS]
    if starts_sparse:
        masks = [exact_mask(kernel.shape, 0.8, (0, 1)).numpy() for kernel in KERNELS]
        for layer, mask in zip(kernel_masks(model), masks, strict=True):
            layer.assign_mask(mask)
    assert prune(model, X, Y, "mse", sparsity) is model
    scores = np.concatenate([s.ravel() for s in scores_of(prune, masks)])
    among = np.concatenate([mask.ravel() for mask in masks]) > 0
    number = min(round((1 - sparsity) * scores.size), int(among.sum()))
    expected = reference.mark_largest(scores, number, among)
    found = np.concatenate([mask.ravel() for mask in values_of(model)])
    np.testing.assert_array_equal(found, expected)
    for layer, kernel, mask in zip(kernel_masks(model), KERNELS, values_of(model), strict=True):
        np.testing.assert_array_equal(layer.kernel, kernel.astype(np.float32) * mask)


@make
def test_what_a_forward_pass_moves_is_restored(prune):
    images = keras.Input((5, 5, 2))
    outputs = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    outputs = keras.layers.Dropout(0.5, seed=1)(keras.layers.ReLU()(outputs))
    outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 2)(outputs))
    model = keras.Model(images, outputs)
    before = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    pixels = np.random.default_rng(0).normal(size=(6, 5, 5, 2)).astype(np.float32)
    labels = np.arange(6) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse = prune(model, pixels, labels, loss, 0.5)
    for variable, value in before:
        np.testing.assert_array_equal(variable, value)
    assert [mask.kernel.shape for mask in kernel_masks(sparse)] == [(3, 3, 2, 4), (2, 2, 4, 3)]
    assert sum(map(np.sum, values_of(sparse))) == round(0.5 * (72 + 48))


def test_the_loss_may_be_a_function_of_one_s_own():
    """A factor changes no rank, a part of the batch does."""
    by_name = snip(perceptron(), X, Y, "mse", 0.6)
    halved = snip(perceptron(), X, Y, lambda y, z: (y - z) ** 2 / 2, 0.6)
    part = snip(perceptron(), X, Y, lambda y, z: ((y - z) ** 2)[:1], 0.6)
    for one, other in zip(values_of(by_name), values_of(halved), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(map(np.any, map(np.not_equal, values_of(by_name), values_of(part))))


def test_a_layer_without_weights_is_named(caplog):
    model = perceptron()
    first, _ = kernel_masks(model)
    first.kernel.assign(1e-6 * first.kernel)
    snip(model, X, Y, "mse", 0.7)
    assert f"removes all weights of {first.name} in" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0. It is the fraction of zeros"),
        ({"loss": "mean_squared"}, "`loss` must be a loss of Keras, its name, .* 'mean_squared'"),
        ({"x": np.full(X.shape, np.nan)}, "scores of layer 'dense.*' are not finite"),
    ],
)
def test_bad_input_is_refused(settings, message):
    arguments = {"x": X, "y": Y, "loss": "mse", "sparsity": 0.5, **settings}
    with pytest.raises(InputError, match=message):
        snip(perceptron(), **arguments)
