"""The private parts of Keras' optimizers that the package relies on.

Keras does not say which variable of an optimizer belongs to which variable of the model, where it
accumulates gradients, and counts the steps of Adam for all weights together. It averages weights
before constraints are applied.
tests/adapters/test_optimizer_internals.py fails first when Keras changes them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute


class Slot(NamedTuple):
    """A variable of an optimizer that belongs to a variable of the model and has its shape."""

    reference: keras.Variable
    name: str  # In Keras: "momentum", "velocity", "average", "gradient_accumulator", ...
    variable: keras.Variable
    initializer: Callable[..., tf.Tensor]

    def restart(self, where: tf.Tensor) -> None:
        """Gives the slots of some weights their initial values again.

        Args:
            where: bool in the shape of the variable, whether a weight starts again.
        """
        initial = self.initializer(self.variable.shape, dtype=self.variable.dtype)
        self.variable.assign(tf.where(where, initial, self.variable.value))


@contextlib.contextmanager
def recorded_slots(optimizer: keras.optimizers.Optimizer) -> Iterator[list[Slot]]:
    """Records the slots that an optimizer creates while it is built inside the context."""
    slots: list[Slot] = []
    create = optimizer.add_variable_from_reference

    def recorded(
        reference_variable: keras.Variable, name: Any = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        variable = create(reference_variable, name=name, initializer=initializer)
        slots.append(Slot(reference_variable, name, variable, keras.initializers.get(initializer)))
        return variable

    # Not by `setattr`: Keras would track the function.
    vars(optimizer)["add_variable_from_reference"] = recorded
    try:
        yield slots
    finally:
        del vars(optimizer)["add_variable_from_reference"]


def accumulated_gradients(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[tf.Tensor | None]:
    """The sums of the gradients of some variables since the last update; None without sums."""
    if not optimizer.gradient_accumulation_steps:
        return [None] * len(variables)
    return [
        tf.convert_to_tensor(
            optimizer._accumulated_gradients[optimizer._get_variable_index(variable)]
        )
        for variable in variables
    ]


def average_in_update(variable: keras.Variable) -> keras.Variable | None:
    """The average that an optimizer keeps of a variable (`use_ema`), while it updates the variable.

    A constraint may ask for it: Keras calls it within the name scope of the optimizer. Returns None
    at other times, and if there is no average.
    """
    scopes = get_global_attribute("name_scope_stack")
    optimizer = scopes[-1].caller if scopes else None
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    averages = getattr(optimizer, "_model_variables_moving_average", ())
    index = optimizer._trainable_variables_indices.get(optimizer._var_key(variable))
    return averages[index] if averages and index is not None else None


def count_from(optimizer: keras.optimizers.Adam, births: Mapping[int, keras.Variable]) -> None:
    """Lets Adam correct the bias of each weight by the updates since the weight's own birth.

    Args:
        optimizer: an `Adam` or `AdamW` that is built.
        births: {position of a variable in `build`: the number of updates before the birth of each
            weight, a float variable in the shape of the weights}.
    """
    update = optimizer.update_step

    def aged(gradient: Any, variable: Any, learning_rate: Any) -> None:
        born = births.get(optimizer._get_variable_index(variable))
        if born is None:
            update(gradient, variable, learning_rate)
            return
        counter = optimizer._iterations
        # Where gradients are accumulated, the counter counts micro-batches.
        every = optimizer.gradient_accumulation_steps or 1
        age = tf.cast(counter.value, born.dtype) - every * tf.convert_to_tensor(born)
        vars(optimizer)["_iterations"] = age
        try:
            update(gradient, variable, learning_rate)
        finally:
            vars(optimizer)["_iterations"] = counter

    # Not by `setattr`: Keras would track the function.
    vars(optimizer)["update_step"] = aged


def must_merge_replicas() -> bool:
    """Whether replicas have to meet in a merge call before a condition that they share."""
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()
