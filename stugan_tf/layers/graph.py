"""How much memory the outputs of a functional model take."""

import math

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import functional, nodes


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
