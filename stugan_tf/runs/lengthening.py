"""Whether the length of a run may change: only if its past would have been the same.

Of all parts of a training, only topology rules depend on its length. So they are asked what they
would have done in the past steps if the run had always had its new length.
"""

import dataclasses

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.training.algorithm import Algorithm

# Densities and balance ratios that a rule may have found at a step.
_DENSITIES = (0.0, 0.5, 1.0)
_BALANCE_RATIOS = (None, -1e9, 0.5, 1e9)


def check_past(algorithm: Algorithm, former: int, done: int) -> None:
    """Raises InputError if the new length would have changed the steps that are done.

    Args:
        algorithm: the `Algorithm` with the new length.
        former: the former length, in steps.
        done: the number of steps that are done.
    """
    before = dataclasses.replace(algorithm, total_steps=former)
    for name, rule in algorithm.topology_rules.items():
        if rule is None:
            continue
        found = _first_difference(rule, before, algorithm, done)
        if found is None:
            continue
        step, past, now = found
        raise InputError(
            f"Algorithm.total_steps was {former} and is {algorithm.total_steps}, but the {name}'s "
            f"{type(rule).__name__} depends on it: at step {step}, one of the {done} that are "
            f"done, it has {past} in a training of {former} steps and {now} in one of "
            f"{algorithm.total_steps}. Set Algorithm.total_steps back to {former}, train all steps "
            "again with another --workdir, or start a new run from this one, by --init_from."
        )


def _first_difference(rule, before, after, done):
    """(step, past, now): the first difference in the steps done, in words; None without one."""
    steps = set()
    for algorithm in (before, after):
        due = rule.next_due(0, algorithm.total_steps)
        while due is not None and due <= done:
            steps.add(due)
            due = rule.next_due(due, algorithm.total_steps)
    for step in sorted(steps):
        past, now = _actions(rule, before, step), _actions(rule, after, step)
        if past != now:
            pairs = zip(past, now, strict=True)
            return step, *next(pair for pair in pairs if pair[0] != pair[1])
    return None


def _actions(rule, algorithm, step):
    """What a rule does after a step, in exact words, for each state that it may find."""
    if not rule.is_due(step, algorithm.total_steps):
        return ["no topology update"] * len(_DENSITIES) * len(_BALANCE_RATIOS)
    amounts = (
        rule.amount(algorithm.training_state(step, density, ratio))
        for density in _DENSITIES
        for ratio in _BALANCE_RATIOS
    )
    return ["no change" if a is None else f"a topology update by {_exact(a)}" for a in amounts]


def _exact(amount):
    """Text that is the same only for the same numbers."""
    return repr(np.asarray(amount).tolist())
