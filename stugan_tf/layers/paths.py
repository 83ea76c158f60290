"""Names of variables by their path in the model, the same in each process."""

import collections
import re

from stugan_tf.layers.masked import all_layers

# What Keras numbers through the life of a process, beside layers without a name.
_NUMBERED = ("seed_generator", "variable")


def names_of(model):
    """Names the variables of a model.

    A name is the path that Keras gives, such as `block2_c1/kernel`. Keras numbers layers without a
    name through the life of a process, so that the same model has other paths when it is built
    again. Here they are numbered within the model.

    Args:
        model: a built Keras model.

    Returns:
        A list of unique names, one for each of `model.variables`.
    """
    kinds = {_snake_case(type(layer).__name__) for layer in all_layers(model)} | {*_NUMBERED}
    automatic = re.compile(f"({'|'.join(map(re.escape, sorted(kinds)))})(_[0-9]+)?")
    counts, known = collections.Counter(), {}

    def renamed(part):
        match = automatic.fullmatch(part)
        if match is None:
            return part
        if part not in known:
            kind = match.group(1)
            known[part] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        return known[part]

    return unique(
        # A wrapper and its layer have one name, which is enough once.
        re.sub(r"(?<![^/])([^/]+)/\1/", r"\1/", "/".join(map(renamed, variable.path.split("/"))))
        for variable in model.variables
    )


def unique(names):
    """The names in their order; one that was there before gets a number."""
    found = []
    taken = set()
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free)
        found.append(free)
    return found


def _snake_case(name):
    """How Keras makes the name of a layer of that of its class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
