"""Names of variables by their path in the model, the same in each process."""

import collections
import re
from collections.abc import Iterable

import keras

from stugan_tf.adapters.keras_internals import all_layers

# Names that Keras numbers through the life of a process, besides those of unnamed layers.
_NUMBERED = ("seed_generator", "variable")


def names_of(model: keras.Model) -> list[str]:
    """Names the variables of a model.

    A name is the path that Keras gives, such as `block2_c1/kernel`. Keras numbers layers without a
    name through the life of a process, so a model that is built a second time has other paths.
    Here they are numbered within the model.

    Args:
        model: a built Keras model.

    Returns:
        A list of unique names, one for each of `model.variables`.
    """
    kinds = {_snake_case(type(layer).__name__) for layer in all_layers(model)} | {*_NUMBERED}
    automatic = re.compile(f"({'|'.join(map(re.escape, sorted(kinds)))})(_[0-9]+)?")
    counts: collections.Counter[str] = collections.Counter()
    known: dict[str, str] = {}

    def renamed(part: str) -> str:
        match = automatic.fullmatch(part)
        if match is None:
            return part
        if part not in known:
            kind = match.group(1)
            known[part] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        return known[part]

    return unique(
        # A wrapper and its layer have the same name: once is enough.
        re.sub(r"(?<![^/])([^/]+)/\1/", r"\1/", "/".join(map(renamed, variable.path.split("/"))))
        for variable in model.variables
    )


def unique(names: Iterable[str]) -> list[str]:
    """The names in their order. A name that was there before gets a number."""
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free)
        found.append(free)
    return found


def _snake_case(name: str) -> str:
    """Makes the name of a layer from the name of its class, as Keras does."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
