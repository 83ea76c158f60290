"""Folds the parts of a generator that serve training into plain layers.

Once the kernel is zero under its mask, the mask is not needed. Spectral norm divides the kernel by
a constant. Batch norm with fixed statistics scales and shifts channels. Scales and shifts go

- into the convolution or dense layer before, past layers that commute with them (reshaping,
  resizing, additions), as long as no other layer uses the changed outputs;
- or into the dense layer or 1x1 convolution after;
- or, where ReLU follows and a residual connection starts, into one layer of scale and shift.

Embeddings or dense layers make the gains and biases of class-conditional batch norm: they are
changed to make the folded scales and shifts instead.
"""

import math

import keras
import numpy as np

from stugan_tf.adapters.keras_internals import functional, nodes
from stugan_tf.errors import InputError
from stugan_tf.layers.conditional import ConditionalBatchNormalization, LearnedScale
from stugan_tf.layers.in_place import plain_class, plain_config
from stugan_tf.layers.masked import Masked, check_zeros
from stugan_tf.layers.spectral import (
    SpectralConv2D,
    SpectralDense,
    SpectralEmbedding,
    SpectralNormalization,
)
from stugan_tf.serving.graph import KINDS, Graph, Node, checked_arguments, float32

AFFINE = "affine"  # A node to be folded, with weights `gamma` and `beta`.
LINEAR = ("Conv2D", "Conv2DTranspose", "Dense")
# Axis of a kernel along which its outputs lie.
OUTPUT_AXIS = {"Conv2D": 3, "Conv2DTranspose": 2, "Dense": 1}
_NAMES = {SpectralConv2D: "Conv2D", SpectralDense: "Dense", SpectralEmbedding: "Embedding"}
# Layers that do nothing in inference mode.
_IDENTITIES = (
    *(keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise),
    *(keras.layers.GaussianDropout, keras.layers.Identity),
)


def fold_into_plain_layers(model: keras.Model) -> Graph:
    """The graph of a generator in inference mode.

    Args:
        model: a functional Keras model of latents, or of [latents, labels], to images.

    Raises:
        InputError: if plain layers cannot replace a layer, or a weight outside a mask is not zero;
            the message names the layer.
    """
    check_zeros(model)
    tracing = _Tracing()
    inputs = [tracing.add_input(tensor) for tensor in model.inputs]
    (output,) = tracing.walk(model, inputs)
    graph = Graph(tracing.nodes, inputs, output)
    _remove_unused(graph)
    _fold_affines(graph)
    return graph


class _Tracing:
    """Turns calls of Keras layers into nodes, one after the other."""

    def __init__(self):
        self.nodes = {}
        self.shapes = {}

    def add_input(self, tensor):
        """Adds the node of an input of the model; returns its name."""
        dtype = "int32" if "int" in tensor.dtype else "float32"
        arguments = {"batch_shape": (None, *tensor.shape[1:]), "dtype": dtype}
        checked_arguments("InputLayer", tensor.name, arguments)
        name = ("latents", "labels")[len(self.nodes)] if len(self.nodes) < 2 else tensor.name
        return self._add("InputLayer", name, [], tensor.shape, arguments)

    def walk(self, model, inputs):
        """Adds the nodes of a model called on the nodes `inputs`; returns names of its outputs."""
        graph = functional(model)
        if graph is None:
            raise InputError(
                f"{model.name!r}, a {type(model).__name__}, cannot be exported: only the calls of "
                "functional and sequential models can be read. Write it with the functional API."
            )
        made = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for node in nodes(graph):
            names = self._call(node, [made[id(tensor)] for tensor in node.input_tensors])
            made |= zip(map(id, node.outputs), names, strict=True)
        return [made[id(tensor)] for tensor in graph.outputs]

    def _call(self, node, inputs):
        """Adds the nodes of one call; returns the names of its outputs."""
        layer = node.operation
        if isinstance(layer, keras.Model):
            return self.walk(layer, inputs)
        if type(layer) in _IDENTITIES:
            return inputs
        if type(layer).__name__ == "Split" and not isinstance(layer, keras.layers.Layer):
            return self._split(node, inputs)
        self._refuse_arguments(node)
        shape = node.outputs[0].shape
        if type(layer) is ConditionalBatchNormalization:
            return [self._normalize_by_class(layer, inputs, shape)]
        if type(layer) is keras.layers.BatchNormalization:
            _check_axis(layer, shape)
            weights = dict(zip(("gamma", "beta"), _statistics(layer), strict=True))
            return [self._add(AFFINE, layer.name, inputs, shape, weights=weights)]
        if type(layer) is LearnedScale:
            gamma = np.full(shape[-1], layer.gamma.numpy(), np.float64)
            weights = {"gamma": gamma, "beta": np.zeros_like(gamma)}
            return [self._add(AFFINE, layer.name, inputs, shape, weights=weights)]
        return [self._add_plain(layer, inputs, shape)]

    def _refuse_arguments(self, node):
        given = [
            name
            for name, value in node.arguments.kwargs.items()
            if value not in (None, False) and not isinstance(value, keras.KerasTensor)
        ]
        if given:
            raise InputError(
                f"Layer {node.operation.name!r} is called with the argument {given[0]!r}, which "
                "cannot be exported. Call it without this argument."
            )

    def _add_plain(self, layer, inputs, shape):
        inner = layer.layer if type(layer) is Masked else layer
        plain = plain_class(inner)
        kind = _NAMES.get(plain, plain.__name__)
        is_keras = getattr(keras.layers, kind, None) in (plain, None) or plain in _NAMES
        if kind not in KINDS or not is_keras or kind == "BatchNormalization":
            raise InputError(
                f"Layer {layer.name!r}, a {type(inner).__name__}, cannot be exported: the plain "
                f"layers of an artifact are {', '.join(KINDS)}; BatchNormalization and the layers "
                "of stugan_tf fold into them."
            )
        config = {**plain_config(inner), "name": layer.name}
        if kind == "Reshape":  # One size may have been left open.
            config["target_shape"] = shape[1:]
        arguments = checked_arguments(kind, layer.name, config)
        return self._add(kind, layer.name, inputs, shape, arguments, _weights(inner))

    def _split(self, node, inputs):
        """`keras.ops.split` of vectors, as layers that crop."""
        operation, (name,) = node.operation, inputs
        length = self.shapes[name][-1]
        if len(self.shapes[name]) != 2 or operation.axis not in (1, -1):
            raise InputError("Only vectors that are split along their last axis can be exported.")
        column = self._reshape(f"{operation.name}_column", name, (length, 1))
        names, start = [], 0
        for number, tensor in enumerate(node.outputs):
            size = tensor.shape[-1]
            cropping = {"cropping": (start, length - start - size)}
            piece = f"{operation.name}_{number}"
            cropped = self._add("Cropping1D", f"{piece}_crop", [column], (None, size, 1), cropping)
            names.append(self._reshape(piece, cropped, (size,)))
            start += size
        return names

    def _normalize_by_class(self, layer, inputs, shape):
        """BN(x) * (1 + gain) + bias = x * scale + shift, with a scale and shift for each class.

        Several layers may use the same gain and bias: each gets nodes of its own.
        """
        _check_axis(layer, shape)
        images, gain, bias = inputs
        inverse, offset = _statistics(layer)  # BN(x) = inverse * x + offset
        made = self._scale_and_shift(layer.name, gain, bias, inverse, offset)
        if made is None:
            weights = {"gamma": inverse, "beta": offset}
            images = self._add(AFFINE, layer.name, [images], shape, weights=weights)
            of_gain = self._channels(f"{layer.name}_of_gain", gain)
            scaled = self._add("Multiply", f"{layer.name}_scaled", [images, of_gain], shape)
            images = self._add("Add", f"{layer.name}_gained", [images, scaled], shape)
            of_bias = self._channels(f"{layer.name}_of_bias", bias)
            return self._add("Add", f"{layer.name}_shifted", [images, of_bias], shape)
        scale, shift = (self._channels(f"{name}_channels", name) for name in made)
        scaled = self._add("Multiply", f"{layer.name}_scaled", [images, scale], shape)
        return self._add("Add", f"{layer.name}_shifted", [scaled, shift], shape)

    def _scale_and_shift(self, name, gain, bias, inverse, offset):
        """Nodes of scale = inverse (1 + gain) and shift = offset (1 + gain) + bias, or None.

        Both are linear in the weights of the layers that make gain and bias, so layers of the same
        kind can make them.
        """
        gain, bias = self.nodes[gain], self.nodes[bias]
        if gain.kind != bias.kind or gain.inputs != bias.inputs:
            return None
        if gain.kind == "Embedding":
            table = gain.weights["embeddings"].astype(np.float64)
            scale = {"embeddings": inverse * (1 + table)}
            shift = {"embeddings": offset * (1 + table) + bias.weights["embeddings"]}
            arguments = gain.arguments
        elif (
            gain.kind == "Dense"
            and gain.arguments["activation"] == "linear" == (bias.arguments["activation"])
        ):
            kernel, constant = _kernel_and_bias(gain)
            bias_kernel, bias_constant = _kernel_and_bias(bias)
            scale = {"kernel": inverse * kernel, "bias": inverse * (1 + constant)}
            shift = {
                "kernel": offset * kernel + bias_kernel,
                "bias": offset * (1 + constant) + bias_constant,
            }
            arguments = {**gain.arguments, "use_bias": True}
        else:
            return None
        shape = self.shapes[gain.name]
        return [
            self._add(gain.kind, f"{name}_{what}", gain.inputs, shape, arguments, weights)
            for what, weights in (("scale", scale), ("shift", shift))
        ]

    def _channels(self, name, vectors):
        """Vectors [B, C] as images [B, 1, 1, C]."""
        return self._reshape(name, vectors, (1, 1, self.shapes[vectors][-1]))

    def _reshape(self, name, tensor, shape):
        return self._add("Reshape", name, [tensor], (None, *shape), {"target_shape": shape})

    def _add(self, kind, name, inputs, shape, arguments=None, weights=None):
        """Adds a node and returns its name, which is new."""
        # Layers of nested models, and calls of one layer, may share a name.
        base, number = name.replace("/", "_"), 1
        name = base
        while name in self.nodes:
            number += 1
            name = f"{base}_{number}"
        self.nodes[name] = Node(name, kind, dict(arguments or {}), list(inputs), weights or {})
        self.shapes[name] = tuple(shape)
        return name


def _check_axis(layer, shape):
    if layer.axis not in (-1, len(shape) - 1):
        raise InputError(
            f"{layer.name!r} normalises axis {layer.axis}; only the last axis, the channels, can "
            "be exported."
        )


def _statistics(layer):
    """The scale and the shift of a batch norm in inference mode, float64 [C]."""
    mean, variance = (
        np.float64(variable.numpy()) for variable in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * layer.gamma.numpy()
    shift = -mean * scale
    return scale, shift + layer.beta.numpy() if layer.center else shift


def _weights(layer):
    """The weights with which a plain or spectral layer computes in inference mode."""
    weights = {}
    for name in ("kernel", "embeddings", "bias"):
        value = getattr(layer, name, None)
        if value is not None:
            weights[name] = value.numpy().astype(np.float64)
    if isinstance(layer, SpectralNormalization):
        normalized = "embeddings" if "embeddings" in weights else "kernel"
        sigma = float(layer.sigma(training=False))
        weights[normalized] /= sigma or 1.0  # sigma = 0 where W = 0, and so is W / sigma.
    return weights


def _kernel_and_bias(node):
    kernel = node.weights["kernel"]
    return kernel, node.weights.get("bias", np.zeros(kernel.shape[-1]))


def _remove_unused(graph):
    """Removes nodes that no node uses, from the last to the first; inputs stay."""
    for name in reversed(list(graph.nodes)):
        if name not in graph.inputs and not graph.users()[name]:
            del graph.nodes[name]


def _fold_affines(graph):
    """Folds affine nodes, or makes them layers of scale and shift; casts weights to float32."""
    for node in [node for node in graph.nodes.values() if node.kind == AFFINE]:
        scale, shift = node.weights["gamma"], node.weights["beta"]
        (source,) = node.inputs
        users = graph.users()
        if _can_take(graph, users, source, len(scale)):
            _take(graph, source, scale, shift)
            _bypass(graph, node)
        elif (user := _linear_user(graph, users, node)) is not None:
            _take_before(user, scale, shift)
            _bypass(graph, node)
        else:
            node.kind, node.arguments = "BatchNormalization", {"axis": -1, "epsilon": 0.0}
    for node in graph.nodes.values():
        node.weights = {name: float32(value) for name, value in node.weights.items()}


def _can_take(graph, users, name, num_channels):
    """Whether the outputs of a node can be scaled and shifted by channel in the nodes before it.

    The node must have one user, the affine node. An output with one channel that an addition
    broadcasts cannot have a scale for each of `num_channels`.
    """
    node = graph.nodes[name]
    if len(users[name]) != 1:
        return False
    if node.kind in LINEAR:
        num_outputs = node.weights["kernel"].shape[OUTPUT_AXIS[node.kind]]
        return node.arguments["activation"] == "linear" and num_outputs == num_channels
    if node.kind == "Reshape":
        (source,), shape = node.inputs, node.arguments["target_shape"]
        is_fit = graph.nodes[source].kind == "Dense" and shape[-1] == num_channels
        return is_fit and _can_take(graph, users, source, math.prod(shape))
    if node.kind in ("UpSampling2D", "Add"):
        return all(_can_take(graph, users, one, num_channels) for one in node.inputs)
    return node.kind == "BatchNormalization" and len(node.weights["gamma"]) == num_channels


def _take(graph, name, scale, shift):
    """Scales and shifts the outputs of a node; see `_can_take`."""
    node = graph.nodes[name]
    if node.kind in LINEAR:
        axis = OUTPUT_AXIS[node.kind]
        kernel = np.moveaxis(node.weights["kernel"], axis, -1) * scale
        node.weights["kernel"] = np.moveaxis(kernel, -1, axis)
        if node.arguments["use_bias"] or np.any(shift):
            node.weights["bias"] = node.weights.get("bias", 0) * scale + shift
            node.arguments["use_bias"] = True
    elif node.kind == "Reshape":
        repeats = math.prod(node.arguments["target_shape"][:-1])
        _take(graph, node.inputs[0], np.tile(scale, repeats), np.tile(shift, repeats))
    elif node.kind == "BatchNormalization":
        node.weights = {
            "gamma": node.weights["gamma"] * scale,
            "beta": node.weights["beta"] * scale + shift,
        }
    else:
        for index, one in enumerate(node.inputs):
            _take(graph, one, scale, shift if index == 0 else np.zeros_like(shift))


def _linear_user(graph, users, node):
    """The dense layer or 1x1 convolution that is the only user of a node, or None."""
    (user, *others) = users[node.name]
    if others or user is None:
        return None
    user = graph.nodes[user]
    pointwise = user.kind == "Conv2D" and tuple(user.arguments["kernel_size"]) == (1, 1)
    return user if user.kind == "Dense" or pointwise else None


def _take_before(node, scale, shift):
    """Folds a scale and a shift of its inputs into a dense layer or 1x1 convolution."""
    kernel = node.weights["kernel"]
    added = np.sum(kernel * shift[:, None], axis=tuple(range(kernel.ndim - 1)))
    node.weights["kernel"] = kernel * scale[:, None]
    if node.arguments["use_bias"] or np.any(added):
        node.weights["bias"] = node.weights.get("bias", 0) + added
        node.arguments["use_bias"] = True


def _bypass(graph, node):
    """Removes a node with one input; its users use that input instead."""
    (source,) = node.inputs
    for user in graph.nodes.values():
        user.inputs = [source if name == node.name else name for name in user.inputs]
    if graph.output == node.name:
        graph.output = source
    del graph.nodes[node.name]
