"""Theoretical cost of a forward pass at the densities of the layers.

One multiply-accumulate counts as 2 FLOPs. Convolutions (also depthwise and separable ones), dense
layers and attention are counted, also inside `TimeDistributed` and `SpectralNormalization` of Keras
and in models inside models. Batch norm, activations, biases, pooling and power iterations are not
(they are not in the paper's Table 2). Other layers with kernels are listed as not counted.

These are not measurements of speed. Dense execution multiplies zeros, too. Sparse execution on a
CPU skips them (`stugan_tf/kernels`), but needs time to find the other weights.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras

from stugan_tf.adapters.keras_internals import all_layers, functional, nodes, own_weights
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import mask_of
from stugan_tf.layers.masked import Masked
from stugan_tf.signatures import Distribution
from stugan_tf.sparsity.distributions import erk

Shape: TypeAlias = tuple[int | None, ...]


class LayerCost(NamedTuple):
    """The cost of one layer in a forward pass on one sample."""

    name: str
    kernel_shape: tuple[int, ...]  # Empty if the layer has no weights, like attention.
    masked: bool
    active: int  # Weights that are not masked out.
    macs: int  # Multiply-accumulates of the dense layer.
    uncounted: str = ""  # Why `macs` is not known, if it is not.

    @property
    def size(self) -> int:
        """The number of weights of the kernel."""
        return math.prod(self.kernel_shape) if self.kernel_shape else 0

    @property
    def density(self) -> float:
        """The fraction of weights that are not masked out."""
        return self.active / self.size if self.size else 1.0

    @property
    def flops(self) -> float:
        """Theoretical FLOPs at this density."""
        return 2 * self.macs * self.density


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """The cost of each convolution, dense layer and attention in a functional or sequential model.

    Args:
        model: a built model.

    Returns:
        A list of `LayerCost` in the order of the calls. A layer with kernels whose cost cannot be
        counted, because its kind or its sizes are not known, says so in `uncounted`.

    Raises:
        InputError: if the model has no graph of layers.
    """
    graph = functional(model)
    if graph is None:
        raise InputError(
            f"Costs are counted along the graph of a functional or sequential model; "
            f"{model.name!r} is a {type(model).__name__}."
        )
    return _costs_of_graph(graph, [tensor.shape for tensor in graph.inputs])


def counted(costs: Sequence[LayerCost]) -> list[LayerCost]:
    """The costs that are known."""
    return [cost for cost in costs if not cost.uncounted]


def total_flops(costs: Sequence[LayerCost]) -> tuple[float, int]:
    """Theoretical FLOPs of a forward pass on one sample.

    Args:
        costs: `LayerCost`s of a network, see `layer_costs`.

    Returns:
        FLOPs at the layers' densities, and FLOPs if all layers were dense.

    Raises:
        InputError: if a cost is not known. `counted` leaves such layers out.
    """
    for cost in costs:
        if cost.uncounted:
            raise InputError(
                f"The FLOPs of layer {cost.name!r} are not known: {cost.uncounted}. Add up "
                "`counted(costs)` to leave it out, and say so."
            )
    return sum(cost.flops for cost in costs), sum(2 * cost.macs for cost in costs)


def with_densities(costs: Sequence[LayerCost], densities: Mapping[str, float]) -> list[LayerCost]:
    """The same layers at other densities.

    Args:
        costs: `LayerCost`s of a network.
        densities: {layer name: new density in [0, 1]}; layers without an entry keep theirs.
    """
    return [
        cost._replace(active=round(densities.get(cost.name, cost.density) * cost.size))
        for cost in costs
    ]


def at_sparsity(
    costs: Sequence[LayerCost], sparsity: float, distribution: Distribution = erk
) -> list[LayerCost]:
    """The same layers, with masked ones at the densities of a distribution.

    Args:
        costs: `LayerCost`s of a network, each layer called once.
        sparsity: fraction of zeros over all weights under masks, in [0, 1).
        distribution: one of `sparsity.distributions`.
    """
    masked = [cost for cost in costs if cost.masked]
    densities = distribution([cost.kernel_shape for cost in masked], 1 - sparsity)
    names = [cost.name for cost in masked]
    return with_densities(costs, dict(zip(names, densities, strict=True)))


def _costs_of_graph(graph: keras.Model, inputs: Sequence[Shape]) -> list[LayerCost]:
    """The costs of the calls of a functional model on inputs of these shapes."""
    order = nodes(graph)
    shapes = {id(x): x.shape for node in order for x in (*node.input_tensors, *node.outputs)}
    if list(inputs) != [tensor.shape for tensor in graph.inputs]:
        shapes = _shapes_inside(graph, order, inputs)
    costs: list[LayerCost] = []
    for node in order:
        given = [shapes[id(tensor)] for tensor in _inputs_of(node)]
        costs += _costs(node.operation, given, [shapes[id(tensor)] for tensor in node.outputs])
    return costs


def _shapes_inside(
    graph: keras.Model, order: Sequence[Any], inputs: Sequence[Shape]
) -> dict[int, Shape]:
    """The shapes of all tensors of a graph that is called on inputs of other shapes, by id."""
    known = {
        id(tensor): keras.KerasTensor(shape, dtype=tensor.dtype)
        for tensor, shape in zip(graph.inputs, inputs, strict=True)
    }
    for node in order:
        args, kwargs = node.arguments.fill_in(known)
        outputs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        known |= {id(tensor): new for tensor, new in zip(node.outputs, outputs, strict=True)}
    return {key: tensor.shape for key, tensor in known.items()}


def _inputs_of(node: Any) -> list[Any]:
    """The tensors of a call; those of multi-head attention begin with query and value."""
    if not isinstance(node.operation, keras.layers.MultiHeadAttention):
        return node.input_tensors
    call = inspect.signature(node.operation.call)
    arguments = call.bind(*node.arguments.args, **node.arguments.kwargs).arguments
    known = {id(tensor) for tensor in node.input_tensors}
    return [value for value in arguments.values() if id(value) in known]


def _costs(layer: Any, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> list[LayerCost]:
    """The costs of one call of a layer, or of another operation, on tensors of these shapes."""
    graph = functional(layer) if isinstance(layer, keras.Model) else None
    if graph is not None:
        return _costs_of_graph(graph, inputs)
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Embedding):
        return []
    if isinstance(layer, Masked):
        return [cost._replace(name=layer.name) for cost in _costs(layer.layer, inputs, outputs)]
    if isinstance(layer, keras.layers.SpectralNormalization):
        return _costs(layer.layer, inputs, outputs)
    if isinstance(layer, keras.layers.TimeDistributed):
        return _repeated_costs(layer, inputs, outputs)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return _multi_head_costs(layer, *inputs[:2])
    if isinstance(layer, keras.layers.Attention):
        (*_, dim), (*_, value_dim) = query, value = inputs[:2]
        per_pair = None if dim is None or value_dim is None else dim + value_dim
        uses = (*query[1:-1], *value[1:-1], per_pair)
        return [_known(LayerCost(layer.name, (), masked=False, active=0, macs=1), uses)]
    if isinstance(layer, keras.layers.EinsumDense):
        return [_kernel_cost(layer.name, layer.kernel, _einsum_uses(layer, inputs[0]))]
    # Every weight is used at every position of the output, or of the input if transposed.
    shape = (inputs if "Transpose" in type(layer).__name__ else outputs)[0]
    first = getattr(layer, "data_format", None) == "channels_first"
    positions = shape[2:] if first else shape[1:-1]
    if isinstance(layer, (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)):
        return [
            _kernel_cost(f"{layer.name}/depthwise", layer.depthwise_kernel, positions),
            _kernel_cost(f"{layer.name}/pointwise", layer.pointwise_kernel, positions),
        ]
    if isinstance(getattr(layer, "kernel", None), keras.Variable):
        return [_kernel_cost(layer.name, layer.kernel, positions)]
    return _uncounted_costs(layer)


def _kernel_cost(name: str, kernel: keras.Variable, uses: Sequence[int | None]) -> LayerCost:
    """The cost of a kernel whose weights are each used once for each element of these sizes."""
    mask, size = mask_of(kernel), math.prod(kernel.shape)
    active = size if mask is None else mask.num_active()
    cost = LayerCost(name, tuple(kernel.shape), mask is not None, active, macs=size)
    return _known(cost, uses)


def _known(cost: LayerCost, uses: Sequence[int | None]) -> LayerCost:
    """The cost times the product of these sizes, which is not known if a size is None."""
    known = [size for size in uses if size is not None]
    if len(known) < len(uses) or cost.uncounted:
        return cost._replace(macs=0, uncounted=cost.uncounted or "its sizes are not known")
    return cost._replace(macs=cost.macs * math.prod(known))


def _repeated_costs(
    layer: keras.layers.TimeDistributed, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> list[LayerCost]:
    """The costs of the layer inside, once for each time step."""
    inside = [[(shape[0], *shape[2:]) for shape in shapes] for shapes in (inputs, outputs)]
    return [_known(cost, [inputs[0][1]]) for cost in _costs(layer.layer, *inside)]


def _multi_head_costs(
    layer: keras.layers.MultiHeadAttention, query: Shape, value: Shape
) -> list[LayerCost]:
    """Four projections; each query is multiplied with each key, then with each value."""
    axes = layer.attention_axes
    costs = [
        _kernel_cost(f"{layer.name}/{name}", projection.kernel, shape[1:-1])
        for name, projection, shape in (
            ("query", layer.query_dense, query),
            ("key", layer.key_dense, value),
            ("value", layer.value_dense, value),
            ("output", layer.output_dense, query),
        )
    ]
    uses = (*query[1:-1], *(value[axis] for axis in axes))
    per_pair = layer.num_heads * (layer.key_dim + layer.value_dim)
    products = LayerCost(layer.name, (), masked=False, active=0, macs=per_pair)
    return [*costs, _known(products, uses)]


def _einsum_uses(layer: keras.layers.EinsumDense, shape: Shape) -> list[int | None]:
    """The sizes of the axes of the input, but for the batch, that its kernel does not have."""
    given, kernel = layer.equation.split("->")[0].replace(" ", "").split(",")
    before, dots, after = given.partition("...")
    between = len(shape) - len(before) - len(after) if dots else 0
    labels = [*before, *["..."] * between, *after]
    return [
        size for label, size in list(zip(labels, shape, strict=True))[1:] if label not in kernel
    ]


def _uncounted_costs(layer: keras.layers.Layer) -> list[LayerCost]:
    """The kernels of a layer of another kind, and of the layers inside it."""
    reason = f"a {type(layer).__name__} is not one of the kinds that are counted"
    kernels = {
        id(variable): (one.name, variable)
        for one in all_layers(layer)
        if not isinstance(one, keras.layers.Embedding)
        for variable in own_weights(one)
        if len(variable.shape) >= 2
    }
    costs = [_kernel_cost(name, kernel, ()) for name, kernel in kernels.values()]
    return [cost._replace(macs=0, uncounted=reason) for cost in costs]
