"""Averages of the generator's weights: SEMA (Eq. 5) and its ablations.

One family, `(average, weight, mask, seen, decay) -> (average, seen)` on one kernel, called after
the optimizer and any exploration of the step. `average`, `weight` and the 0/1 `mask` are float32 of
one shape; `seen` is bool: the weights that have entered the average since they were last activated,
T >= 1 in Eq. 5, at first the mask. `decay` is beta.

Eq. 5 does not say when T = 1. A grown weight starts at zero, so if that were the step in which it
grows the average would start from zero too, the bias SEMA is there to avoid (`literal_sema`). In
`sema` it is the first update that finds the weight trained, as in the authors' code.

What is not under masks is averaged plainly, also what is not trained: batch norm's statistics and
singular vectors. A rule marked by `leaves_untrained` has these copied instead (`of_parameters`).
"""

import gin
import tensorflow as tf

_denylist = ["average", "weight", "mask", "seen", "decay"]


def leaves_untrained(rule):
    """Marks a rule: what is not trained is not averaged, but that of the live network."""
    rule.leaves_untrained = True
    return rule


def averages_untrained(rule):
    """Whether what is not trained is averaged, as the authors' code does."""
    return not getattr(rule, "leaves_untrained", False)


@gin.configurable(denylist=_denylist)
def sema(average, weight, mask, seen, decay):
    """Eq. 5: T = 0 -> 0, T = 1 -> the weight itself, T > 1 -> the usual average."""
    return _restarted_ema(average, weight, seen, (mask > 0) & (seen | (weight != 0)), decay)


@gin.configurable(denylist=_denylist)
def literal_sema(average, weight, mask, seen, decay):
    """Eq. 5 to the letter: T = 1 in the step that grows the weight, when it is still zero."""
    return _restarted_ema(average, weight, seen, mask > 0, decay)


@gin.configurable(denylist=_denylist)
def masked_ema(average, weight, mask, seen, decay):
    """The ablation without T = 1: zero where the mask is zero, else the usual average."""
    return mask * _blend(average, weight, decay), seen


@gin.configurable(denylist=_denylist)
def ema(average, weight, mask, seen, decay):
    """The usual average, whatever the mask."""
    del mask
    return _blend(average, weight, decay), seen


@gin.configurable(denylist=_denylist)
@leaves_untrained
def of_parameters(average, weight, mask, seen, decay, rule=sema):
    """As `rule`, but of trainable parameters alone, as GAN Tickets' code has it.

    Batch norm's moving statistics are those of the live network after the generator's update.

    Args:
        average: see above, likewise the others.
        weight: likewise.
        mask: likewise.
        seen: likewise.
        decay: likewise.
        rule: how masked kernels are averaged.
    """
    return rule(average, weight, mask, seen, decay)


def _restarted_ema(average, weight, seen, now_seen, decay):
    started = tf.where(seen, _blend(average, weight, decay), weight)
    return tf.where(now_seen, started, 0.0), now_seen


def _blend(average, weight, decay):
    return decay * average + (1.0 - decay) * weight
