"""Users' own functions are tried once, while the configuration is checked.

A function of a family (a criterion, a schedule, a loss, an average, ...) is called on the smallest
input that shows a mistake, eagerly and on the CPU. A function that breaks the contract of its
family is refused with an `InputError`, which shows the function, the contract and what happened.
Each family states its contract in its own module.

A function declares its needs by an object around it, a `Declared`.
"""

import contextlib
import dataclasses
import functools
import inspect
import numbers
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from stugan_tf.checks import check_function
from stugan_tf.errors import InputError

_Declared = TypeVar("_Declared", bound="Declared")


@dataclasses.dataclass(frozen=True)
class Declared:
    """A function together with its needs. It is called like the function.

    Subclasses add a field for each need. The default of a field is the need of a plain function.

    Attributes:
        function: the function to call.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        """Takes over the name and the signature of the function."""
        vars(self).update(
            {
                name: getattr(self.function, name)
                for name in functools.WRAPPER_ASSIGNMENTS
                if hasattr(self.function, name)
            },
            __wrapped__=self.function,
        )

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the function."""
        return self.function(*arguments, **options)

    @classmethod
    def of(cls: type[_Declared], function: Callable[..., Any]) -> _Declared:
        """Finds the needs that `function` declares.

        Args:
            function: an object of this class, or a plain function. Either may be wrapped in
                `functools.partial` or in a decorator that uses `functools.wraps`, as gin's do.

        Returns:
            An object of this class that calls `function`.
        """
        found = function
        while not isinstance(found, cls):
            if isinstance(found, functools.partial):
                found = found.func
            elif hasattr(found, "__wrapped__"):
                found = found.__wrapped__
            else:
                return cls(function)
        return found if found is function else dataclasses.replace(found, function=function)


class Trial(NamedTuple):
    """A user's function, and the contract that it has to keep."""

    name: str  # In a gin file, such as `Exploration.grow_scores`.
    function: Callable[..., Any]
    contract: str  # `(arguments) -> results`, and what the results are.

    def of(self, **arguments: Any) -> Any:
        """Calls the function once, with the values of `arguments` in their order.

        Returns:
            The result of the call.

        Raises:
            InputError: if the function cannot be called with these arguments, or raises an error.
        """
        check_function(self.name, self.function)
        signature: inspect.Signature | None
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # Some functions that are written in C have no signature.
            signature = None
        try:
            if signature is not None:
                signature.bind(*arguments.values())
        except TypeError as error:
            raise self.refusal(
                f"its signature is {signature}: {error} in a call with {len(arguments)} arguments"
            ) from None
        try:
            with eagerly(), tf.device("CPU:0"):
                return self.function(*arguments.values())
        except InputError:
            raise
        except Exception as error:
            tried = ", ".join(f"{key} = {_described(value)}" for key, value in arguments.items())
            raise self.refusal(
                f"in a call with {tried} it raised {type(error).__name__}: {_first_line(error)}"
                f"{_place(error)}"
            ) from error

    def check_tensor(self, what: str, value: Any, shape: Sequence[int] | tf.TensorShape) -> None:
        """Raises InputError unless `value` is a float32 tensor of `shape` without NaN."""
        if not tf.is_tensor(value) or value.dtype != tf.float32 or value.shape != shape:
            raise self.refusal(
                f"{what} should be a tensor, float32 {list(shape)}, got {_described(value)}"
            )
        if bool(tf.reduce_any(tf.math.is_nan(value))):
            raise self.refusal(f"{what} has NaN where its inputs are small finite numbers")

    def check_number(self, what: str, value: Any) -> None:
        """Raises InputError unless `value` is a real number, or a scalar tensor."""
        is_scalar = _is_array(value) and not len(value.shape)
        if isinstance(value, bool) or not (isinstance(value, numbers.Real) or is_scalar):
            raise self.refusal(f"{what} should be a number, got {_described(value)}")

    def refusal(self, what: str) -> InputError:
        """Makes the InputError for a function that breaks its contract; `what` says how."""
        function = called(self.function)
        is_method = self.name.endswith("." + function.removeprefix("@"))
        given = self.name if is_method else f"{self.name} = {function}"
        return InputError(
            f"{given} must be {self.contract}, but {what}. Change it, or choose another."
        )


def called(function: Callable[..., Any]) -> str:
    """The gin reference of a function, such as `@magnitude`; "a lambda" if it has no name."""
    inner = function
    while isinstance(inner, (functools.partial, Declared)):
        inner = inner.func if isinstance(inner, functools.partial) else inner.function
    name = getattr(inner, "__name__", type(inner).__name__)
    return "a lambda" if name == "<lambda>" else f"@{name}"


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Runs every `tf.function` eagerly, without a trace."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _described(value: Any) -> str:
    if _is_array(value):
        dtype = getattr(value.dtype, "name", value.dtype)
        return f"{dtype} {list(value.shape)}" if tf.is_tensor(value) else f"NumPy's {dtype}"
    if isinstance(value, (list, tuple)):
        parts = ", ".join(map(_described, value[:4])) + (", ..." if len(value) > 4 else "")
        return f"{type(value).__name__} of {len(value)} ({parts})"
    if callable(value):
        return f"the function {called(value)}"
    known = value is None or isinstance(value, (str, numbers.Number))
    return repr(value) if known else f"a {type(value).__name__}"


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"\{\{.*?\}\} ?| \[Op:\w+\].*", "", line)  # What TensorFlow adds.
    return line.rstrip(". ") or "no message"


def _place(error: Exception) -> str:
    """The last line of the user's own code in the traceback of an error, in parentheses."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and frame.filename != __file__
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
