"""The graph of a functional model: its operations in the order in which Keras runs them."""

import math

import keras
import tensorflow as tf


def functional(model):
    """The functional model that a model is, or holds if it is sequential; of any other, None."""
    if isinstance(model, keras.Sequential):
        model = model._functional  # There is none before it knows its inputs.
    return model if hasattr(model, "_nodes_by_depth") else None  # What makes a model functional.


def nodes(graph):
    """The nodes of a functional model, inputs left out: an operation, what enters and leaves it."""
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if not node.is_input
    ]


def output_size(node):
    """Bytes of what an operation makes of one sample, with all that is made inside of a model."""
    inner = functional(node.operation) if isinstance(node.operation, keras.Model) else None
    return activation_size(inner) if inner else sum(map(tensor_size, node.outputs))


def activation_size(model):
    """Bytes of the outputs of all layers of a functional or sequential model for one sample."""
    return sum(map(output_size, nodes(functional(model))))


def tensor_size(tensor):
    """Bytes of a Keras tensor for one sample; what sizes are not known count once."""
    return math.prod(size or 1 for size in tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
