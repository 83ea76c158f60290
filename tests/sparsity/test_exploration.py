import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import mask_layers, masked_layers
from stugan_tf.sparsity.criteria import random_scores
from stugan_tf.sparsity.distributions import exact_mask
from stugan_tf.sparsity.exploration import Exploration
from stugan_tf.sparsity.exploration_rate import exploration_rate
from stugan_tf.sparsity.explorer import Explorer
from stugan_tf.sparsity.schedules import constant_drop_fraction
from stugan_tf.sparsity.topology import (
    prune_and_regrow_bernoulli,
    prune_and_regrow_elsewhere,
    prune_and_regrow_from_zero,
    prune_and_regrow_globally,
    prune_and_regrow_per_layer,
)
from tests.helpers import reference
from tests.helpers.params import examples

DENSITIES = [0.3, 1.0, 0.5, 0.1]
SEED = tf.constant([1, 2], tf.int64)


def build(seed=0):
    """A model of four convolutions, one of them dense, and random weights under random masks."""
    images = keras.Input((6, 6, 2))
    outputs = layers.Conv2D(6, 3)(images)
    outputs = layers.Conv2D(5, 1)(outputs)
    outputs = layers.BatchNormalization()(layers.Conv2D(5, 2)(outputs))
    model = mask_layers(keras.Model(images, layers.Conv2D(6, 3)(outputs)))
    set_random_weights(model, seed)
    return model


def set_random_weights(model, seed):
    rng = np.random.default_rng(seed)
    for index, (layer, density) in enumerate(zip(masked_layers(model), DENSITIES, strict=True)):
        layer.kernel.assign(rng.normal(size=layer.kernel.shape))
        layer.assign_mask(exact_mask(tuple(layer.kernel.shape), density, (seed, index)))


def random_gradients(model, seed):
    rng = np.random.default_rng(seed)
    return [
        tf.constant(rng.normal(size=variable.shape), tf.float32)
        for variable in model.trainable_variables
    ]


def masks_of(model):
    return [layer.kernel_mask.numpy() for layer in masked_layers(model)]


def kernels_of(model):
    return [layer.kernel.numpy() for layer in masked_layers(model)]


def kernel_gradients(model, gradients):
    """Of all gradients those of the kernels, in the order of the masked layers."""
    by_variable = {
        id(variable): gradient.numpy()
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
    }
    return [by_variable[id(layer.kernel)] for layer in masked_layers(model)]


@pytest.fixture(scope="module")
def explored():
    """A model and its explorer, traced once for all examples."""
    model = build()
    return model, Explorer(model, Exploration())


@examples(10)
@given(seed=st.integers(0, 1000), drop_fraction=st.integers(0, 1000).map(lambda n: n / 1000))
def test_a_topology_update_follows_equations_3_and_4(explored, seed, drop_fraction):
    """Grown weights are 0, a weight dropped and regrown keeps its value, dense layers stay."""
    model, explorer = explored
    set_random_weights(model, seed)
    gradients = random_gradients(model, seed)
    masks, kernels = masks_of(model), kernels_of(model)
    biases = [layer.layer.bias.numpy() for layer in masked_layers(model)]
    explorer.observe(gradients)
    explorer.update(tf.constant(drop_fraction, tf.float64), SEED)
    grown_from = kernel_gradients(model, gradients)
    for layer, density, bias, mask, kernel, gradient in zip(
        masked_layers(model), DENSITIES, biases, masks, kernels, grown_from, strict=True
    ):
        expected = reference.prune_and_regrow(mask, np.abs(kernel), np.abs(gradient), drop_fraction)
        np.testing.assert_array_equal(layer.kernel_mask, expected)
        assert layer.num_active() == mask.sum()
        np.testing.assert_array_equal(layer.kernel, kernel * expected)
        np.testing.assert_array_equal(layer.layer.bias, bias)
        if density == 1:
            np.testing.assert_array_equal(layer.kernel, kernel)


@pytest.mark.parametrize(
    ("update", "mask", "kernel"),
    [
        # -1 and 2 are dropped; of what is then zero, 2 has the largest gradient, then the last.
        (prune_and_regrow_per_layer, [1, 0, 1, 1, 0, 1], [4, 0, 2, -3, 0, 0]),
        (prune_and_regrow_from_zero, [1, 0, 1, 1, 0, 1], [4, 0, 0, -3, 0, 0]),
        # Neither of the two may return, so that the last two grow.
        (prune_and_regrow_elsewhere, [1, 0, 0, 1, 1, 1], [4, 0, 0, -3, 0, 0]),
    ],
)
def test_a_topology_update_by_hand(update, mask, kernel):
    images = keras.Input((1, 1, 1))
    model = mask_layers(keras.Model(images, layers.Conv2D(6, 1, use_bias=False)(images)))
    (layer,) = masked_layers(model)
    layer.kernel.assign(np.reshape([4.0, -1.0, 2.0, -3.0, 9.0, 9.0], [1, 1, 1, 6]))
    before = [1, 1, 1, 1, 0, 0]
    layer.assign_mask(np.reshape(before, [1, 1, 1, 6]).astype(np.float32))
    explorer = Explorer(model, Exploration(update=update))
    gradient = tf.reshape(tf.constant([9.0, 0.1, -5.0, 9.0, 0.2, -4.0]), [1, 1, 1, 6])
    explorer.observe([gradient])
    explorer.update(0.5, SEED)
    assert layer.kernel_mask.numpy().ravel().tolist() == mask
    assert layer.kernel.numpy().ravel().tolist() == kernel
    union = np.maximum(before, mask).tolist()
    assert explorer.ever_active[0].numpy().ravel().tolist() == union


@pytest.mark.ci
def test_the_exploration_rate_is_that_of_the_union_of_all_masks():
    model = build()
    explorer = Explorer(model, Exploration())
    unions = masks_of(model)
    for step in range(4):
        explorer.observe(random_gradients(model, step))
        explorer.update(0.4, SEED)
        unions = [
            np.maximum(union, mask) for union, mask in zip(unions, masks_of(model), strict=True)
        ]
    rates, total = exploration_rate(explorer.ever_active)
    np.testing.assert_allclose(rates, [union.mean() for union in unions])
    assert total == np.concatenate(unions, axis=None).mean(dtype=np.float64)
    assert rates[1] == 1
    assert rates[0] > DENSITIES[0]


def test_momentum_growth_follows_the_averaged_gradient():
    model = build()
    explorer = Explorer(model, Exploration(gradient_momentum=0.8))
    averages = [np.zeros_like(mask) for mask in masks_of(model)]
    for step in range(3):
        gradients = random_gradients(model, step)
        explorer.observe(gradients)
        averages = [
            0.8 * average + 0.2 * gradient
            for average, gradient in zip(averages, kernel_gradients(model, gradients), strict=True)
        ]
    for average, expected in zip(explorer.growth_gradients, averages, strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)
    before = zip(masks_of(model), kernels_of(model), averages, strict=True)
    expected = [
        reference.prune_and_regrow(mask, np.abs(kernel), np.abs(average), 0.5)
        for mask, kernel, average in before
    ]
    explorer.update(0.5, SEED)
    for mask, expected_mask in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, expected_mask)


def test_a_global_update_keeps_only_the_total():
    model = build()
    explorer = Explorer(model, Exploration(update=prune_and_regrow_globally))
    gradients = random_gradients(model, 1)
    masks, kernels = masks_of(model), kernels_of(model)

    def concatenate(tensors):
        return np.concatenate([np.abs(tensor).ravel() for tensor in tensors])

    expected = reference.prune_and_regrow(
        concatenate(masks),
        concatenate(kernels),
        concatenate(kernel_gradients(model, gradients)),
        0.3,
    )
    explorer.observe(gradients)
    explorer.update(0.3, SEED)
    np.testing.assert_array_equal(concatenate(masks_of(model)), expected)
    counts = [mask.sum() for mask in masks]
    assert sum(counts) == expected.sum()
    assert counts != [mask.sum() for mask in masks_of(model)]
    for kernel, former, mask in zip(kernels_of(model), kernels, masks_of(model), strict=True):
        np.testing.assert_array_equal(kernel, former * mask)


@pytest.mark.ci
def test_random_growth_differs_by_seed_and_by_layer():
    def explore(seed):
        model = build()
        layers_alike = masked_layers(model)
        for layer in layers_alike:
            layer.assign_mask(exact_mask(tuple(layer.kernel.shape), 0.3, (0, 0)))
        former = masks_of(model)
        exploration = Exploration(grow_scores=random_scores)
        explorer = Explorer(model, exploration)
        explorer.observe(random_gradients(model, 0))
        explorer.update(0.5, tf.constant(seed, tf.int64))
        return former, masks_of(model)

    former, first = explore([1, 2])
    _, same = explore([1, 2])
    _, other = explore([1, 3])
    for old, mask, same_mask, other_mask in zip(former, first, same, other, strict=True):
        assert mask.sum() == old.sum()
        np.testing.assert_array_equal(mask, same_mask)
        assert np.any(mask != other_mask)
    flat = [mask.ravel()[:25] for mask in first]
    assert all(np.any(flat[0] != mask) for mask in flat[1:])


def test_a_static_network_is_only_watched():
    model = build()
    explorer = Explorer(model, None)
    explorer.observe(random_gradients(model, 0))
    assert explorer.growth_gradients == []
    for union, mask in zip(explorer.ever_active, masks_of(model), strict=True):
        np.testing.assert_array_equal(union, mask)


@given(
    interval=st.integers(1, 30),
    start=st.integers(0, 60),
    stop=st.none() | st.integers(0, 120),
    total=st.integers(1, 100),
)
def test_the_schedule_is_the_one_described(interval, start, stop, total):
    """Multiples of the interval from `start` until before `stop`; by None never the last step."""
    exploration = Exploration(update_interval=interval, start=start, stop=stop)
    due = [
        step
        for step in range(1, total + 1)
        if step % interval == 0 and start <= step < (total if stop is None else stop)
    ]
    steps = range(1, total + 50)
    assert [step for step in steps if exploration.is_due(step, total)] == due
    assert exploration.num_updates(total) == len(due)
    for step in range(total + 1):
        following = min((other for other in due if other > step), default=None)
        assert exploration.next_due(step, total) == following


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_interval": 0}, "update_interval must be at least 1 .* got 0.* to None"),
        ({"gradient_momentum": 1.0}, r"gradient_momentum must be in \[0, 1\), got 1.0"),
        ({"gradient_momentum": -0.1}, r"gradient_momentum must be in \[0, 1\), got -0.1"),
        (
            {"drop_fraction": lambda progress: constant_drop_fraction(progress, initial=50)},
            r"drop_fraction must stay in \[0, 1\], but is 50 at 0%",
        ),
        ({"drop_fraction": lambda progress: 0.4 - progress}, r"but is -0.09\d* at 50%"),
        (
            {"update": prune_and_regrow_bernoulli},
            "@prune_and_regrow_bernoulli grows at random, but .* is @gradient_magnitude",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Exploration(**settings)
