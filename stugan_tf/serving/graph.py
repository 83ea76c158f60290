"""A generator as a list of plain Keras layers: the result of folding, and the content of artifacts.

A graph may come from an untrusted file. So it names only layers of `KINDS`, each with the arguments
listed there, and is built by calling their constructors: Keras never deserializes anything. The
memory that it would take is known, and limited, before anything is allocated.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from stugan_tf.errors import InputError

MAX_NODES = 4096
MAX_WEIGHTS = 2**28  # 1 GiB as float32; BigGAN at 256x256 has 2**26
MAX_ACTIVATIONS = 2**25  # of one layer for one image; BigGAN at 256x256 has 2**23.6
MAX_ALL_ACTIVATIONS = 2**29  # of all layers for one image; all may be in memory at once
ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus"),
    *("tanh", "sigmoid", "softmax"),
)
_NAME = re.compile(r"[A-Za-z0-9_.>-]{1,200}")  # names that TensorFlow allows for operations
# Returns a checked value, or raises ValueError.
Check: TypeAlias = Callable[[Any], Any]


@dataclasses.dataclass
class Node:
    """A layer and its one call.

    Attributes:
        name: name of the layer, unique in the graph.
        kind: a key of `KINDS`.
        arguments: arguments of the layer's constructor.
        inputs: names of the nodes that it is called on.
        weights: float32 arrays by the names that Keras gives them.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    inputs: list[str]
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Graph:
    """Nodes in an order in which they can be called.

    Attributes:
        nodes: {name: Node}.
        inputs: names of the nodes that are inputs.
        output: name of the node that makes the images.
    """

    nodes: dict[str, Node]
    inputs: list[str]
    output: str

    def weights(self) -> dict[str, np.ndarray]:
        """Arrays by 'layer/weight', in the order of the nodes."""
        return {
            f"{node.name}/{name}": value
            for node in self.nodes.values()
            for name, value in node.weights.items()
        }

    def users(self) -> dict[str, list[str | None]]:
        """For each node, the names of the nodes that use it, once per use.

        The output has an extra user, None.
        """
        users: dict[str, list[str | None]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                users[name].append(node.name)
        users[self.output].append(None)
        return users


def to_keras(graph: Graph, name: str = "generator") -> keras.Model:
    """The functional Keras model of a graph, in float32, with only layers of `keras.layers`.

    Raises:
        InputError: if layers do not fit their inputs or weights, or would take too much memory.
    """
    if sum(math.prod(value.shape) for value in graph.weights().values()) > MAX_WEIGHTS:
        raise InputError(f"The model has more than {MAX_WEIGHTS:,} weights. That is too large.")
    tensors: dict[str, keras.KerasTensor] = {}
    num_activations = 0
    with _in_float32():
        for node in graph.nodes.values():
            tensor = _called(node, [tensors[name] for name in node.inputs])
            tensors[node.name] = tensor
            num_activations += math.prod(tensor.shape[1:])
            if num_activations > MAX_ALL_ACTIVATIONS:
                raise InputError(
                    f"The model's layers make more than {MAX_ALL_ACTIVATIONS:,} numbers for an "
                    "image. That is too large."
                )
        inputs = [tensors[name] for name in graph.inputs]
        inputs = inputs if len(inputs) > 1 else inputs[0]
        model = keras.Model(inputs, tensors[graph.output], name=name)
    for node in graph.nodes.values():
        layer = model.get_layer(node.name)
        for weight, value in node.weights.items():
            getattr(layer, weight).assign(value)
    return model


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    """Builds layers in float32, whatever the caller's precision is."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def _called(node: Node, inputs: list[keras.KerasTensor]) -> keras.KerasTensor:
    """Calls the layer of a node on Keras tensors; its weights are not set yet."""
    kind = KINDS[node.kind]
    if node.kind == "InputLayer":
        if node.weights:
            raise InputError(f"{_named(node)} has weights, but inputs have none.")
        shape, dtype = node.arguments["batch_shape"], node.arguments["dtype"]
        return keras.Input(batch_shape=shape, dtype=dtype, name=node.name)
    shapes = [tuple(tensor.shape) for tensor in inputs]
    try:
        _check_call(node, shapes)
        layer = getattr(keras.layers, node.kind)(**node.arguments, **kind.fixed, name=node.name)
        output = layer(inputs[0] if len(inputs) == 1 and not kind.merges else inputs)
    except (ValueError, TypeError, IndexError, ArithmeticError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{_named(node)} does not fit the model: {reason}") from None
    if None in output.shape[1:] or math.prod(output.shape[1:]) > MAX_ACTIVATIONS:
        raise InputError(
            f"{_named(node)} makes tensors {tuple(output.shape)}; up to {MAX_ACTIVATIONS:,} "
            "numbers for an image are allowed."
        )
    return output


def _check_call(node: Node, shapes: list[tuple[Any, ...]]) -> None:
    """Raises ValueError unless the layer's inputs and weights fit it."""
    kind = KINDS[node.kind]
    if (len(shapes) < 2 if kind.merges else len(shapes) != 1) or (
        node.kind == "Attention" and len(shapes) != 3
    ):
        raise ValueError(f"it has {len(shapes)} inputs.")
    found = {name: tuple(value.shape) for name, value in node.weights.items()}
    expected = kind.weights(node.arguments, shapes[0])
    if found != expected:
        raise ValueError(f"its weights are {found}, its inputs need {expected}.")
    if node.kind == "Attention":  # Its intermediate scores do not show in its output.
        scores = math.prod(shapes[0][1:-1]) * math.prod(shapes[1][1:-1])
        if scores > MAX_ACTIVATIONS:
            raise ValueError(
                f"it compares {scores:,} pairs, up to {MAX_ACTIVATIONS:,} are allowed."
            )


def _named(node: Node) -> str:
    return f"Layer {node.name!r} ({node.kind})"


# Checks of the arguments of layers.


def _integer(least: int, most: int) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be an integer from {least} to {most}")
        return value

    return check


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e6:
        raise ValueError("must be a number")
    return float(value)


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _integers(least: int, most: int, longest: int) -> Check:
    check = _integer(least, most)

    def check_all(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= longest:
            raise ValueError(f"must be a list of up to {longest} integers")
        return tuple(check(one) for one in value)

    return check_all


def _choice(*allowed: Any) -> Check:
    def check(value: Any) -> Any:
        value = list(value) if isinstance(value, tuple) else value
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"must be {' or '.join(map(repr, allowed))}")
        return value

    return check


def _input_shape(value: Any) -> tuple[int | None, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 2 or value[0] is not None:
        raise ValueError("must be [null] or [null, length]")
    return (None, *map(_integer(1, 2**20), value[1:]))


def _cropping(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("must be a pair of integers")
    return tuple(map(_integer(0, 2**20), value))


_SIZE = _integer(1, 2**24)
_PAIR = _integers(1, 64, 2)
_ACTIVATION = _choice(*ACTIVATIONS)
_CONVOLUTION = {
    "filters": _SIZE,
    "kernel_size": _PAIR,
    "strides": _PAIR,
    "padding": _choice("same", "valid"),
    "activation": _ACTIVATION,
    "use_bias": _choice(True, False),
    "data_format": _choice("channels_last"),
    "dilation_rate": _choice([1, 1]),
}
_POOLING = {
    "pool_size": _PAIR,
    "strides": _PAIR,
    "padding": _choice("same", "valid"),
    "data_format": _choice("channels_last"),
}
_ZEROS = {"kernel_initializer": "zeros", "bias_initializer": "zeros"}


def _no_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    del arguments, shape
    return {}


def _with_bias(arguments: dict[str, Any], kernel: tuple[Any, ...], units: int) -> dict[str, Any]:
    return {"kernel": kernel, **({"bias": (units,)} if arguments["use_bias"] else {})}


def _dense_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    units = arguments["units"]
    return _with_bias(arguments, (shape[-1], units), units)


def _convolution_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    filters = arguments["filters"]
    return _with_bias(arguments, (*arguments["kernel_size"], shape[-1], filters), filters)


def _transposed_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    filters = arguments["filters"]
    return _with_bias(arguments, (*arguments["kernel_size"], filters, shape[-1]), filters)


def _embedding_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    del shape
    return {"embeddings": (arguments["input_dim"], arguments["output_dim"])}


def _scale_weights(arguments: dict[str, Any], shape: tuple[Any, ...]) -> dict[str, Any]:
    del arguments
    return {"gamma": (shape[-1],), "beta": (shape[-1],)}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of Keras layers that graphs may have.

    Attributes:
        arguments: {name: check}; all arguments are needed.
        weights: `(arguments, shape of the input) -> {name: shape}`.
        fixed: further arguments of the constructor.
        merges: whether the layer is called on a list.
    """

    arguments: dict[str, Check] = dataclasses.field(default_factory=dict)
    weights: Callable[[dict[str, Any], tuple[Any, ...]], dict[str, Any]] = _no_weights
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
    merges: bool = False


KINDS = {
    "InputLayer": Kind({"batch_shape": _input_shape, "dtype": _choice("float32", "int32")}),
    "Dense": Kind(
        {"units": _SIZE, "activation": _ACTIVATION, "use_bias": _choice(True, False)},
        _dense_weights,
        _ZEROS,
    ),
    "Conv2D": Kind({**_CONVOLUTION, "groups": _choice(1)}, _convolution_weights, _ZEROS),
    "Conv2DTranspose": Kind(
        {**_CONVOLUTION, "output_padding": _choice(None)}, _transposed_weights, _ZEROS
    ),
    "Embedding": Kind(
        {"input_dim": _SIZE, "output_dim": _SIZE, "mask_zero": _choice(False)},
        _embedding_weights,
        {"embeddings_initializer": "zeros"},
    ),
    # Its statistics are zeros and ones, so it only scales and shifts.
    "BatchNormalization": Kind(
        {"axis": _choice(-1), "epsilon": _choice(0.0)}, _scale_weights, {"trainable": False}
    ),
    "Reshape": Kind({"target_shape": _integers(1, 2**24, 4)}),
    "Flatten": Kind({"data_format": _choice("channels_last")}),
    "Cropping1D": Kind({"cropping": _cropping}),
    "UpSampling2D": Kind(
        {
            "size": _PAIR,
            "interpolation": _choice("nearest", "bilinear"),
            "data_format": _choice("channels_last"),
        }
    ),
    "AveragePooling2D": Kind(_POOLING),
    "MaxPooling2D": Kind(_POOLING),
    "Activation": Kind({"activation": _ACTIVATION}),
    "ReLU": Kind({"max_value": _optional_number, "negative_slope": _number, "threshold": _number}),
    "LeakyReLU": Kind({"negative_slope": _number}),
    "Add": Kind(merges=True),
    "Multiply": Kind(merges=True),
    "Concatenate": Kind({"axis": _choice(-1, 1)}, merges=True),
    "Attention": Kind(
        {
            "use_scale": _choice(False),
            "score_mode": _choice("dot"),
            "dropout": _choice(0.0),
        },
        merges=True,
    ),
}


def checked_arguments(kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for the constructor of a layer, checked.

    Args:
        kind: name of the layer's class.
        name: name of the layer, for messages.
        config: the layer's configuration, as Keras writes it.

    Raises:
        InputError: if the class is not one of `KINDS`, or an argument is not allowed.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"Layer {name!r} is of class {kind!r:.60}. Models in artifacts have only layers of "
            f"{', '.join(KINDS)}."
        )
    arguments = {}
    for argument, check in KINDS[kind].arguments.items():
        if argument not in config:
            raise InputError(f"Layer {name!r} ({kind}) lacks the argument {argument}.")
        try:
            arguments[argument] = check(config[argument])
        except ValueError as error:
            raise InputError(
                f"Layer {name!r} ({kind}) has {argument} = {config[argument]!r:.60}: it {error}."
            ) from None
    return arguments


def digest(graph: Graph) -> str:
    """Sixteen hexadecimal digits of all that decides the images: layers, arguments, weights.

    Names of layers do not count.
    """
    places = {name: number for number, name in enumerate(graph.nodes)}
    layers = [
        (node.kind, node.arguments, [places[name] for name in node.inputs])
        for node in graph.nodes.values()
    ]
    ends = [places[name] for name in (*graph.inputs, graph.output)]
    found = hashlib.sha256(json.dumps([layers, ends], default=str, sort_keys=True).encode())
    for node in graph.nodes.values():
        for name, value in node.weights.items():
            found.update(f"{places[node.name]} {name} {value.shape}".encode())
            found.update(np.ascontiguousarray(value, np.float32).tobytes())
    return found.hexdigest()[:16]


def to_json(graph: Graph) -> str:
    """The model of a graph in Keras' own JSON."""
    return to_keras(graph).to_json()


def from_json(text: str, weights: Mapping[str, np.ndarray]) -> Graph:
    """The graph of a functional model in Keras' JSON.

    Args:
        text: the JSON, from `to_json` or from an attacker.
        weights: {'layer/weight': array}.

    Raises:
        InputError: if the JSON is not one that `to_json` makes.
    """
    try:
        config = json.loads(text)["config"]
        entries = config["layers"]
        if not 1 <= len(entries) <= MAX_NODES:
            raise InputError(f"The model has {len(entries)} layers; 1 to {MAX_NODES} are allowed.")
        nodes: dict[str, Node] = {}
        for entry in entries:
            node = _node(entry, nodes)
            nodes[node.name] = node
        inputs = [_tensor_name(entry) for entry in _listed(config["input_layers"])]
        (output,) = (_tensor_name(entry) for entry in _listed(config["output_layers"]))
        for path, value in weights.items():
            name, weight = path.rsplit("/", 1)
            nodes[name].weights[weight] = value
        there = [name for name, node in nodes.items() if node.kind == "InputLayer"]
        if sorted(there) != sorted(inputs) or output not in nodes:
            raise InputError("The model's inputs or output are not among its layers.")
        _check_all_used(Graph(nodes, inputs, output))
    except InputError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"The description of the model is damaged ({type(error).__name__}). Export it again."
        ) from None
    return Graph(nodes, inputs, output)


def _check_all_used(graph: Graph) -> None:
    """Raises InputError if a layer does not lead to the output: Keras would leave it out."""
    for name, users in graph.users().items():
        if not users and name not in graph.inputs:
            raise InputError(f"{_named(graph.nodes[name])} does not lead to the output.")


def _node(entry: Any, nodes: Mapping[str, Node]) -> Node:
    """A node from Keras' description of a layer; its inputs must be in `nodes`."""
    name, kind = entry["name"], entry["class_name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in nodes:
        raise InputError(f"A layer has the name {name!r:.60}, which is invalid or used twice.")
    arguments = checked_arguments(kind, name, entry["config"])
    calls = entry["inbound_nodes"]
    if len(calls) != (kind != "InputLayer"):
        raise InputError(f"Layer {name!r} ({kind}) is called {len(calls)} times.")
    inputs = []
    if calls:
        (called_on,) = calls[0]["args"]
        called_on = [called_on] if isinstance(called_on, dict) else called_on
        if len(called_on) > 64:
            raise InputError(f"Layer {name!r} ({kind}) has {len(called_on)} inputs.")
        inputs = [_tensor_name(tensor["config"]["keras_history"]) for tensor in called_on]
        if unknown := [found for found in inputs if found not in nodes]:
            raise InputError(f"Layer {name!r} ({kind}) has the input {unknown[0]!r:.60}.")
    return Node(name, kind, arguments, inputs)


def _tensor_name(history: Any) -> str:
    """The name of the layer that makes a tensor, from ['layer', 0, 0]."""
    name, call, output = history
    if not isinstance(name, str) or (call, output) != (0, 0):
        raise ValueError(history)
    return name


def _listed(entries: Any) -> list[Any]:
    """A list of tensors; Keras writes a single tensor without a list."""
    return [entries] if isinstance(entries[0], str) else entries


def float32(value: npt.ArrayLike) -> np.ndarray:
    """An array in float32, the precision of weights.

    Raises:
        InputError: if a value is not finite.
    """
    value = np.asarray(value, np.float32)
    if not np.all(np.isfinite(value)):
        raise InputError(
            "The generator has weights that are not finite. Choose an earlier checkpoint."
        )
    return value
