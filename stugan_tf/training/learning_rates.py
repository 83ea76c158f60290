"""Schedules of the learning rate, for `MaskedAdam.learning_rate`; the paper's is constant."""

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_above_zero, check_positive
from stugan_tf.contracts import Trial


@gin.configurable
def linear_decay(initial=gin.REQUIRED, updates=gin.REQUIRED):
    """From `initial` to 0: initial * (1 - t / updates) at update t, counted from 0.

    What the authors' code does behind a flag that is off. A network's optimizer counts the updates
    of that network, so the discriminator, which has more of them, needs a number of its own:

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


def check_schedule(name, schedule):
    """Raises InputError unless `schedule`, by the name of a setting, is one of Keras' kind."""
    contract = "`(step) -> learning rate`, a number of at least 0"
    trial = Trial(name, schedule, contract)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise trial.refusal("it is not a keras.optimizers.schedules.LearningRateSchedule")
    rate = trial.of(step=tf.constant(0, tf.int64))
    trial.check_number("its result", rate)
    if not 0 <= rate < float("inf"):
        raise trial.refusal(f"at step 0 it is {rate}")
