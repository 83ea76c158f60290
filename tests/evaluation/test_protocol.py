import copy

import pytest

from stugan_tf.errors import InputError
from stugan_tf.evaluation.protocol import check_comparable, describe, protocol_id

PROTOCOL = {"extractor": {"name": "inception", "sha256": "ab"}, "generated": {"num_images": 50000}}


def test_the_same_protocol_is_comparable_whatever_the_order_of_its_settings():
    reordered = dict(reversed(PROTOCOL.items()))
    check_comparable({"one": PROTOCOL, "other": reordered})
    assert protocol_id(PROTOCOL) == protocol_id(reordered)


@pytest.mark.parametrize(
    ("place", "name", "value", "told"),
    [
        ("generated", "num_images", 10000, "generated.num_images: 50000 and 10000"),
        ("extractor", "sha256", "cd", "extractor.sha256: ab and cd"),
        ("generated", "truncation", 0.5, "generated.truncation: not set and 0.5"),
    ],
)
def test_what_differs_is_named(place, name, value, told):
    other = copy.deepcopy(PROTOCOL)
    other[place][name] = value
    assert protocol_id(other) != protocol_id(PROTOCOL)
    with pytest.raises(InputError, match=f"one and other cannot be compared(.|\n)*{told}"):
        check_comparable({"one": PROTOCOL, "other": other})


def test_a_description_has_a_line_for_each_setting():
    assert describe(PROTOCOL).splitlines() == [
        "extractor.name: inception",
        "extractor.sha256: ab",
        "generated.num_images: 50000",
    ]
