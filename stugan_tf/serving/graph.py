"""A generator as a list of plain Keras layers: what folding makes and artifacts hold.

A graph may come from a file that nobody vouches for. So it names layers of `KINDS` only, each with
the arguments listed there, and is built by calling their constructors: Keras is never asked to
deserialize. What it would allocate is known, and limited, before anything is allocated.
"""

import contextlib
import dataclasses
import json
import math
import re

import keras
import numpy as np

from stugan_tf.errors import InputError

MAX_NODES = 4096
MAX_WEIGHTS = 2**28  # 1 GiB as float32; BigGAN at 256x256 has 2**26
MAX_ACTIVATIONS = 2**25  # of one layer for one image; BigGAN at 256x256 has 2**23.6
MAX_ALL_ACTIVATIONS = 2**29  # of all layers for one image, which may be needed at once
ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus"),
    *("tanh", "sigmoid", "softmax"),
)
_NAME = re.compile(r"[A-Za-z0-9_.>-]{1,200}")  # what TensorFlow takes for operations


@dataclasses.dataclass
class Node:
    """A layer and its one call.

    Attributes:
        name: of the layer, unique in the graph.
        kind: a key of `KINDS`.
        arguments: of the layer's constructor.
        inputs: names of the nodes it is called on.
        weights: float32 arrays by the names that Keras gives them.
    """

    name: str
    kind: str
    arguments: dict
    inputs: list
    weights: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Graph:
    """Nodes in an order in which they can be called.

    Attributes:
        nodes: {name: Node}.
        inputs: names of the nodes that are inputs.
        output: name of the node that makes the images.
    """

    nodes: dict
    inputs: list
    output: str

    def weights(self):
        """Arrays by 'layer/weight', in the order of the nodes."""
        return {
            f"{node.name}/{name}": value
            for node in self.nodes.values()
            for name, value in node.weights.items()
        }

    def users(self):
        """{name: names of the nodes it is an input of, as often as it is}; the output has one more.

        That one is None.
        """
        users = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                users[name].append(node.name)
        users[self.output].append(None)
        return users


def to_keras(graph, name="generator"):
    """The functional Keras model of a graph, of `keras.layers` alone, in float32.

    Raises:
        InputError: if layers do not fit their inputs or weights, or would take too much memory.
    """
    if sum(math.prod(value.shape) for value in graph.weights().values()) > MAX_WEIGHTS:
        raise InputError(f"The model has more than {MAX_WEIGHTS:,} weights. That is too large.")
    tensors, num_activations = {}, 0
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
def _in_float32():
    """Builds layers in float32 whatever the caller's precision."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def _called(node, inputs):
    """The Keras tensor that a node makes of Keras tensors; its layer has no weights yet."""
    kind = KINDS[node.kind]
    if node.kind == "InputLayer":
        if node.weights:
            raise InputError(f"{_named(node)} has weights, as no input does.")
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


def _check_call(node, shapes):
    """Raises ValueError unless the inputs and weights are those of the layer."""
    kind = KINDS[node.kind]
    if (len(shapes) < 2 if kind.merges else len(shapes) != 1) or (
        node.kind == "Attention" and len(shapes) != 3
    ):
        raise ValueError(f"it has {len(shapes)} inputs.")
    found = {name: tuple(value.shape) for name, value in node.weights.items()}
    expected = kind.weights(node.arguments, shapes[0])
    if found != expected:
        raise ValueError(f"its weights are {found}, its inputs ask for {expected}.")
    if node.kind == "Attention":  # What it makes in between is not seen in its output.
        scores = math.prod(shapes[0][1:-1]) * math.prod(shapes[1][1:-1])
        if scores > MAX_ACTIVATIONS:
            raise ValueError(f"it compares {scores:,} pairs, up to {MAX_ACTIVATIONS:,} may be.")


def _named(node):
    return f"Layer {node.name!r} ({node.kind})"


# What the arguments of a layer may be: functions `value -> value`, which raise ValueError.


def _integer(least, most):
    def check(value):
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be an integer from {least} to {most}")
        return value

    return check


def _number(value):
    if type(value) not in (int, float) or not abs(value) < 1e6:
        raise ValueError("must be a number")
    return float(value)


def _optional_number(value):
    return None if value is None else _number(value)


def _integers(least, most, longest):
    check = _integer(least, most)

    def check_all(value):
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= longest:
            raise ValueError(f"must be a list of up to {longest} integers")
        return tuple(check(one) for one in value)

    return check_all


def _choice(*allowed):
    def check(value):
        value = list(value) if isinstance(value, tuple) else value
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"must be {' or '.join(map(repr, allowed))}")
        return value

    return check


def _input_shape(value):
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 2 or value[0] is not None:
        raise ValueError("must be [null] or [null, length]")
    return (None, *map(_integer(1, 2**20), value[1:]))


def _cropping(value):
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


def _no_weights(arguments, shape):
    del arguments, shape
    return {}


def _with_bias(arguments, kernel, units):
    return {"kernel": kernel, **({"bias": (units,)} if arguments["use_bias"] else {})}


def _dense_weights(arguments, shape):
    units = arguments["units"]
    return _with_bias(arguments, (shape[-1], units), units)


def _convolution_weights(arguments, shape):
    filters = arguments["filters"]
    return _with_bias(arguments, (*arguments["kernel_size"], shape[-1], filters), filters)


def _transposed_weights(arguments, shape):
    filters = arguments["filters"]
    return _with_bias(arguments, (*arguments["kernel_size"], filters, shape[-1]), filters)


def _embedding_weights(arguments, shape):
    del shape
    return {"embeddings": (arguments["input_dim"], arguments["output_dim"])}


def _scale_weights(arguments, shape):
    del arguments
    return {"gamma": (shape[-1],), "beta": (shape[-1],)}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of Keras layers that graphs may have.

    Attributes:
        arguments: {name: check}; all of them are needed.
        weights: `(arguments, shape of the input) -> {name: shape}`.
        fixed: further arguments of the constructor.
        merges: whether it is called on a list.
    """

    arguments: dict = dataclasses.field(default_factory=dict)
    weights: object = _no_weights
    fixed: dict = dataclasses.field(default_factory=dict)
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
    # Its statistics are zeros and ones: scale and shift alone.
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


def checked_arguments(kind, name, config):
    """What the constructor of a layer is given, of a configuration as Keras writes it.

    Args:
        kind: name of a class.
        name: of the layer, for messages.
        config: a dictionary.

    Raises:
        InputError: if the class is none of `KINDS`, or an argument is not allowed.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"Layer {name!r} is of class {kind!r:.60}, which models in artifacts cannot have: only "
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


def to_json(graph):
    """The model of a graph as Keras' own JSON."""
    return to_keras(graph).to_json()


def from_json(text, weights):
    """The graph that Keras' JSON of a functional model describes.

    Args:
        text: the JSON, of `to_json` or of somebody hostile.
        weights: {'layer/weight': array}.

    Raises:
        InputError: if it is none of ours.
    """
    try:
        config = json.loads(text)["config"]
        entries = config["layers"]
        if not 1 <= len(entries) <= MAX_NODES:
            raise InputError(f"The model has {len(entries)} layers; 1 to {MAX_NODES} are allowed.")
        nodes = {}
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
            raise InputError("The model's inputs or output are none of its layers.")
        _check_all_used(Graph(nodes, inputs, output))
    except InputError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"The description of the model is damaged ({type(error).__name__}). Export it anew."
        ) from None
    return Graph(nodes, inputs, output)


def _check_all_used(graph):
    """Raises InputError if a layer does not lead to the output: Keras would leave it out."""
    for name, users in graph.users().items():
        if not users and name not in graph.inputs:
            raise InputError(f"{_named(graph.nodes[name])} is of no use to the output.")


def _node(entry, nodes):
    """A node of Keras' description of a layer; its inputs must be in `nodes`."""
    name, kind = entry["name"], entry["class_name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in nodes:
        raise InputError(f"A layer has the name {name!r:.60}, or two have.")
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


def _tensor_name(history):
    """The layer that makes a tensor, of ['layer', 0, 0]."""
    name, call, output = history
    if not isinstance(name, str) or (call, output) != (0, 0):
        raise ValueError(history)
    return name


def _listed(entries):
    """Keras writes one tensor as it is, several as a list."""
    return [entries] if isinstance(entries[0], str) else entries


def float32(value):
    """An array in the precision of weights.

    Raises:
        InputError: if it holds what is not finite.
    """
    value = np.asarray(value, np.float32)
    if not np.all(np.isfinite(value)):
        raise InputError(
            "The generator has weights that are not finite. Choose an earlier checkpoint."
        )
    return value
