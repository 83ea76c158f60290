"""Checks of settings where they enter, with a message for the user who set them.

`name` is the name of the setting in a gin file.
"""

import math
import numbers
from typing import Any

from stugan_tf.errors import InputError


def check_positive(name: str, value: Any) -> None:
    """Raises InputError unless `value` is an integer above 0."""
    if not _is_integer(value) or value < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}.")


def check_natural(name: str, value: Any) -> None:
    """Raises InputError unless `value` is an integer of at least 0."""
    if not _is_integer(value) or value < 0:
        raise InputError(f"{name} must be an integer of at least 0, got {value!r}.")


def check_seed(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a seed, an integer from 0 to 2**63 - 1."""
    check_natural(name, value)
    if value >= 2**63:
        raise InputError(f"{name} must be below 2**63, got {value}.")


def check_network_seed(name: str, value: Any) -> None:
    """Raises InputError unless `value` can be the seed of networks, from 0 to 2**31 - 1.

    Keras takes seeds of 32 bits, and each of the two networks has its own.
    """
    check_natural(name, value)
    if value >= 2**31:
        raise InputError(
            f"{name} must be below 2**31 = {2**31}, got {value}. Keras draws the first weights of "
            "both networks from it and takes 32 bits. Choose a smaller one."
        )


def check_above_zero(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a finite number above 0."""
    if not _is_number(value) or not value > 0:
        raise InputError(f"{name} must be a number above 0, got {value!r}.")
    if value == math.inf:
        raise InputError(f"{name} must be finite, got {value!r}.")


def check_at_least_zero(name: str, value: Any) -> None:
    """Raises InputError unless `value` is a number of at least 0."""
    if not _is_number(value) or not value >= 0:
        raise InputError(f"{name} must be a number of at least 0, got {value!r}.")


def check_fraction(name: str, value: Any, advice: str = "") -> None:
    """Raises InputError unless `value` is a number in [0, 1); `advice` ends the message."""
    if not _is_number(value) or not 0 <= value < 1:
        raise InputError(f"{name} must be in [0, 1), got {value!r}. {advice}".rstrip())


def check_bool(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}.")


def check_function(name: str, value: Any) -> None:
    """Raises InputError unless `value` can be called."""
    if not callable(value):
        raise InputError(
            f"{name} must be a function, got {_described(value)}. Write a reference without quotes "
            f"and without parentheses: `{name} = @some_function`."
        )


def check_instance(name: str, value: Any, kind: type) -> None:
    """Raises InputError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        example = value.__name__ if callable(value) else "some_function"
        raise InputError(
            f"{name} must be of type {kind.__name__}, got {_described(value)}. Write a reference "
            f"with parentheses: `{name} = @{example}()`."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _described(value: Any) -> str:
    if callable(value):
        return f"the function {value.__name__}"
    return repr(value) if isinstance(value, (str, numbers.Number)) else f"a {type(value).__name__}"
