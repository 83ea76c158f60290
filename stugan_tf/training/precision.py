"""Mixed precision: computation in 16 bits, and a loss scale for float16's narrow range.

Under one of Keras' mixed policies layers cast their inputs and weights when they are called.
Variables, spectral normalisation, losses, gradients of variables, their reductions, the optimizer,
masks and averages stay float32.
"""

import contextlib
from collections.abc import Iterator, Sequence

import gin
import keras
import tensorflow as tf

from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers that are created inside compute in `precision`, a key of `POLICIES`.

    Raises:
        InputError: if the precision is unknown.
    """
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

    It works like Keras' LossScaleOptimizer. When a gradient is not finite, the update is skipped
    and the factor is halved. After many good updates it is doubled. It is never below 1: a gradient
    that overflows at factor 1 is an error to report, and its update is not skipped.
    """

    def __init__(self, initial: float = 2.0**15, growth_interval: int = 2000) -> None:
        """Creates the state; call it inside `strategy.scope()`.

        Args:
            initial: the first factor, at least 1.
            growth_interval: the factor is doubled after this many good updates in a row.
        """
        if not initial >= 1:
            raise InputError(f"LossScale.initial must be at least 1, got {initial!r}.")
        check_positive("LossScale.growth_interval", growth_interval)
        self._growth_interval = growth_interval
        self.factor = tf.Variable(float(initial), dtype=tf.float32, trainable=False)
        self.num_good = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self) -> dict[str, tf.Variable]:
        """The variables that outlive an update, by name."""
        return {"factor": self.factor, "num_good": self.num_good}

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to differentiate."""
        return loss * self.factor

    def unscaled(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients of the loss, from the gradients of the scaled loss."""
        return [gradient / self.factor for gradient in gradients]

    def update(self, loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Adapts the factor to the gradients of one update.

        Args:
            loss: float32 scalar. If it is not finite itself, the factor is not the cause.
            gradients: unscaled gradients of the whole batch.

        Returns:
            Whether the update should be made, a bool scalar.
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
