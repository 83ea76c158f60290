"""The kernels of a model that can get masks: whatever a layer multiplies its inputs by."""

import math
from typing import NamedTuple

import keras

from stugan_tf.adapters.keras_internals import all_layers, own_weights
from stugan_tf.signatures import Shape

DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


class Kernel(NamedTuple):
    """A kernel and the layer that multiplies by it."""

    layer: keras.layers.Layer
    variable: keras.Variable

    @property
    def name(self) -> str:
        """The path of the kernel, without its last part where this is just `kernel`."""
        return self.variable.path.removesuffix("/kernel")

    @property
    def fans(self) -> Shape:
        """The shape in which distributions see the kernel: (..., in, out), of the same size.

        Each channel of a depthwise convolution has one input. The axes of an `EinsumDense` are
        those that it sums over, those that it makes, and before them those that it keeps.
        """
        shape = tuple(self.variable.shape)
        if isinstance(self.layer, DEPTHWISE) and self.variable.name != "pointwise_kernel":
            *window, channels, multiplier = shape
            return (*window, 1, channels * multiplier)
        if isinstance(self.layer, keras.layers.EinsumDense):
            operands, result = self.layer.equation.replace(" ", "").split("->")
            sizes = dict(zip(operands.split(",")[1], shape, strict=True))
            inputs = operands.split(",")[0]
            summed = [size for label, size in sizes.items() if label not in result]
            made = [size for label, size in sizes.items() if label not in inputs]
            kept = [size for label, size in sizes.items() if label in inputs and label in result]
            return (*kept, math.prod(summed), math.prod(made))
        return shape


def maskable_kernels(model: keras.Model, embeddings: bool = False) -> list[Kernel]:
    """The trainable kernels of a model, each once, in the order in which Keras lists the layers.

    These are the weights of rank 2 or more that a layer calls a kernel: those of convolutions of
    any kind, dense and recurrent layers and attention, also inside wrappers, custom layers and
    other models.

    Args:
        model: a built model.
        embeddings: whether the tables of `keras.layers.Embedding` count as kernels.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    found: dict[int, Kernel] = {}
    for layer in all_layers(model):
        # A wrapper may list the kernel of the layer inside as its own.
        if isinstance(layer, keras.layers.Wrapper):
            continue
        for variable in own_weights(layer):
            is_table = isinstance(layer, keras.layers.Embedding)
            wanted = embeddings if is_table else variable.name.split("_")[-1] == "kernel"
            if wanted and len(variable.shape) >= 2 and id(variable) in trained:
                found.setdefault(id(variable), Kernel(layer, variable))
    return list(found.values())
