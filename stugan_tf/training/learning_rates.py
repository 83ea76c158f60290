"""Schedules of the learning rate, for `MaskedAdam.learning_rate`; the paper's is constant."""

from typing import Any

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_positive
from stugan_tf.contracts import Trial


@gin.configurable
def linear_decay(
    initial: float = gin.REQUIRED, updates: int = gin.REQUIRED
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Decays from `initial` to 0: initial * (1 - t / updates) at update t, counted from 0.

    The authors' code has it behind a flag that is off. An optimizer counts the updates of its own
    network. The discriminator makes more updates, so it needs its own number:

        GAN.generator_optimizer = @generator/MaskedAdam
        GAN.discriminator_optimizer = @discriminator/MaskedAdam
        MaskedAdam.learning_rate = @linear_decay()
        linear_decay.initial = 2e-4
        generator/linear_decay.updates = 50048
        discriminator/linear_decay.updates = 250240

    Args:
        initial: the learning rate of the first update.
        updates: how many updates of the network the training makes.
    """
    check_above_zero("linear_decay.initial", initial)
    check_positive("linear_decay.updates", updates)
    return keras.optimizers.schedules.PolynomialDecay(
        initial, decay_steps=updates, end_learning_rate=0.0, power=1.0
    )


def check_schedule(name: str, schedule: Any) -> None:
    """Raises InputError unless `schedule`, the value of a setting, is a Keras schedule."""
    contract = "`(step) -> learning rate`, a number of at least 0"
    trial = Trial(name, schedule, contract)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise trial.refusal("it is not a keras.optimizers.schedules.LearningRateSchedule")
    rate = trial.of(step=tf.constant(0, tf.int64))
    trial.check_number("its result", rate)
    if not 0 <= rate < float("inf"):
        raise trial.refusal(f"at step 0 it is {rate}")
