"""Adam that keeps masked weights at zero."""

import math
from collections.abc import Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import LocalOptimizer
from stugan_tf.checks import check_above_zero, check_fraction
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked, masked_layers
from stugan_tf.layers.paths import names_of, unique
from stugan_tf.training.learning_rates import check_schedule

MOMENTS = ("dense", "active")


@gin.configurable
class MaskedAdam(LocalOptimizer):
    """Adam (Kingma & Ba, 2015) that restores `kernel == kernel * kernel_mask` in each update.

    Args:
        learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: decay of the first moment; 0 keeps no first moment.
        beta_2: decay of the second moment.
        epsilon: added to the root of the second moment. As in Keras, the bias correction applies to
            the step size.
        moments: `dense` (the paper's code): moments also follow the gradients of inactive weights.
            A grown weight starts with a calibrated second moment. `active`: only active weights
            have moments, which become zero when a weight is dropped. Each weight's bias correction
            counts from its own activation. So the first update of a grown weight is an ordinary
            first Adam update of about `learning_rate`.
        name: name of the optimizer.
        **kwargs: options of `keras.optimizers.Optimizer`, such as `clipnorm`.

    Raises:
        InputError: if an argument is impossible.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 2e-4,
        beta_1: float = 0.0,
        beta_2: float = 0.9,
        epsilon: float = 1e-8,
        moments: str = "dense",
        name: str = "masked_adam",
        **kwargs: Any,
    ) -> None:
        if moments not in MOMENTS:
            raise InputError(f"MaskedAdam.moments must be one of {MOMENTS}, got {moments!r}.")
        if callable(learning_rate):
            check_schedule("MaskedAdam.learning_rate", learning_rate)
        else:
            check_above_zero("MaskedAdam.learning_rate", learning_rate)
        check_fraction("MaskedAdam.beta_1", beta_1)
        check_fraction("MaskedAdam.beta_2", beta_2)
        check_above_zero("MaskedAdam.epsilon", epsilon)
        try:
            super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        except ValueError as error:  # Keras found a misspelt argument.
            raise InputError(f"MaskedAdam: {error}") from error
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.moments = moments
        self._masked: dict[str, Masked] = {}

    def build_for(self, model: keras.Model) -> "MaskedAdam":
        """Creates the slots for the trainable variables of `model` and remembers its masks.

        Returns:
            This optimizer.
        """
        # Layers, not masks: Keras would track a variable in an attribute as one of the optimizer.
        self._masked = {self.key_of(layer.kernel): layer for layer in masked_layers(model)}
        self.build(model.trainable_variables)
        return self

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots: second moments, first moments if any, ages of masked weights."""
        if self.built:
            return
        super().build(variables)
        self._first = (
            self.add_optimizer_variables(variables, "first_moment") if self.beta_1 else None
        )
        self._second = self.add_optimizer_variables(variables, "second_moment")
        self._ages = {
            key: self.add_variable_from_reference(layer.kernel_mask, name="age")
            for key, layer in self._masked.items()
            if self.moments == "active"
        }

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable.

        Args:
            gradient: the dense gradient in the variable's shape, reduced over replicas.
            variable: the variable.
            learning_rate: float scalar.
        """
        index, key = self.index_of(variable), self.key_of(variable)
        mask = self._masked[key].kernel_mask.value if key in self._masked else None
        age = tf.cast(self.iterations.value + 1, variable.dtype)
        alive = None
        if key in self._ages:
            alive = mask
            age = alive * (self._ages[key].value + 1)
            self.assign(self._ages[key], age)
            # An inactive weight has age 0. Age 1 keeps its step finite; the mask removes it.
            age = tf.maximum(age, 1)
        second = self._moment(self._second[index], gradient**2, self.beta_2, alive)
        correction = tf.sqrt(_one_minus_power(self.beta_2, age))
        step = learning_rate * correction / (tf.sqrt(second) + self.epsilon)
        if self._first is None:
            step *= gradient
        else:
            first = self._moment(self._first[index], gradient, self.beta_1, alive)
            step *= first / _one_minus_power(self.beta_1, age)
        updated = variable - step
        self.assign(variable, updated if mask is None else updated * mask)

    def _moment(
        self, slot: keras.Variable, value: tf.Tensor, decay: float, alive: tf.Tensor | None
    ) -> tf.Tensor:
        moment = decay * slot.value + (1 - decay) * value
        if alive is not None:
            moment *= alive
        self.assign(slot, moment)
        return moment

    def state(self, model: keras.Model) -> dict[str, tf.Variable]:
        """All variables by unique name, such as `second_moment/block2_c1/kernel`.

        Args:
            model: the model that this optimizer was built for.

        Returns:
            {name: `tf.Variable`}.
        """
        # Keras names a slot by the path of its variable, with other separators.
        prefixes = {
            variable.path.replace("/", "_") + "_": name
            for name, variable in zip(names_of(model), model.variables, strict=True)
        }

        def name_of(variable: keras.Variable) -> str:
            fitting = [prefix for prefix in prefixes if variable.name.startswith(prefix)]
            if not fitting:
                return variable.name
            prefix = max(fitting, key=len)
            return f"{variable.name.removeprefix(prefix)}/{prefixes[prefix]}"

        names = unique(map(name_of, self.variables))
        return {n: variable.value for n, variable in zip(names, self.variables, strict=True)}

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "moments": self.moments,
        }


def _one_minus_power(base: float, exponent: tf.Tensor) -> tf.Tensor:
    """1 - base**exponent. It is several times faster than the power, and exact near 0."""
    if base == 0:
        return tf.ones_like(exponent)
    return -tf.math.expm1(exponent * math.log(base))
