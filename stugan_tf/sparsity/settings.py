"""The settings of rules as plain data, for the configurations that Keras saves.

Numbers, strings and None stand for themselves. A function is saved by name: the name under which it
is registered with Keras, or its place in this room. Names in a file never lead to anything else,
because a file may be hostile.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import keras

from stugan_tf.contracts import called
from stugan_tf.errors import InputError
from stugan_tf.registration import gin_unlocked

_ROOM = __name__.rpartition(".")[0]


def to_plain(name: str, value: Any) -> Any:
    """A setting as plain data.

    Args:
        name: name of the setting, such as `Exploration.drop_scores`.
        value: a number, a string, None, a function, a `functools.partial` of one, or lists and
            tuples of these.

    Returns:
        Numbers, strings, None, and lists and dictionaries of these.

    Raises:
        InputError: if the value has no name under which it can be found again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return {
            "kind": type(value).__name__,
            "items": [to_plain(f"{name}[{index}]", item) for index, item in enumerate(value)],
        }
    if isinstance(value, functools.partial):
        return {
            "kind": "partial",
            "function": to_plain(name, value.func),
            "arguments": to_plain(name, list(value.args)),
            "keywords": {key: to_plain(f"{name}.{key}", v) for key, v in value.keywords.items()},
        }
    return {"kind": "name", "name": _name_of(name, value)}


def from_plain(value: Any) -> Any:
    """The setting that `to_plain` has made plain.

    Args:
        value: the result of `to_plain`.

    Raises:
        InputError: if a name is known neither to Keras nor here.
    """
    if not isinstance(value, Mapping):
        return value
    match value["kind"]:
        case "list":
            return [from_plain(item) for item in value["items"]]
        case "tuple":
            return tuple(from_plain(item) for item in value["items"])
        case "partial":
            return functools.partial(
                from_plain(value["function"]),
                *from_plain(value["arguments"]),
                **{key: from_plain(v) for key, v in value["keywords"].items()},
            )
        case _:
            return _named(value["name"])


def _name_of(name: str, value: Any) -> str:
    registered = keras.saving.get_registered_name(value) if hasattr(value, "__name__") else None
    if registered and keras.saving.get_registered_object(registered) is value:
        return registered
    place = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
    if _found(place) is value:
        return place
    given = called(value) if callable(value) else repr(value)
    raise InputError(
        f"{name} = {given} cannot be saved with the model: it has no name under which it could be "
        "found again. Define it as a function of a module, with "
        "@keras.saving.register_keras_serializable() above it, or save the weights only."
    )


def _named(name: str) -> Any:
    found = keras.saving.get_registered_object(name)
    found = _found(name) if found is None else found
    if found is None:
        raise InputError(
            f"The saved model uses the function {name!r}, which is not known here. Import the "
            "module that registers it (@keras.saving.register_keras_serializable()), or give it in "
            "`custom_objects`."
        )
    return found


def _found(place: str) -> Any:
    """What a module of this room defines, e.g. `stugan_tf.sparsity.criteria:magnitude`, or None."""
    module, _, name = place.partition(":")
    if module.rpartition(".")[0] != _ROOM:
        return None
    try:
        with gin_unlocked():
            found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return found if getattr(found, "__module__", None) == module else None
