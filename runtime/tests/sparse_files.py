"""Sparse files of single layers and of small generators."""

import functools
import math

import keras
import numpy as np

import stugan_runtime
from stugan_runtime.generator import loads
from stugan_tf.serving import compact
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.graph import to_keras
from stugan_tf.serving.interface import Interface
from tests.helpers.served_networks import generator, interface_of

CLASSES = 5


def write(path, graph, interface, precision="float32", **manifest):
    """Writes a graph into a sparse file; returns its bytes."""
    compact.write(path, graph, precision, {"interface": interface.to_json(), **manifest})
    return path.read_bytes()


@functools.cache
def served(name):
    """(folded graph, interface) of one of the small generators."""
    model = generator(name)
    return fold_into_plain_layers(model), interface_of(model)


def layer_graph(build, shape, seed=0, density=1.0, conditional=False):
    """(graph, interface) of a layer with random weights; see `of_layer`."""
    latents = keras.Input([math.prod(shape)])
    labels = keras.Input([], dtype="int32") if conditional else None
    outputs = build(keras.layers.Reshape(shape)(latents), labels)
    if len(outputs.shape) != 4:
        outputs = keras.layers.Reshape([1, 1, math.prod(outputs.shape[1:])])(outputs)
    model = keras.Model([latents, labels] if conditional else latents, outputs)
    random = np.random.default_rng(seed)
    for variable in model.variables:
        values = random.normal(size=variable.shape)
        if variable.path.endswith("kernel"):
            values *= random.random(variable.shape) < density
        variable.assign(np.abs(values) + 0.1 if "variance" in variable.path else values)
    interface = Interface(latents.shape[1], tuple(outputs.shape[1:]), CLASSES, conditional)
    return fold_into_plain_layers(model), interface


def of_layer(build, shape, path, threads=1, **weights):
    """A layer in the runtime and in Keras.

    Args:
        build: `(tensor [B, *shape], labels or None) -> tensor`, by Keras' plain layers.
        shape: of the layer's input, without the batch.
        path: of the file.
        threads: of the runtime.
        **weights: `seed` of the weights, `density` of the kernels, and `conditional`, whether
            labels are given.

    Returns:
        (generator of the runtime, Keras model), both of latents to images.
    """
    graph, interface = layer_graph(build, shape, **weights)
    return loads(write(path, graph, interface), threads), to_keras(graph)


def images_of(model, latents, labels):
    """Images of a Keras model."""
    return model(latents if labels is None else [latents, labels], training=False).numpy()


def check_threads_and_batches(path):
    """Raises AssertionError unless images are the same bit for bit with any threads and batches."""
    one = stugan_runtime.load(path, 1)
    latents, labels = one.inputs(13, seed=4)
    labels = labels if one.conditional else None
    expected = one(latents=latents, labels=labels, dtype="float32")
    for threads in (2, 3, 20):
        several = stugan_runtime.load(path, threads)
        for size in (1, 2, 13):
            some = None if labels is None else labels[:size]
            found = several(latents=latents[:size], labels=some, dtype="float32")
            np.testing.assert_array_equal(found, expected[:size])
