"""Puts the weights of an exported generator into a network that can be trained: folding, undone.

An artifact holds plain layers, into which batch norm and spectral norm were folded
(`serving.folding`). The plain layers of a network take their weights as they are. A batch norm that
was folded has nothing left to do: its statistics are measured, and its scale and shift are set to
undo them. So the images are those of the artifact, and training goes on from there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.adapters.keras_internals import all_layers, functional, nodes
from stugan_tf.errors import InputError
from stugan_tf.layers.conditional import ConditionalBatchNormalization, LearnedScale
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralNormalization

NUM_MEASURED = 256  # Images, whose statistics a batch norm gets.


def check_unfolds(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Raises InputError unless `unfold` can put the weights of an artifact into a network.

    Args:
        model: a generator, a functional Keras model with masks.
        weights: {"layer/weight": array}, those of a `serving.graph.Graph`, in the shapes that
            folding this network gives, apart from embeddings of other classes.
    """
    taken = _first_inputs(model)
    for name, layer in _plain_layers(model):
        is_lost = isinstance(
            layer, (SpectralNormalization, ConditionalBatchNormalization, LearnedScale)
        )
        is_fixed = isinstance(layer, keras.layers.BatchNormalization) and not (
            layer.center and layer.scale and id(layer) in taken
        )
        if is_lost or is_fixed:
            raise InputError(
                f"Layer {name!r}, a {type(layer).__name__}, cannot be trained on from an artifact: "
                "what it computes was folded into constants. Start from the run that the artifact "
                "was exported from."
            )
        for weight in _names(name, weights):
            if not hasattr(layer, weight) or getattr(layer, weight) is None:
                raise InputError(
                    f"Layer {name!r} got a {weight} when the artifact was exported, and has none "
                    "in training. Start from the run that the artifact was exported from."
                )


def unfold(model: keras.Model, weights: Mapping[str, np.ndarray], inputs: list[tf.Tensor]) -> None:
    """Puts the weights of an artifact into a network; see `check_unfolds` for the arguments.

    Weights that have another shape there, the embeddings of other classes, stay as they are. Masks
    stay, too: the caller brings those of the weights that are not zero.

    Args:
        model: the network.
        weights: the weights.
        inputs: what the network takes, for `NUM_MEASURED` images.
    """
    norms = []
    for name, layer in _plain_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape
            scale = weights.get(f"{name}/gamma", np.ones(channels, np.float32))
            shift = weights.get(f"{name}/beta", np.zeros(channels, np.float32))
            _set(layer, scale, shift, np.zeros(channels), np.full(channels, 1 - layer.epsilon))
            norms.append((layer, scale, shift))
            continue
        for weight in _names(name, weights):
            variable, value = getattr(layer, weight), weights[f"{name}/{weight}"]
            if tuple(variable.shape) == value.shape:
                variable.assign(value)
    if not norms:
        return
    taken = _first_inputs(model)
    seen = keras.Model(model.inputs, [taken[id(layer)] for layer, _, _ in norms])
    for (layer, scale, shift), images in zip(
        norms, keras.tree.flatten(seen(inputs, training=False)), strict=True
    ):
        axes = list(range(len(images.shape) - 1))
        mean, variance = (part.numpy() for part in tf.nn.moments(tf.cast(images, tf.float32), axes))
        deviation = np.sqrt(variance + layer.epsilon)
        _set(layer, scale * deviation, shift + scale * mean, mean, variance)


def _set(layer: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> None:
    layer.gamma.assign(scale)
    layer.beta.assign(shift)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)


def _first_inputs(model: keras.Model) -> dict[int, keras.KerasTensor]:
    """{id of a layer: the first tensor that it takes} in the calls of a model itself."""
    return {id(node.operation): node.input_tensors[0] for node in nodes(functional(model))}


def _plain_layers(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """The layers of a network by the names that they have in an artifact, without wrappers."""
    layers = all_layers(model)
    wrapped = {id(layer.layer) for layer in layers if isinstance(layer, Masked)}
    for layer in layers:
        if id(layer) not in wrapped and layer is not model:
            inner = layer.layer if isinstance(layer, Masked) else layer
            yield layer.name.replace("/", "_"), inner


def _names(layer: str, weights: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the weights of a layer."""
    return [name.rpartition("/")[2] for name in weights if name.rpartition("/")[0] == layer]
