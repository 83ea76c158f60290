"""Averages of the generator's weights: SEMA (Eq. 5) and its ablations.

All averages have the signature `(average, weight, mask, seen, decay) -> (average, seen)`. They work
on one kernel and are called after the optimizer and any topology update of the step. `average`,
`weight` and the 0/1 `mask` are float32 tensors of one shape. `seen` is a bool tensor: the weights
that have entered the average since they were last activated (T >= 1 in Eq. 5). At first it equals
the mask. `decay` is beta.

Eq. 5 does not say when T = 1. A grown weight starts at zero. If T = 1 were the step in which it
grows, its average would start from zero, too: the bias that SEMA avoids (`literal_sema`). In `sema`
T = 1 is the first update that finds the weight trained, as in the authors' code.

Variables without masks have a plain average, even untrained ones: batch norm's statistics and
singular vectors. An `Average` can declare that untrained ones are copied (`of_parameters`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import tensorflow as tf

from stugan_tf import signatures
from stugan_tf.contracts import Declared, Trial

_denylist = ["average", "weight", "mask", "seen", "decay"]


@dataclasses.dataclass(frozen=True)
class Average(Declared):
    """An average that declares what it applies to.

    Attributes:
        function: `(average, weight, mask, seen, decay) -> (average, seen)`.
        averages_untrained: whether untrained variables are averaged, as in the authors' code. If
            not, they are copied from the live network.
    """

    averages_untrained: bool = True


def average_of(**declared: Any) -> Callable[[Callable[..., Any]], Average]:
    """Decorates a function: it becomes an `Average` with these declarations."""
    return lambda function: Average(function, **declared)


def check_average(name: str, function: Any) -> None:
    """Raises InputError unless `function`, the value of a setting, is an average."""
    trial = Trial(
        name,
        function,
        "`(average, weight, mask, seen, decay) -> (average, seen)`, average float32 and seen bool, "
        "both in weight's shape",
    )
    weight = tf.constant([[0.5, -0.25, 0.0], [0.0, 1.0, 0.0]])
    result = trial.of(
        average=tf.constant([[0.25, 0.0, 0.5], [0.0, -1.0, 0.0]]),
        weight=weight,
        mask=tf.constant([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
        seen=tf.constant([[True, False, True], [False, True, False]]),
        decay=tf.constant(0.75),
    )
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise trial.refusal("it returned something other than a pair")
    average, seen = result
    trial.check_tensor("its first result", average, weight.shape)
    if not tf.is_tensor(seen) or seen.dtype != tf.bool or seen.shape != weight.shape:
        raise trial.refusal(f"its second result should be bool {list(weight.shape)}, got {seen!r}")


@gin.configurable(denylist=_denylist)
def sema(
    average: tf.Tensor,
    weight: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    decay: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. 5: T = 0 -> 0, T = 1 -> the weight itself, T > 1 -> the usual average."""
    return _restarted_ema(average, weight, seen, (mask > 0) & (seen | (weight != 0)), decay)


@gin.configurable(denylist=_denylist)
def literal_sema(
    average: tf.Tensor,
    weight: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    decay: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Eq. 5 to the letter: T = 1 in the step that grows the weight, when it is still zero."""
    return _restarted_ema(average, weight, seen, mask > 0, decay)


@gin.configurable(denylist=_denylist)
def masked_ema(
    average: tf.Tensor,
    weight: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    decay: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The ablation without T = 1: zero where the mask is zero, else the usual average."""
    return mask * _blend(average, weight, decay), seen


@gin.configurable(denylist=_denylist)
def ema(
    average: tf.Tensor,
    weight: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    decay: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The usual average; the mask is ignored."""
    del mask
    return _blend(average, weight, decay), seen


@gin.configurable(denylist=_denylist)
@average_of(averages_untrained=False)
def of_parameters(
    average: tf.Tensor,
    weight: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    decay: float | tf.Tensor,
    rule: signatures.Average = sema,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Averages by `rule`, but only trainable parameters, as in GAN Tickets' code.

    Batch norm's moving statistics are copied from the live network after the generator's update.

    Args:
        average: float32, the average so far.
        weight: float32 like `average`.
        mask: float32 like `average`, of zeros and ones.
        seen: bool like `average`.
        decay: beta, a float scalar.
        rule: how masked kernels are averaged.
    """
    return rule(average, weight, mask, seen, decay)


def _restarted_ema(
    average: tf.Tensor,
    weight: tf.Tensor,
    seen: tf.Tensor,
    now_seen: tf.Tensor,
    decay: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    started = tf.where(seen, _blend(average, weight, decay), weight)
    return tf.where(now_seen, started, 0.0), now_seen


def _blend(average: tf.Tensor, weight: tf.Tensor, decay: float | tf.Tensor) -> tf.Tensor:
    return decay * average + (1.0 - decay) * weight
