"""A generator for ONNX Runtime, OpenVINO and other runtimes that read ONNX.

The model takes `latents` float32 [N, latent_dim] and, if it is conditional, `labels` int32 [N]. It
makes `images` float32 [N, H, W, C] in [-1, 1], for any N. The images of labels that are out of
range are not numbers. Weights are stored dense, because runtimes expand sparse ones when they load.
It needs onnx and, to read, onnxruntime: `pip install stugan_tf[onnx]`.
"""

import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.serving.graph import Graph, Node, to_keras
from stugan_tf.serving.interface import Interface

OPSET = 17  # Of 2022: all that the layers need, and runtimes of today know it.
_IR_VERSION = 8  # The one that came with this opset.
NO_MIXTURES = "an ONNX file takes labels only. Export with --format=saved_model or sparse."


def write(path: str | os.PathLike[str], graph: Graph, interface: Interface) -> None:
    """Writes an .onnx file.

    Args:
        path: path of the file.
        graph: a folded generator.
        interface: the interface of the generator.

    Raises:
        InputError: if onnx is not installed.
    """
    onnx = _imported("onnx")
    model = _Writer(onnx, graph).model(interface)
    onnx.checker.check_model(model, full_check=True)
    pathlib.Path(path).write_bytes(model.SerializeToString())


def read(
    path: str | os.PathLike[str], interface: Interface
) -> tuple[Callable[..., np.ndarray], str]:
    """Reads the functions `(compute, mix)` of a `ServedGenerator`; ONNX Runtime uses all cores.

    The runtime is C++ that trusts its file: call this only for files whose writer you trust.

    Args:
        path: path of an .onnx file that `write` wrote.
        interface: the interface of the generator.

    Raises:
        InputError: if onnxruntime is not installed, or refuses the file, or the file does not fit
            the interface.
    """
    runtime = _imported("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # The runtime has no public base class of errors.
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be run by ONNX Runtime ({reason:.200}). Copy or export it again."
        ) from None
    expected: dict[str, Any] = {"latents": (["N", interface.latent_dim], "tensor(float)")}
    if interface.conditional:
        expected["labels"] = (["N"], "tensor(int32)")
    for found, wanted in (
        (session.get_inputs(), expected),
        (session.get_outputs(), {"images": (["N", *interface.image_shape], "tensor(float)")}),
    ):
        if {one.name: (one.shape, one.type) for one in found} != wanted:
            raise InputError(f"{path} belongs to another generator than its manifest.")

    def compute(latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        inputs = {"latents": latents} if labels is None else {"latents": latents, "labels": labels}
        return session.run(["images"], inputs)[0]

    return compute, NO_MIXTURES


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise InputError(
            f"--format=onnx needs {name}, which cannot be imported ({error}). Install it: "
            "pip install 'stugan_tf[onnx]'."
        ) from error


class _Writer:
    """Translates layers one by one.

    ONNX has channels first, Keras last. Maps are kept both ways, each made when it is first asked
    for, so that a chain of convolutions is transposed at its ends only.
    """

    def __init__(self, onnx: Any, graph: Graph) -> None:
        self._onnx = onnx
        self._graph = graph
        model = to_keras(graph)
        self._shapes = {name: tuple(model.get_layer(name).output.shape) for name in graph.nodes}
        self._operations: list[Any] = []
        self._constants: dict[str, Any] = {}
        # The tensor of a layer as Keras has it, and with channels first.
        self._last: dict[str, str] = {}
        self._first: dict[str, str] = {}

    def model(self, interface: Interface) -> Any:
        """The ModelProto."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        inputs = [
            helper.make_tensor_value_info("latents", types.FLOAT, ["N", interface.latent_dim])
        ]
        self._last[self._graph.inputs[0]] = "latents"
        if interface.conditional:
            inputs.append(helper.make_tensor_value_info("labels", types.INT32, ["N"]))
            greatest = np.int32(interface.num_classes - 1)
            clipped = self._add("Clip", ["labels", np.int32(0), greatest])
            self._last[self._graph.inputs[1]] = clipped
        for node in self._graph.nodes.values():
            if node.kind != "InputLayer":
                TRANSLATORS[node.kind](self, node)
        images = self._channels_last(self._graph.output)
        if interface.conditional:
            valid = self._add("Equal", ["labels", clipped])
            valid = self._add("Reshape", [valid, np.array([-1, 1, 1, 1], np.int64)])
            self._add("Where", [valid, images, np.float32(np.nan)], output="images")
        else:
            self._add("Identity", [images], output="images")
        outputs = [
            helper.make_tensor_value_info("images", types.FLOAT, ["N", *interface.image_shape])
        ]
        constants = list(self._constants.values())
        graph = helper.make_graph(self._operations, "generator", inputs, outputs, constants)
        return helper.make_model(
            graph,
            producer_name="stugan_tf",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    def _add(
        self, operation: str, inputs: Sequence[Any], output: str | None = None, **attributes: Any
    ) -> str:
        """Adds an operation on tensors, by name, and constants; returns the name of its output."""
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        output = output or f"{operation}_{len(self._operations)}"
        node = self._onnx.helper.make_node(operation, names, [output], output, **attributes)
        self._operations.append(node)
        return output

    def _constant(self, value: Any) -> str:
        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(value)
        self._constants[name] = self._onnx.numpy_helper.from_array(
            array.reshape(np.shape(value)), name
        )
        return name

    # Layouts.

    def _channels_last(self, name: str) -> str:
        if name not in self._last:
            self._last[name] = self._add("Transpose", [self._first[name]], perm=[0, 2, 3, 1])
        return self._last[name]

    def _channels_first(self, name: str) -> str:
        if name not in self._first:
            self._first[name] = self._add("Transpose", [self._last[name]], perm=[0, 3, 1, 2])
        return self._first[name]

    def _is_map(self, name: str) -> bool:
        return len(self._shapes[name]) == 4

    def _any(self, name: str) -> str:
        """A tensor for an operation by element: maps have channels first."""
        return self._channels_first(name) if self._is_map(name) else self._last[name]

    def _keep(self, node: Node, tensor: str) -> None:
        """Keeps the result of an operation on tensors of `_any`."""
        (self._first if self._is_map(node.name) else self._last)[node.name] = tensor

    # Layers.

    def _convolution(self, node: Node) -> None:
        size, kernel, strides = self._geometry(node)
        before, after = _padding(node, size, kernel, strides)
        weights = [np.transpose(node.weights["kernel"], [3, 2, 0, 1]), *self._bias(node)]
        tensor = self._add(
            "Conv",
            [self._channels_first(node.inputs[0]), *weights],
            kernel_shape=kernel,
            strides=strides,
            pads=[*before, *after],
        )
        self._first[node.name] = self._activated(tensor, node.arguments["activation"], axis=1)

    def _transposed_convolution(self, node: Node) -> None:
        size, kernel, strides = self._geometry(node)
        reached = [(n - 1) * s + k for n, s, k in zip(size, strides, kernel, strict=True)]
        wanted = self._shapes[node.name][1:3]
        surplus = [max(r - w, 0) for r, w in zip(reached, wanted, strict=True)]
        before = [one // 2 for one in surplus]
        after = [one - half for one, half in zip(surplus, before, strict=True)]
        weights = [np.transpose(node.weights["kernel"], [3, 2, 0, 1]), *self._bias(node)]
        tensor = self._add(
            "ConvTranspose",
            [self._channels_first(node.inputs[0]), *weights],
            kernel_shape=kernel,
            strides=strides,
            pads=[*before, *after],
            output_padding=[max(w - r, 0) for r, w in zip(reached, wanted, strict=True)],
        )
        self._first[node.name] = self._activated(tensor, node.arguments["activation"], axis=1)

    def _dense(self, node: Node) -> None:
        tensor = self._add("MatMul", [self._channels_last(node.inputs[0]), node.weights["kernel"]])
        for bias in self._bias(node):
            tensor = self._add("Add", [tensor, bias])
        self._last[node.name] = self._activated(tensor, node.arguments["activation"], axis=-1)

    def _embedding(self, node: Node) -> None:
        table = node.weights["embeddings"]
        self._last[node.name] = self._add("Gather", [table, self._last[node.inputs[0]]], axis=0)

    def _scale_and_shift(self, node: Node) -> None:
        shape = [-1, 1, 1] if self._is_map(node.name) else [-1]
        gamma, beta = (node.weights[name].reshape(shape) for name in ("gamma", "beta"))
        scaled = self._add("Mul", [self._any(node.inputs[0]), gamma])
        self._keep(node, self._add("Add", [scaled, beta]))

    def _reshape(self, node: Node) -> None:
        shape = [-1, *self._shapes[node.name][1:]]
        tensor = self._channels_last(node.inputs[0])
        self._last[node.name] = self._add("Reshape", [tensor, np.array(shape, np.int64)])

    def _crop(self, node: Node) -> None:
        begin, end = node.arguments["cropping"]
        length = self._shapes[node.inputs[0]][1]
        limits = [
            np.array([begin], np.int64),
            np.array([length - end], np.int64),
            np.array([1], np.int64),
        ]
        self._last[node.name] = self._add("Slice", [self._last[node.inputs[0]], *limits])

    def _upsample(self, node: Node) -> None:
        bilinear = node.arguments["interpolation"] == "bilinear"
        rule = {
            "mode": "linear" if bilinear else "nearest",
            "coordinate_transformation_mode": "half_pixel" if bilinear else "asymmetric",
            "nearest_mode": "floor",
        }
        scales = np.array([1, 1, *_pair(node.arguments["size"])], np.float32)
        tensor = self._channels_first(node.inputs[0])
        self._first[node.name] = self._add("Resize", [tensor, "", scales], **rule)

    def _average_pool(self, node: Node) -> None:
        self._pool(node, "AveragePool", count_include_pad=0)

    def _max_pool(self, node: Node) -> None:
        self._pool(node, "MaxPool")

    def _pool(self, node: Node, operation: str, **attributes: Any) -> None:
        size, kernel, strides = self._geometry(node)
        before, after = _padding(node, size, kernel, strides)
        self._first[node.name] = self._add(
            operation,
            [self._channels_first(node.inputs[0])],
            kernel_shape=kernel,
            strides=strides,
            pads=[*before, *after],
            **attributes,
        )

    def _activation(self, node: Node) -> None:
        axis = 1 if self._is_map(node.name) else -1
        tensor = self._activated(self._any(node.inputs[0]), node.arguments["activation"], axis)
        self._keep(node, tensor)

    def _leaky_relu(self, node: Node) -> None:
        tensor = self._any(node.inputs[0])
        self._keep(node, self._add("LeakyRelu", [tensor], alpha=node.arguments["negative_slope"]))

    def _relu(self, node: Node) -> None:
        """`max_value` above it, x from `threshold` on, else `slope * (x - threshold)`."""
        tensor = self._any(node.inputs[0])
        slope, threshold, most = (
            node.arguments[name] for name in ("negative_slope", "threshold", "max_value")
        )
        if threshold == 0:
            found = self._add("LeakyRelu", [tensor], alpha=slope)
        else:
            above = self._add("GreaterOrEqual", [tensor, np.float32(threshold)])
            below = self._add("Sub", [tensor, np.float32(threshold)])
            below = self._add("Mul", [below, np.float32(slope)])
            found = self._add("Where", [above, tensor, below])
        if most is not None:
            found = self._add("Min", [found, np.float32(most)])
        self._keep(node, found)

    def _sum(self, node: Node) -> None:
        self._merge(node, "Add")

    def _product(self, node: Node) -> None:
        self._merge(node, "Mul")

    def _merge(self, node: Node, operation: str) -> None:
        same = all(self._is_map(name) == self._is_map(node.name) for name in node.inputs)
        first, *others = (
            self._any(name) if same else self._channels_last(name) for name in node.inputs
        )
        for other in others:
            first = self._add(operation, [first, other])
        if same:
            self._keep(node, first)
        else:
            self._last[node.name] = first

    def _concatenate(self, node: Node) -> None:
        axis = node.arguments["axis"]
        if self._is_map(node.name):
            axis = 1 if axis == -1 else 2
        self._keep(node, self._add("Concat", [self._any(name) for name in node.inputs], axis=axis))

    def _attention(self, node: Node) -> None:
        query, value, key = (self._channels_last(name) for name in node.inputs)
        rank = len(self._shapes[node.inputs[2]])
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        scores = self._add("MatMul", [query, self._add("Transpose", [key], perm=swapped)])
        weights = self._add("Softmax", [scores], axis=-1)
        self._last[node.name] = self._add("MatMul", [weights, value])

    # What layers share.

    def _geometry(self, node: Node) -> tuple[list[int], list[int], list[int]]:
        """The size of the input map, of the kernel, and of a stride, each [height, width]."""
        kernel = node.arguments.get("kernel_size") or node.arguments["pool_size"]
        size = list(self._shapes[node.inputs[0]][1:3])
        return size, _pair(kernel), _pair(node.arguments["strides"])

    def _bias(self, node: Node) -> list[np.ndarray]:
        return [node.weights["bias"]] if node.arguments["use_bias"] else []

    def _activated(self, tensor: str, activation: str, axis: int) -> str:
        """A tensor after an activation of Keras; softmax is over `axis`."""
        simple: dict[str, tuple[str, dict[str, Any]]] = {
            "relu": ("Relu", {}),
            "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
            "elu": ("Elu", {}),
            "selu": ("Selu", {}),
            "softplus": ("Softplus", {}),
            "tanh": ("Tanh", {}),
            "sigmoid": ("Sigmoid", {}),
            "softmax": ("Softmax", {"axis": axis}),
        }
        if activation == "linear":
            return tensor
        if activation == "relu6":
            return self._add("Clip", [tensor, np.float32(0), np.float32(6)])
        if activation == "silu":
            return self._add("Mul", [tensor, self._add("Sigmoid", [tensor])])
        if activation == "gelu":
            error = self._add("Erf", [self._add("Mul", [tensor, np.float32(math.sqrt(0.5))])])
            half = self._add("Mul", [tensor, np.float32(0.5)])
            return self._add("Mul", [half, self._add("Add", [error, np.float32(1)])])
        operation, attributes = simple[activation]
        return self._add(operation, [tensor], **attributes)


# By the kinds of `serving.graph.KINDS`.
TRANSLATORS = {
    "Conv2D": _Writer._convolution,
    "Conv2DTranspose": _Writer._transposed_convolution,
    "Dense": _Writer._dense,
    "Embedding": _Writer._embedding,
    "BatchNormalization": _Writer._scale_and_shift,
    "Reshape": _Writer._reshape,
    "Cropping1D": _Writer._crop,
    "UpSampling2D": _Writer._upsample,
    "AveragePooling2D": _Writer._average_pool,
    "MaxPooling2D": _Writer._max_pool,
    "Activation": _Writer._activation,
    "LeakyReLU": _Writer._leaky_relu,
    "ReLU": _Writer._relu,
    "Add": _Writer._sum,
    "Multiply": _Writer._product,
    "Concatenate": _Writer._concatenate,
    "Attention": _Writer._attention,
    "Flatten": _Writer._reshape,
}


def _pair(value: Sequence[int]) -> list[int]:
    """[height, width] of a list with one or two numbers."""
    return [value[0], value[-1]]


def _padding(
    node: Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Rows and columns that TensorFlow adds before a map and after it."""
    if node.arguments["padding"] == "valid":
        return [0, 0], [0, 0]
    needed = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides, strict=True)
    ]
    before = [one // 2 for one in needed]
    return before, [one - half for one, half in zip(needed, before, strict=True)]
