"""How much memory the outputs of a functional model take."""

import math
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import functional, nodes


def output_size(node: Any) -> int:
    """Bytes of the outputs of one call for one sample. A model counts all outputs inside it."""
    inner = functional(node.operation) if isinstance(node.operation, keras.Model) else None
    return activation_size(inner) if inner else sum(map(tensor_size, node.outputs))


def activation_size(model: keras.Model) -> int:
    """Bytes of the outputs of all layers of a functional or sequential model for one sample."""
    return sum(map(output_size, nodes(functional(model))))


def tensor_size(tensor: keras.KerasTensor) -> int:
    """Bytes of a Keras tensor for one sample. Sizes that are not known count as 1."""
    return math.prod(size or 1 for size in tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
