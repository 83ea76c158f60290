"""How much is enough for every day: of parameters the first, of examples a few."""

import hypothesis
import pytest


def first_by_default(*values, by_default=1, in_ci=None):
    """For `parametrize`: `make test` runs the first value, `make test-ci` runs the others.

    Args:
        *values: what `pytest.mark.parametrize` takes; a tuple is one value for each name.
        by_default: how many `make test` runs.
        in_ci: how many of the others `make test-ci` runs; `make test-slow` runs the rest. None for
            all.
    """
    others = values[by_default:]
    in_ci = len(others) if in_ci is None else in_ci
    marks = [pytest.mark.ci] * in_ci + [pytest.mark.slow] * (len(others) - in_ci)
    rows = (value if isinstance(value, tuple) else (value,) for value in others)
    return [
        *values[:by_default],
        *(pytest.param(*row, marks=mark) for row, mark in zip(rows, marks, strict=True)),
    ]


def examples(number):
    """Settings of a property: so many examples before a release, a quarter of them every day."""
    of_profile = hypothesis.settings().max_examples
    return hypothesis.settings(max_examples=max(number * of_profile // 100, min(number, 5)))
