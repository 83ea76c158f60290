"""The sparse file is read by a decoder that was written from docs/export.md alone."""

import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open

from stugan_tf.serving import compact
from stugan_tf.serving.folding import fold_into_plain_layers
from tests.helpers.served_networks import generator, interface_of


def decoded(path):
    """{name: float32 array} of all weights in a file."""
    with safe_open(path, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        manifest = json.loads(file.metadata()["manifest"])
    weights = {}
    for name, about in manifest["tensors"].items():
        if name in stored:
            weights[name] = stored[name]
            continue
        k, count = about["low_bits"], about["nonzero"]
        mask = bits(stored.get(f"{name}:mask", b""))
        low = bits(stored.get(f"{name}:low", b""))
        flat = np.zeros(np.prod(about["shape"]), np.float32)
        position, place = -1, 0
        for number in range(count):
            zeros = 0
            while not mask[place]:
                zeros, place = zeros + 1, place + 1
            place += 1
            gap = zeros << k
            for bit in range(k):
                gap += low[number * k + bit] << bit
            position += gap + 1
            flat[position] = stored[f"{name}:values"][number]
        weights[name] = flat.reshape(about["shape"])
    return weights


def bits(data):
    return [byte >> (7 - place) & 1 for byte in map(int, data) for place in range(8)]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_documentation_is_enough(tmp_path, precision):
    graph = fold_into_plain_layers(generator("sngan"))
    about = {"interface": interface_of(generator("sngan")).to_json()}
    compact.write(tmp_path / "file", graph, precision, about)
    found, expected = decoded(tmp_path / "file"), graph.weights()
    assert found.keys() == expected.keys()
    assert any(np.mean(value == 0) > 0.8 for value in expected.values())  # with low bits
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(precision).astype(np.float32))


def test_the_digest_is_of_the_file_with_zeros_in_its_place(tmp_path):
    compact.write(tmp_path / "file", fold_into_plain_layers(generator("sngan")), "float32", {})
    data = (tmp_path / "file").read_bytes()
    with safe_open(tmp_path / "file", framework="numpy") as file:
        digest = file.metadata()["sha256"]
    zeroed = data.replace(digest.encode(), b"0" * 64, 1)
    assert hashlib.sha256(zeroed).hexdigest() == digest
