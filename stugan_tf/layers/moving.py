"""What a forward pass in training mode moves, and passes that leave it as it was."""

import contextlib

import tensorflow as tf

from stugan_tf.layers.masked import masked_layers


def moving_variables(*models):
    """The variables that a forward pass in training mode may assign.

    These are moving statistics, singular vectors, and the seeds of layers that draw numbers.

    Args:
        *models: Keras models.

    Returns:
        A list of `tf.Variable`.
    """
    masks = {id(layer.kernel_mask) for model in models for layer in masked_layers(model)}
    return [
        variable.value
        for model in models
        for variable in model.non_trainable_variables
        if id(variable) not in masks
    ]


@contextlib.contextmanager
def undisturbed(*models):
    """Forward passes inside leave no trace: afterwards the variables that they move are as before.

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
