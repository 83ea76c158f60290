"""The drop fraction p as a function of training progress, from 0 (start) to 1 (end).

One family, `(progress) -> p`, in Python floats on the host. The paper gives only the initial 0.5;
the cosine and its final value are the authors' code.
"""

import math

import gin


@gin.configurable(denylist=["progress"])
def cosine_drop_fraction(progress, initial=0.5, final=0.005):
    """Cosine: p = final + (initial - final) * (1 + cos(pi * progress)) / 2."""
    return final + (initial - final) * (1 + math.cos(math.pi * progress)) / 2


@gin.configurable(denylist=["progress"])
def linear_drop_fraction(progress, initial=0.5, final=0.005):
    """Linear: p = initial + (final - initial) * progress."""
    return initial + (final - initial) * progress


@gin.configurable(denylist=["progress"])
def constant_drop_fraction(progress, initial=0.5):
    """Constant: p = initial."""
    del progress
    return initial
