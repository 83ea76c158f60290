"""The losses that layers add in a call: activity regularizers and `add_loss`.

Keras keeps them in the layers until the next call. Replicas are threads that take turns in the
middle of a call, so there each would find what another one added. A stateless scope belongs to one
thread.
"""

from typing import Any

import keras
import tensorflow as tf


def call_with_losses(model: keras.Model, inputs: Any, training: bool) -> tuple[Any, list]:
    """Calls a model.

    Args:
        model: a Keras model.
        inputs: its inputs.
        training: whether it computes in training mode.

    Returns:
        `(outputs, losses)`: what the model returns, and a list of what its layers added.
    """
    with _Recording(collect_losses=True) as scope:
        outputs = model(inputs, training=training)
    for variable in scope.moved:
        variable.assign(scope.get_current_value(variable))
    return outputs, scope.losses


class _Recording(keras.StatelessScope):
    """Knows which variables were assigned, each once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.moved: list[keras.Variable] = []

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        variable, _ = update
        if self.get_current_value(variable) is None:
            self.moved.append(variable)
        super().add_update(update)
