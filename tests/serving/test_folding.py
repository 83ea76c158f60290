"""Folded generators make the images of those that were trained, of plain Keras layers alone."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import masked_layers
from stugan_tf.layers.spectral import SpectralConv2D
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.graph import from_json, to_json, to_keras
from tests.helpers.params import first_by_default
from tests.helpers.served_networks import generator, images_of, inputs_of

NETWORKS = first_by_default("sngan", "biggan_imagenet", "biggan", by_default=2)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_generator_makes_the_same_images(name):
    model = generator(name)
    before = [variable.numpy() for variable in model.variables]
    folded = to_keras(fold_into_plain_layers(model))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    inputs = inputs_of(model)
    expected = images_of(model, *inputs)
    assert expected.std() > 0.1
    np.testing.assert_allclose(images_of(folded, *inputs), expected, rtol=0, atol=1e-5)


def test_a_spectral_layer_whose_weights_are_all_pruned_folds_to_zeros():
    model = generator("biggan")
    layer = next(layer for layer in masked_layers(model) if isinstance(layer.layer, SpectralConv2D))
    layer.layer.kernel.assign(tf.zeros_like(layer.layer.kernel))
    inputs = inputs_of(model)
    expected = images_of(model, *inputs)
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(
        images_of(to_keras(fold_into_plain_layers(model)), *inputs), expected, atol=1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_its_layers_are_those_of_keras(name):
    folded = to_keras(fold_into_plain_layers(generator(name)))
    assert all(type(layer).__module__.startswith("keras.") for layer in folded.layers)
    plain = [type(layer) is getattr(keras.layers, type(layer).__name__) for layer in folded.layers]
    assert all(plain)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_kernel_has_no_more_non_zeros_than_its_mask(name):
    graph = fold_into_plain_layers(generator(name))
    for layer in masked_layers(generator(name)):
        kernel = graph.nodes[layer.name].weights["kernel"]
        np.testing.assert_array_equal(kernel != 0, layer.kernel.numpy() != 0)


def test_batch_norm_is_left_where_relu_follows_and_a_residual_starts():
    graph = fold_into_plain_layers(
        generator("sngan")
    )  # 8x8: one block, whose first batch norm follows a fork
    kinds = [node.kind for node in graph.nodes.values()]
    assert kinds.count("BatchNormalization") == 1
    assert "BatchNormalization" not in [
        node.kind for node in fold_into_plain_layers(generator("biggan")).nodes.values()
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_survives_the_json_of_keras(name):
    graph = fold_into_plain_layers(generator(name))
    again = from_json(to_json(graph), graph.weights())
    assert again.inputs == graph.inputs
    inputs = inputs_of(generator(name))
    expected = images_of(to_keras(graph), *inputs)
    np.testing.assert_array_equal(images_of(to_keras(again), *inputs), expected)


@pytest.mark.ci
def test_keras_itself_reads_that_json():
    graph = fold_into_plain_layers(generator("biggan_imagenet"))
    model = keras.models.model_from_json(to_json(graph))
    for node in graph.nodes.values():
        for weight, value in node.weights.items():
            getattr(model.get_layer(node.name), weight).assign(value)
    inputs = inputs_of(generator("biggan_imagenet"))
    expected = images_of(to_keras(graph), *inputs)
    np.testing.assert_array_equal(images_of(model, *inputs), expected)


def randomized(model):
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def chain(*layers, shape=(4, 4, 3)):
    return randomized(keras.Sequential([keras.Input([shape[0]]), *layers]))


L = keras.layers
IMAGES = L.Dense(32), L.Reshape([2, 4, 4])


@pytest.mark.parametrize(
    ("layers", "num_scales"),
    [
        ((L.Dense(8), L.BatchNormalization(), L.ReLU()), 0),
        ((L.Dense(8, activation="relu"), L.BatchNormalization(), L.ReLU()), 1),
        ((L.Dense(8, activation="relu"), L.BatchNormalization(), L.Dense(3)), 0),
        ((L.Dense(8), L.BatchNormalization(), L.BatchNormalization(), L.ReLU()), 0),
        ((L.ReLU(), L.BatchNormalization(), L.BatchNormalization(), L.ReLU()), 1),
        ((*IMAGES, L.BatchNormalization(), L.ReLU()), 0),
        ((*IMAGES, L.UpSampling2D(), L.BatchNormalization(scale=False), L.Conv2D(3, 3)), 0),
        (
            (*IMAGES, L.ReLU(), L.BatchNormalization(center=False), L.Conv2D(3, 1, use_bias=False)),
            0,
        ),
        ((*IMAGES, L.Conv2DTranspose(3, 4, 2, "same"), L.BatchNormalization(), L.LeakyReLU()), 0),
        ((*IMAGES, L.Conv2D(3, 2), L.BatchNormalization(), L.Dropout(0.5), L.ReLU()), 0),
        # Where each position has the same kernel, others cannot have scales of their own.
        ((*IMAGES, L.Dense(6), L.Reshape([4, 4, 3]), L.BatchNormalization(), L.ReLU()), 1),
    ],
)
def test_scales_go_where_they_can(layers, num_scales):
    model = chain(*layers, shape=(4,))
    graph = fold_into_plain_layers(model)
    kinds = [node.kind for node in graph.nodes.values()]
    assert kinds.count("BatchNormalization") == num_scales
    latents = np.random.default_rng(1).normal(size=[5, 4]).astype(np.float32)
    expected = model(latents, training=False).numpy()
    np.testing.assert_allclose(to_keras(graph)(latents).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_scale_does_not_reach_what_others_use():
    latents = keras.Input([4])
    first = L.Dense(4)(latents)
    outputs = L.Add()([L.ReLU()(L.BatchNormalization()(first)), first])
    model = randomized(keras.Model(latents, outputs))
    values = np.random.default_rng(1).normal(size=[5, 4]).astype(np.float32)
    expected = model(values, training=False).numpy()
    np.testing.assert_allclose(
        to_keras(fold_into_plain_layers(model))(values).numpy(), expected, rtol=1e-5
    )


def test_a_scale_is_not_given_to_what_an_addition_spreads():
    """One channel is no place for four scales; one position is."""
    latents = keras.Input([4])
    images = L.Reshape([2, 4, 4])(L.Dense(32)(latents))
    for shape in ((2, 4, 1), (1, 1, 4)):
        spread = L.Reshape(shape)(L.Dense(math.prod(shape))(latents))
        images = L.ReLU()(L.BatchNormalization()(L.Add()([L.Conv2D(4, 1)(images), spread])))
    one_channel = L.Conv2D(1, 3, padding="same")(images)
    images = L.BatchNormalization()(L.Add()([L.Conv2D(4, 3, padding="same")(images), one_channel]))
    model = randomized(keras.Model(latents, L.ReLU()(images)))
    graph = fold_into_plain_layers(model)
    kinds = [node.kind for node in graph.nodes.values()]
    assert kinds.count("BatchNormalization") == 2
    values = np.random.default_rng(1).normal(size=[5, 4]).astype(np.float32)
    expected = model(values, training=False).numpy()
    np.testing.assert_allclose(to_keras(graph)(values).numpy(), expected, rtol=1e-5)


def test_layers_called_twice_and_nested_models_are_written_out():
    latents = keras.Input([4])
    shared = L.Dense(4)
    inner = keras.Sequential([keras.Input([4]), shared, L.BatchNormalization(), L.ReLU()])
    model = randomized(keras.Model(latents, L.Add()([inner(shared(latents)), inner(latents)])))
    values = np.random.default_rng(1).normal(size=[5, 4]).astype(np.float32)
    expected = model(values, training=False).numpy()
    np.testing.assert_allclose(
        to_keras(fold_into_plain_layers(model))(values).numpy(), expected, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (L.Lambda(lambda x: x), "a Lambda, cannot be exported"),
        (L.LayerNormalization(), "a LayerNormalization, cannot be exported"),
        (L.Dense(3, activation=lambda x: x), "activation"),
    ],
)
def test_what_is_not_plain_is_told(layer, told):
    with pytest.raises(InputError, match=told):
        fold_into_plain_layers(keras.Sequential([keras.Input([4]), layer]))
