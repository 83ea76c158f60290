"""Whether a run may go on as one of another length: only if its past would have been the same.

Nothing but topology rules is told how long the training is. They are asked what they would have
done in the steps that are over, had the run always had its new length.
"""

import dataclasses

import numpy as np

from stugan_tf.errors import InputError

# What a rule may have found at a step, as far as the host knows it: densities and balance ratios.
_DENSITIES = (0.0, 0.5, 1.0)
_BALANCE_RATIOS = (None, -1e9, 0.5, 1e9)


def check_past(algorithm, former, done):
    """Raises InputError unless the steps done were the same in a training as long as before.

    Args:
        algorithm: the `Algorithm` that the run is to have.
        former: its number of steps up to now.
        done: how many of them are done.
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
            f"{type(rule).__name__} goes by it: at step {step}, one of the {done} that are done, "
            f"it has {past} in a training of {former} steps and {now} in one of "
            f"{algorithm.total_steps}. Set Algorithm.total_steps back to {former}, or train all "
            "steps again with another --workdir."
        )


def _first_difference(rule, before, after, done):
    """The first step done at which a rule differs, and what it has, in words; None if none."""
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
    """What a rule does after a step for all that it may find there, in exact words."""
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
