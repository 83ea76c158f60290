"""The balance ratio of ADAPT (Wang et al. 2023, Eq. 3): who is ahead, generator or discriminator.

    BR = (E[D(G'(z))] - E[D(G(z))]) / (E[D(x)] - E[D(G(z))])

G and G' are the generator before and after one update, D the discriminator that this update saw, z
its latents, x the real images of the discriminator's last update. How far the generator came on the
way to where D has the real images: small if D is too strong, large if G is.
"""

import dataclasses

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

    def __post_init__(self):
        """Checks the values."""
        check_positive("BalanceRatio.every", self.every)
        check_positive("BalanceRatio.window", self.window)

    def __str__(self):
        return f"measured every {self.every} steps, averaged over {self.window} measurements"


def balance_ratio(before, after, real):
    """BR of the mean logits of generated images before and after an update, and of real ones.

    Where D tells real images from generated ones by nothing at all, it is 0.
    """
    return tf.math.divide_no_nan(after - before, real - before)


class BalanceMeter:
    """The last measurements; its variables are created in the scope of a strategy.

    Attributes:
        before: variable for the mean logit of generated images that an update begins with, of this
            replica. It is needed within a step alone.
    """

    def __init__(self, settings):
        """Begins without a measurement.

        Args:
            settings: a `BalanceRatio`.
        """
        self._window = tf.Variable(tf.zeros([settings.window]), trainable=False)
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.before = tf.Variable(0.0, trainable=False)

    def append(self, ratio):
        """Takes in a measurement, in place of the oldest if the window is full; compiled."""
        size = tf.cast(tf.size(self._window), tf.int64)
        is_next = tf.range(size) == self._count % size
        self._window.assign(tf.where(is_next, ratio, self._window))
        self._count.assign_add(1)

    def mean(self, local, of_full_window=False):
        """The mean of the measurements in the window, a float.

        Args:
            local: function that reads a variable.
            of_full_window: only of a window that is full.

        Returns:
            None if there is no measurement, or too few.
        """
        window, count = local(self._window), int(local(self._count))
        if count < (len(window) if of_full_window else 1):
            return None
        return float(window[:count].mean(dtype="float64"))

    def state(self):
        """The variables that outlive a step, by name."""
        return {"window": self._window, "count": self._count}
