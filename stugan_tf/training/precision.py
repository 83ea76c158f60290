"""Mixed precision: what is computed in 16 bits, and how float16's narrow range is coped with.

Under one of Keras' mixed policies layers cast their inputs and weights on the way in. Variables,
spectral normalisation, losses, gradients of variables, their reductions, the optimizer, masks and
averages stay float32.
"""

import contextlib

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def computing_in(precision):
    """Layers created inside compute in `precision`, one of `POLICIES`."""
    if precision not in POLICIES:
        raise InputError(
            f"train.precision must be one of {', '.join(POLICIES)}, got {precision!r}."
        )
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


@gin.configurable
class LossScale:
    """A factor on a loss that keeps its float16 gradients above 0 and below infinity.

    As in Keras' LossScaleOptimizer: halved when a gradient is not finite, and that update is left
    out; doubled after so many updates without. It is never below 1: a gradient that overflows
    without help is an error to report, not an update to leave out.
    """

    def __init__(self, initial=2.0**15, growth_interval=2000):
        """Creates the state; call inside `strategy.scope()`.

        Args:
            initial: the factor at first, at least 1.
            growth_interval: doubled after so many good updates in a row.
        """
        if not initial >= 1:
            raise InputError(f"LossScale.initial must be at least 1, got {initial!r}.")
        check_positive("LossScale.growth_interval", growth_interval)
        self._growth_interval = growth_interval
        self.factor = tf.Variable(float(initial), dtype=tf.float32, trainable=False)
        self.num_good = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self):
        """The variables that outlive an update, by name."""
        return {"factor": self.factor, "num_good": self.num_good}

    def scaled(self, loss):
        """The loss to differentiate."""
        return loss * self.factor

    def unscaled(self, gradients):
        """The gradients of the loss from those of `scaled`."""
        return [gradient / self.factor for gradient in gradients]

    def update(self, loss, gradients):
        """Follows one update; returns whether it is to be made, a bool scalar.

        Args:
            loss: float32 scalar. If it is not finite itself, no factor is to blame.
            gradients: unscaled, of the whole batch.
        """
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        overflowed = ~finite & tf.math.is_finite(loss) & (self.factor > 1)
        none = tf.constant(0, tf.int64)
        num_good = tf.where(finite, self.num_good + 1, none)
        doubled = 2 * self.factor
        grows = (num_good >= self._growth_interval) & tf.math.is_finite(doubled)
        halved = tf.maximum(self.factor / 2, 1)
        self.factor.assign(
            tf.where(overflowed, halved, tf.where(grows, doubled, self.factor.value()))
        )
        self.num_good.assign(tf.where(num_good >= self._growth_interval, none, num_good))
        return ~overflowed
