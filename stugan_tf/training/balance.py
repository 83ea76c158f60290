"""The balance ratio of ADAPT (Wang et al. 2023, Eq. 3): which of the two networks is stronger.

    BR = (E[D(G'(z))] - E[D(G(z))]) / (E[D(x)] - E[D(G(z))])

G and G' are the generator before and after one update. D is the discriminator during this update, z
are its latents, x the real images of the discriminator's last update. BR is how much of the gap
between generated and real images one update closes: small if D is too strong, large if G is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from stugan_tf.checks import check_positive


@gin.configurable
@dataclasses.dataclass(frozen=True)
class BalanceRatio:
    """How the balance ratio is measured.

    Attributes:
        every: generator steps from one measurement to the next.
        window: how many measurements are averaged.
    """

    every: int = 10
    window: int = 100

    def __post_init__(self) -> None:
        """Checks the values."""
        check_positive("BalanceRatio.every", self.every)
        check_positive("BalanceRatio.window", self.window)

    def __str__(self) -> str:
        return f"measured every {self.every} steps, averaged over {self.window} measurements"


def balance_ratio(before: tf.Tensor, after: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """Computes BR; it is 0 where D gives real and generated images the same logit.

    Args:
        before: float scalar, the mean logit of generated images before the update.
        after: float scalar, their mean logit after the update.
        real: float scalar, the mean logit of real images.
    """
    return tf.math.divide_no_nan(after - before, real - before)


class BalanceMeter:
    """The last measurements. It must be created inside `strategy.scope()`.

    Attributes:
        before: variable, the mean logit of this replica's generated images before an update. It is
            only used within a step.
    """

    def __init__(self, settings: BalanceRatio) -> None:
        """Starts without a measurement.

        Args:
            settings: a `BalanceRatio`.
        """
        self._window = tf.Variable(tf.zeros([settings.window]), trainable=False)
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.before = tf.Variable(0.0, trainable=False)

    def append(self, ratio: tf.Tensor) -> None:
        """Adds a measurement. It replaces the oldest one if the window is full. Compiled."""
        size = tf.cast(tf.size(self._window), tf.int64)
        is_next = tf.range(size) == self._count % size
        self._window.assign(tf.where(is_next, ratio, self._window))
        self._count.assign_add(1)

    def mean(self, local: Callable[[tf.Variable], Any], of_full_window: bool = False) -> Any:
        """The mean of the measurements in the window.

        Args:
            local: function that reads a variable as a NumPy array.
            of_full_window: whether the window must be full.

        Returns:
            A float, or None if there are too few measurements.
        """
        window, count = local(self._window), int(local(self._count))
        if count < (len(window) if of_full_window else 1):
            return None
        return float(window[:count].mean(dtype="float64"))

    def state(self) -> dict[str, tf.Variable]:
        """The variables that outlive a step, by name."""
        return {"window": self._window, "count": self._count}
