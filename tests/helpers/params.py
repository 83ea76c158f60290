"""Parameters one of which is enough for every day: the others run in CI."""

import pytest


def first_by_default(*values):
    """For `parametrize`: `make test` runs the first value, `make test-ci` runs the others.

    Args:
        *values: what `pytest.mark.parametrize` takes; a tuple is one value for each name.
    """
    first, *others = values
    rows = (value if isinstance(value, tuple) else (value,) for value in others)
    return [first, *(pytest.param(*row, marks=pytest.mark.ci) for row in rows)]
