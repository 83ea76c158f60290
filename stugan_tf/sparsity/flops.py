"""Theoretical cost of a forward pass at the densities of the layers.

One multiply-accumulate counts as 2 FLOPs. Convolutions, dense layers and the two products of
attention are counted. Batch norm, activations, biases, pooling and power iterations are not (they
are not in the paper's Table 2).

These are not measurements of speed. Dense execution multiplies zeros, too. Sparse execution on a
CPU skips them (`stugan_tf/kernels`), but needs time to find the other weights.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras

from stugan_tf.adapters.keras_internals import functional, nodes
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked
from stugan_tf.signatures import Distribution
from stugan_tf.sparsity.distributions import erk


class LayerCost(NamedTuple):
    """The cost of one layer in a forward pass on one sample."""

    name: str
    kernel_shape: tuple[int, ...]  # Empty if the layer has no weights, like attention.
    masked: bool
    active: int  # Weights that are not masked out.
    macs: int  # Multiply-accumulates of the dense layer.

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
        model: a built model whose spatial sizes are all known.

    Returns:
        A list of `LayerCost` in the order of the calls.

    Raises:
        InputError: if the model has no graph of layers, or has unknown sizes.
    """
    graph = functional(model)
    if graph is None:
        raise InputError(
            f"Costs are counted along the graph of a functional or sequential model; "
            f"{model.name!r} is a {type(model).__name__}."
        )
    costs: list[LayerCost] = []
    for node in nodes(graph):
        if isinstance(node.operation, keras.Model):
            costs += layer_costs(node.operation)
        else:
            costs += _cost(node)
    return costs


def total_flops(costs: Sequence[LayerCost]) -> tuple[float, int]:
    """Theoretical FLOPs of a forward pass on one sample.

    Args:
        costs: `LayerCost`s of a network, see `layer_costs`.

    Returns:
        FLOPs at the layers' densities, and FLOPs if all layers were dense.
    """
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


def _cost(node: Any) -> list[LayerCost]:
    layer = node.operation
    if isinstance(layer, keras.layers.Attention):
        return [_attention_cost(node)]
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return []
    inner = layer.layer if isinstance(layer, Masked) else layer
    transposed = "Transpose" in type(inner).__name__
    # Every weight is used at every position of the output, or of the input if transposed.
    shape = (node.input_tensors if transposed else node.outputs)[0].shape
    positions = shape[1:-1]
    _check_known(layer, positions, shape)
    size = math.prod(kernel.shape)
    return [
        LayerCost(
            name=layer.name,
            kernel_shape=tuple(kernel.shape),
            masked=isinstance(layer, Masked),
            active=layer.num_active() if isinstance(layer, Masked) else size,
            macs=size * math.prod(positions),
        )
    ]


def _attention_cost(node: Any) -> LayerCost:
    """Each query is multiplied with each key, then with each value."""
    query, value, *_ = node.input_tensors
    *queries, dim = query.shape[1:]
    *values, value_dim = value.shape[1:]
    for tensor, positions in ((query, queries), (value, values)):
        _check_known(node.operation, positions, tensor.shape)
    macs = math.prod(queries) * math.prod(values) * (dim + value_dim)
    return LayerCost(node.operation.name, (), masked=False, active=0, macs=macs)


def _check_known(
    layer: keras.layers.Layer, positions: Sequence[int | None], shape: Sequence[int | None]
) -> None:
    if None in positions:
        raise InputError(
            f"The sizes of layer {layer.name!r} are not known: {shape}. Build the model with a "
            "fixed image size."
        )
