"""Adam as in the paper's code, with moments of the active weights alone by option."""

import math
from collections.abc import Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_fraction
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import mask_of, masks_of
from stugan_tf.training.learning_rates import check_schedule
from stugan_tf.training.optimizers import PlayerOptimizer, check_options

MOMENTS = ("dense", "active")


@keras.saving.register_keras_serializable("stugan_tf")
@gin.configurable
class MaskedAdam(PlayerOptimizer):
    """Adam (Kingma & Ba, 2015), which may forget the moments of weights that are dropped.

    As with any optimizer of Keras, masked weights stay zero by their `KernelMask`.

    Attributes:
        schedule: the schedule of the learning rate, or None if it is constant.

    Args:
        learning_rate: a float or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: decay of the first moment; 0 keeps no first moment.
        beta_2: decay of the second moment.
        epsilon: added to the root of the corrected second moment, as in the paper and in PyTorch:
            learning_rate * m / (sqrt(v) + epsilon), where m and v are corrected for their bias.
            Keras adds it before the correction.
        moments: `dense` (the paper's code): moments also follow the gradients of inactive weights.
            A grown weight starts with a calibrated second moment. `active`: only active weights
            have moments, which become zero when a weight is dropped. Each weight's bias correction
            counts from its own activation. So the first update of a grown weight is an ordinary
            first Adam update of about `learning_rate`.
        name: name of the optimizer.
        **kwargs: options of `keras.optimizers.Optimizer`: `clipnorm`, `global_clipnorm`,
            `clipvalue` and `weight_decay`.

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
        check_options("MaskedAdam", kwargs)
        try:
            super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        except ValueError as error:  # Keras found a misspelt argument.
            raise InputError(f"MaskedAdam: {error}") from error
        self.schedule = learning_rate if callable(learning_rate) else None
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.moments = moments

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
            self.key_of(mask.kernel): self.add_variable_from_reference(mask.kernel_mask, name="age")
            for mask in masks_of(variables)
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
        age = tf.cast(self.iterations.value + 1, variable.dtype)
        alive = None
        mask = mask_of(variable)
        if key in self._ages and mask is not None:
            alive = mask.kernel_mask.value
            age = alive * (self._ages[key].value + 1)
            self.assign(self._ages[key], age)
            # An inactive weight has age 0. Age 1 keeps its step finite; the constraint removes it.
            age = tf.maximum(age, 1)
        second = self._moment(self._second[index], gradient**2, self.beta_2, alive)
        # lr / (sqrt(v) + epsilon) with v = second / correction**2, in one division.
        correction = tf.sqrt(_one_minus_power(self.beta_2, age))
        step = learning_rate * correction / (tf.sqrt(second) + self.epsilon * correction)
        if self._first is None:
            step *= gradient
        else:
            first = self._moment(self._first[index], gradient, self.beta_1, alive)
            step *= first / _one_minus_power(self.beta_1, age)
        self.assign(variable, variable - step)

    def _moment(
        self, slot: keras.Variable, value: tf.Tensor, decay: float, alive: tf.Tensor | None
    ) -> tf.Tensor:
        moment = decay * slot.value + (1 - decay) * value
        if alive is not None:
            moment *= alive
        self.assign(slot, moment)
        return moment

    def restart(self, variable: keras.Variable, where: tf.Tensor) -> None:
        """Lets the moments, and the ages, of some weights start again from zero.

        Args:
            variable: a variable that the optimizer was built for.
            where: bool in the shape of the variable, whether a weight starts again.
        """
        index, key = self.index_of(variable), self.key_of(variable)
        slots = [self._second[index], *([] if self._first is None else [self._first[index]])]
        for slot in [*slots, *([self._ages[key]] if key in self._ages else [])]:
            self.assign(slot, tf.where(where, tf.zeros_like(slot.value), slot.value))

    def check_restarts(self) -> None:
        """All of its state can start again."""

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
