"""The state that a forward pass in training mode moves, and passes that do not move it."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from stugan_tf.layers.kernel_mask import kernel_masks


def moving_variables(*models: keras.Model) -> list[tf.Variable]:
    """The variables that a forward pass in training mode may assign.

    These are moving statistics, singular vectors, and the seeds of layers that draw numbers.

    Args:
        *models: Keras models.

    Returns:
        A list of `tf.Variable`.
    """
    masks = {id(mask.kernel_mask) for model in models for mask in kernel_masks(model)}
    return [
        variable.value
        for model in models
        for variable in model.non_trainable_variables
        if id(variable) not in masks
    ]


@contextlib.contextmanager
def undisturbed(*models: keras.Model) -> Iterator[None]:
    """Restores at its end the variables that forward passes inside have moved.

    It works eagerly, in a graph, and inside and outside of replicas.

    Args:
        *models: Keras models.
    """
    variables = moving_variables(*models)
    before = [tf.identity(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
