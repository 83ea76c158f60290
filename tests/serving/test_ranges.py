"""Sparse files say how large the numbers of their generators become."""

import copy

import numpy as np
import pytest

from stugan_tf.serving import compact, ranges
from stugan_tf.serving.folding import fold_into_plain_layers
from stugan_tf.serving.formats import FORMATS, Settings
from tests.helpers.served_networks import generator, interface_of


@pytest.fixture(scope="module")
def graph():
    return fold_into_plain_layers(generator("biggan"))


@pytest.fixture(scope="module")
def interface():
    return interface_of(generator("biggan"))


def larger(graph, factor):
    """The graph with a first dense layer that is larger by a factor; returns also its name."""
    graph = copy.deepcopy(graph)
    node = next(node for node in graph.nodes.values() if node.kind == "Dense")
    node.weights = {name: value * np.float32(factor) for name, value in node.weights.items()}
    return graph, node.name


def test_each_layer_has_its_greatest_magnitude(graph, interface):
    found = ranges.greatest_outputs(graph, interface)
    assert set(found) == set(graph.nodes) - set(graph.inputs)
    assert 0 < found[graph.output] <= 1  # tanh
    changed, name = larger(graph, 1000)
    again = ranges.greatest_outputs(changed, interface)
    assert again[name] == pytest.approx(1000 * found[name], rel=0.02)  # Of three digits.


def test_what_is_not_finite_has_no_ranges(graph, interface):
    changed, _ = larger(graph, 1e30)
    for node in changed.nodes.values():
        if node.kind == "Conv2D":
            node.weights = {name: value * np.float32(1e10) for name, value in node.weights.items()}
    assert ranges.greatest_outputs(changed, interface) == {}
    assert "not finite" in ranges.note({})[0]


def test_a_note_says_which_layer_overflows():
    assert ranges.note({"first": 4000.0, "second": 1.0}) == []
    (told,) = ranges.note({"first": 4200.0, "second": 1.0})
    assert "first reaches 4.2e+03, allowed are 4,094" in told


def test_a_sparse_file_has_them(graph, interface, tmp_path):
    FORMATS["sparse"].write(tmp_path, graph, interface, Settings())
    _, manifest = compact.read(tmp_path / FORMATS["sparse"].file)
    assert manifest["ranges"] == ranges.greatest_outputs(graph, interface)
