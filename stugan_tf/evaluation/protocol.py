"""The protocol of a score: what it was computed from, and whether two scores can be compared.

A protocol is a dictionary that JSON can hold. It names everything that changes a score besides the
generator's weights: extractor, real images, number of generated images, how they were drawn.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stugan_tf.errors import InputError


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for a protocol; its own `id`, if any, does not count."""
    settings = {name: value for name, value in protocol.items() if name != "id"}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_comparable(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError, naming the differences, unless all scores follow one protocol.

    Args:
        protocols: {where a score comes from: its protocol}.
    """
    (first, reference), *others = protocols.items()
    for name, protocol in others:
        if protocol != reference:
            differences = "\n  ".join(_differences(reference, protocol))
            raise InputError(
                f"The scores of {first} and {name} cannot be compared: they follow different "
                f"protocols ({protocol_id(reference)} and {protocol_id(protocol)}):\n"
                f"  {differences}\nEvaluate both with the same settings."
            )


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol as text, one line per setting."""
    return "\n".join(f"{name}: {value}" for name, value in _flat(protocol).items())


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    one, other = _flat(one), _flat(other)
    return [
        f"{name}: {one.get(name, 'not set')} and {other.get(name, 'not set')}"
        for name in {**one, **other}
        if name != "id" and one.get(name, "not set") != other.get(name, "not set")
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a.b': value} for {'a': {'b': value}}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
