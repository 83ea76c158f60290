"""Damaged and hostile files are refused, whatever they hold."""

import copy
import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_files import served, write
from stugan_runtime import RuntimeFault
from stugan_runtime.generator import loads

HUGE = (0, -1, 2**24, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, 1e300, float("nan"), True, None, "x")
fast = settings(deadline=None, derandomize=True, max_examples=100)
few = settings(deadline=None, derandomize=True, max_examples=25)  # Copying a manifest takes time.


@pytest.fixture(scope="module", params=["sngan", "biggan_imagenet"])
def data(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("sparse") / "file", *served(request.param))


def refused(data):
    with pytest.raises(RuntimeFault) as told:
        loads(data, 1)
    assert 20 < len(str(told.value)) < 512
    return str(told.value)


def read_or_refused(data):
    """Loads a file that may be wrong, and draws an image if it is not."""
    try:
        generator = loads(data, 1)
    except RuntimeFault as error:
        message = str(error)
    else:
        generator(2, seed=1)
        return
    assert 20 < len(message) < 512


def parts_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["manifest"]), data[8 + length :]


def sealed(header, manifest, body):
    """A file whose checksum is right, whatever it says."""
    header = copy.deepcopy(header)
    header["__metadata__"]["manifest"] = json.dumps(manifest)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    data = struct.pack("<Q", len(text)) + text + body
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def test_a_sealed_file_is_read(data):
    assert len(loads(sealed(*parts_of(data)), 1)(2)) == 2


@fast
@given(st.data())
def test_any_cut_is_refused(data, draw):
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    section = draw.draw(st.sampled_from([(0, 8), (8, header_end), (header_end, len(data) - 1)]))
    refused(data[: draw.draw(st.integers(*section))])


@fast
@given(st.data())
def test_any_flipped_bit_is_refused(data, draw):
    position = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[position // 8] ^= 1 << position % 8
    refused(bytes(flipped))


@fast
@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_refused(data):
    refused(data)


def places(values, path=()):
    """The paths of all values inside lists and dictionaries."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def changed(values, path, value):
    result = copy.deepcopy(values)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return result


OTHERS = st.one_of(
    st.sampled_from(HUGE),
    st.integers(-3, 70),
    st.text(max_size=4),
    st.just([]),
    st.just({}),
    st.lists(st.sampled_from([0, 1, 2, 8, 2**31 - 1]), max_size=9),
)


@few
@given(st.data())
def test_any_value_of_the_manifest_may_be_wrong(data, draw):
    header, manifest, body = parts_of(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        there = list(places(manifest))
        manifest = changed(manifest, draw.draw(st.sampled_from(there)), draw.draw(OTHERS))
    read_or_refused(sealed(header, manifest, body))


@few
@given(st.data())
def test_any_value_of_the_header_may_be_wrong(data, draw):
    header, manifest, body = parts_of(data)
    there = [path for path in places(header) if path[0] != "__metadata__"]
    header = changed(header, draw.draw(st.sampled_from(there)), draw.draw(OTHERS))
    read_or_refused(sealed(header, manifest, body))


@fast
@given(st.data())
def test_any_byte_of_the_weights_may_be_wrong(data, draw):
    """Values, masks and low bits, under a checksum that is right."""
    header, manifest, body = parts_of(data)
    changed_body = bytearray(body)
    for _ in range(draw.draw(st.integers(1, 4))):
        position = draw.draw(st.integers(0, len(body) - 1))
        changed_body[position] = draw.draw(st.integers(0, 255))
    read_or_refused(sealed(header, manifest, bytes(changed_body)))


def test_deep_nesting_is_refused(data):
    header, _, body = parts_of(data)
    header["__metadata__"]["manifest"] = "[" * 100_000
    for text in ("[" * 200_000, '{"a":' * 100_000):
        encoded = text.encode()
        refused(struct.pack("<Q", len(encoded)) + encoded + body)


def test_more_weights_than_a_file_can_hold_are_refused(data):
    header, manifest, body = parts_of(data)
    name = next(name for name, about in manifest["tensors"].items() if "nonzero" in about)
    manifest["tensors"][name]["shape"] = [2**14, 2**14]
    assert "declares more than" in refused(sealed(header, manifest, body))


def test_a_layer_of_another_class_is_told(data):
    header, manifest, body = parts_of(data)
    manifest["model"]["config"]["layers"][1]["class_name"] = "Lambda"
    assert "of a class that this library does not have" in refused(sealed(header, manifest, body))


def test_values_that_are_not_finite_are_refused(data):
    header, manifest, body = parts_of(data)
    begin = next(about["data_offsets"][0] for name, about in header.items() if name[0] != "_")
    changed_body = bytearray(body)
    changed_body[begin : begin + 4] = np.float32(np.nan).tobytes()
    assert "the weight" in refused(sealed(header, manifest, bytes(changed_body)))


def test_another_version_is_told(data):
    header, manifest, body = parts_of(data)
    header["__metadata__"]["version"] = "2"
    assert "another version" in refused(sealed(header, manifest, body))
