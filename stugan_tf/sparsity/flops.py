"""Theoretical cost of a forward pass: what the densities of the layers would allow.

One multiply-accumulate counts as 2 FLOPs. Convolutions, dense layers and the two products of
attention are counted; batch norm, activations, biases, pooling and power iterations are not (they
are not in the paper's Table 2).

These are not measurements of speed. Dense execution multiplies zeros, too. Sparse execution on a
CPU skips them (`stugan_tf/kernels`), but takes time for finding the rest.
"""

import math
from typing import NamedTuple

import keras

from stugan_tf.adapters.keras_internals import functional, nodes
from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked
from stugan_tf.sparsity.distributions import erk


class LayerCost(NamedTuple):
    """One layer of a forward pass on one sample."""

    name: str
    kernel_shape: tuple[int, ...]  # Empty if the layer has no weights, as attention.
    masked: bool
    active: int  # Weights that are not masked out.
    macs: int  # Multiply-accumulates of the dense layer.

    @property
    def size(self):
        """Weights of the kernel."""
        return math.prod(self.kernel_shape) if self.kernel_shape else 0

    @property
    def density(self):
        """The fraction of weights that are not masked out."""
        return self.active / self.size if self.size else 1.0

    @property
    def flops(self):
        """Theoretical FLOPs at this density."""
        return 2 * self.macs * self.density


def layer_costs(model):
    """The cost of each convolution, dense layer and attention in a functional or sequential model.

    Args:
        model: a built model whose spatial sizes are all known.

    Returns:
        A list of `LayerCost` in the order of the calls.

    Raises:
        InputError: if the model has no graph of layers, or sizes that are not known.
    """
    graph = functional(model)
    if graph is None:
        raise InputError(
            f"Costs are counted along the graph of a functional or sequential model; "
            f"{model.name!r} is a {type(model).__name__}."
        )
    costs = []
    for node in nodes(graph):
        if isinstance(node.operation, keras.Model):
            costs += layer_costs(node.operation)
        else:
            costs += _cost(node)
    return costs


def total_flops(costs):
    """Theoretical FLOPs of a forward pass: (at the layers' densities, if all were dense)."""
    return sum(cost.flops for cost in costs), sum(2 * cost.macs for cost in costs)


def with_densities(costs, densities):
    """The same layers at other densities.

    Args:
        costs: `LayerCost`s of a network.
        densities: {layer name: density} of those that change; in [0, 1].
    """
    return [
        cost._replace(active=round(densities.get(cost.name, cost.density) * cost.size))
        for cost in costs
    ]


def at_sparsity(costs, sparsity, distribution=erk):
    """The same layers, those under masks at the densities of a distribution.

    Args:
        costs: `LayerCost`s of a network, each layer called once.
        sparsity: fraction of zeros over all weights under masks, in [0, 1).
        distribution: one of `sparsity.distributions`.
    """
    masked = [cost for cost in costs if cost.masked]
    densities = distribution([cost.kernel_shape for cost in masked], 1 - sparsity)
    names = [cost.name for cost in masked]
    return with_densities(costs, dict(zip(names, densities, strict=True)))


def _cost(node):
    layer = node.operation
    if isinstance(layer, keras.layers.Attention):
        return [_attention_cost(node)]
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return []
    inner = layer.layer if isinstance(layer, Masked) else layer
    transposed = "Transpose" in type(inner).__name__
    # Every weight meets every position of the output, or of the input if transposed.
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


def _attention_cost(node):
    """Each query meets each key, then each value."""
    query, value, *_ = node.input_tensors
    *queries, dim = query.shape[1:]
    *values, value_dim = value.shape[1:]
    for tensor, positions in ((query, queries), (value, values)):
        _check_known(node.operation, positions, tensor.shape)
    macs = math.prod(queries) * math.prod(values) * (dim + value_dim)
    return LayerCost(node.operation.name, (), masked=False, active=0, macs=macs)


def _check_known(layer, positions, shape):
    if None in positions:
        raise InputError(
            f"The sizes of layer {layer.name!r} are not known: {shape}. Build the model with a "
            "fixed image size."
        )
