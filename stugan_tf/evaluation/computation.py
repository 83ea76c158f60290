"""Digests of what a network computes, besides its weights.

Two networks with the same weights may pool, preprocess or normalise in another way. So the graph of
a traced call is digested. Names do not count, and neither do the order of nodes, nodes that no
output needs, or devices: two exports of one network have one digest.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from stugan_tf.evaluation.weights import content

# Attributes that say how a node is run, or what is known of its outputs, not what it computes.
_OF_THE_RUNTIME = ("config", "config_proto", "executor_type", "metadata", "shared_name", "token")

_OF_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


def sha256_of_computation(concrete: Any) -> str:
    """Hex digest of a concrete function: its graph and the values that it captured.

    Variables count by their order only. Their values are weights, which have their own digest.

    Args:
        concrete: a `tf.types.experimental.ConcreteFunction`.
    """
    graph = concrete.graph.as_graph_def()
    functions = _Functions(graph.library.function)
    captured = concrete.captured_inputs
    inputs = concrete.inputs
    digests: dict[str, str] = {}
    for number, tensor in enumerate(inputs[: len(inputs) - len(captured)]):
        digests[tensor.op.name] = _digest("input", number, tensor.dtype.name)
    of_captured = inputs[len(inputs) - len(captured) :]
    for number, (tensor, value) in enumerate(zip(of_captured, captured, strict=True)):
        is_value = value.dtype not in (tf.resource, tf.variant)
        digests[tensor.op.name] = (
            _of_array(np.asarray(value)) if is_value else _digest("variable", number)
        )
    nodes = _Nodes(graph.node, digests, functions)
    return _digest(*(nodes.of(output.name) for output in concrete.outputs))


def calls_python(concrete: Any) -> bool:
    """Whether a concrete function calls Python code, which no graph holds."""
    graph = concrete.graph.as_graph_def()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return any(node.op in _OF_PYTHON for nodes in bodies for node in nodes)


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _of_array(array: np.ndarray) -> str:
    return _digest("constant", array.dtype.str, array.shape, content(array))


class _Functions:
    """Digests of the functions in the library of a graph, each computed once."""

    def __init__(self, definitions: Iterable[Any]) -> None:
        self._definitions = {one.signature.name: one for one in definitions}
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Digest of the function of this name."""
        if name not in self._known:
            self._known[name] = "itself"  # For a function that calls itself.
            self._known[name] = self._computed(self._definitions.get(name))
        return self._known[name]

    def _computed(self, definition: Any) -> str:
        if definition is None:
            return "not in the library"
        signature = definition.signature
        arguments = {
            one.name: _digest("input", number, one.type)
            for number, one in enumerate(signature.input_arg)
        }
        nodes = _Nodes(definition.node_def, arguments, self)
        results = [nodes.of(definition.ret[one.name]) for one in signature.output_arg]
        effects = sorted(nodes.of(name) for name in definition.control_ret.values())
        return _digest(*results, "effects", *effects)


class _Nodes:
    """Digests of the nodes of one graph: operation, attributes, and digests of the inputs."""

    def __init__(
        self, nodes: Iterable[Any], digests: dict[str, str], functions: _Functions
    ) -> None:
        """Takes the nodes.

        Args:
            nodes: `NodeDef`s.
            digests: {name of a node: digest} of the inputs of the graph.
            functions: digests of the functions that nodes call.
        """
        self._nodes = {node.name: node for node in nodes}
        self._digests = digests
        self._functions = functions

    def of(self, reference: str) -> str:
        """Digest of an output of a node, such as `node`, `node:1` or `node:output:0`."""
        waiting, begun = [_name(reference)], set()
        while waiting:  # Graphs are deeper than Python's stack.
            name = waiting[-1]
            missing = [
                one
                for one in map(_name, self._inputs(name))
                if one not in self._digests and one not in begun
            ]
            if name in self._digests or (name in begun and not missing):
                waiting.pop()
                self._digests.setdefault(name, self._computed(name))
                continue
            begun.add(name)
            waiting += missing
        return self._referred(reference)

    def _inputs(self, name: str) -> Sequence[str]:
        return self._nodes[name].input if name in self._nodes else ()

    def _computed(self, name: str) -> str:
        if name not in self._nodes:
            return _digest("no node")
        node = self._nodes[name]
        data = [self._referred(one) for one in node.input if not one.startswith("^")]
        controls = sorted({self._referred(one) for one in node.input if one.startswith("^")})
        attributes = [
            part
            for key, value in sorted(node.attr.items())
            if not key.startswith("_") and key not in _OF_THE_RUNTIME
            for part in (key, self._of_attribute(value))
        ]
        return _digest(node.op, *attributes, "data", *data, "controls", *controls)

    def _referred(self, reference: str) -> str:
        name = _name(reference)
        # In a loop of TensorFlow 1 a node may use a later one, which has no digest yet.
        output = reference.removeprefix("^")[len(name) :].removesuffix(":0")
        return f"{self._digests.get(name, 'loop')}{output}"

    def _of_attribute(self, value: Any) -> str:
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._of_called(value.func)
        if kind == "list" and value.list.func:
            return _digest(*map(self._of_called, value.list.func))
        if kind == "tensor":
            return _of_array(tf.make_ndarray(value.tensor))
        return _digest(value.SerializeToString(deterministic=True))

    def _of_called(self, called: Any) -> str:
        return self._functions.of(called.name)


def _name(reference: str) -> str:
    """The name of the node in `node`, `^node`, `node:1` or `node:output:0`."""
    return reference.removeprefix("^").partition(":")[0]


def traced(function: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
    """The concrete function of one replica, the same for every strategy in whose scope this is."""
    strategy = tf.distribute.get_strategy()

    @tf.function(autograph=False)
    def on_first_replica(*inputs: tf.Tensor) -> Any:
        with tf.distribute.ReplicaContext(strategy, 0):
            return function(*inputs)

    return on_first_replica.get_concrete_function(*specs)
