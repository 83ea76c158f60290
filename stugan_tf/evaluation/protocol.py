"""The stamp of a score: what it was computed from, and whether two scores can be compared.

A protocol is a dictionary that JSON can hold. It says everything that moves a score besides the
generator's weights: extractor, real images, number of generated ones, how they were drawn.
"""

import hashlib
import json

from stugan_tf.errors import InputError


def protocol_id(protocol):
    """Eight hexadecimal digits that stand for a protocol; its own `id`, if any, is left out."""
    settings = {name: value for name, value in protocol.items() if name != "id"}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_comparable(protocols):
    """Raises InputError, naming what differs, unless all scores follow one protocol.

    Args:
        protocols: {name of a score's origin: its protocol}.
    """
    (first, reference), *others = protocols.items()
    for name, protocol in others:
        if protocol != reference:
            differences = "\n  ".join(_differences(reference, protocol))
            raise InputError(
                f"The scores of {first} and {name} cannot be compared, for they follow different "
                f"protocols ({protocol_id(reference)} and {protocol_id(protocol)}):\n"
                f"  {differences}\nEvaluate both with the same settings."
            )


def describe(protocol):
    """One line a setting."""
    return "\n".join(f"{name}: {value}" for name, value in _flat(protocol).items())


def _differences(one, other):
    one, other = _flat(one), _flat(other)
    return [
        f"{name}: {one.get(name, 'not set')} and {other.get(name, 'not set')}"
        for name in {**one, **other}
        if name != "id" and one.get(name, "not set") != other.get(name, "not set")
    ]


def _flat(values, prefix=""):
    """{'a.b': value} for {'a': {'b': value}}."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
