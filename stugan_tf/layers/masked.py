"""A layer whose kernel stays zero under a mask: where models and sparsity meet."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import all_layers, functional, nodes, producer
from stugan_tf.errors import InputError
from stugan_tf.layers.conditional import ConditionalBatchNormalization
from stugan_tf.layers.execution import check_execution, is_supported, product
from stugan_tf.layers.spectral import SpectralNormalization
from stugan_tf.signatures import Shape

# The convolutions that `mask_layers` wraps. Depthwise and separable ones have too few weights.
CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


@keras.saving.register_keras_serializable("stugan_tf")
class Masked(keras.layers.Wrapper):
    """Keeps `kernel == kernel * kernel_mask` of the wrapped layer between calls.

    So `call` need not multiply, and the tape yields the dense gradient that growth asks for
    (Sec. 4.3). Code that changes the kernel must restore the invariant: `MaskedAdam` does so after
    each update, `assign_mask` after each topology update. A dense layer has a mask of ones.

    Attributes:
        execution: how the product with the kernel is computed: `dense`, `sparse` or `auto`. See
            `set_execution`.

    Args:
        layer: a layer with a `kernel`, e.g. a convolution or dense layer.
        **kwargs: arguments of `keras.layers.Layer`. The default name is that of the wrapped layer.

    Raises:
        InputError: when it is built, if the layer has no variable `kernel`.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        kwargs.setdefault("name", layer.name)
        super().__init__(layer, **kwargs)
        self.execution = "dense"

    def build(self, input_shape: Shape) -> None:
        """Builds the wrapped layer, then a mask of ones in the shape of its kernel."""
        super().build(input_shape)
        if not isinstance(getattr(self.layer, "kernel", None), keras.Variable):
            raise InputError(
                f"`Masked` needs a layer with one `kernel`, got {type(self.layer).__name__} "
                f"{self.layer.name!r}. Wrap a convolution or dense layer."
            )
        # In Keras `mask` means time steps, hence the longer name.
        self.kernel_mask = self.add_weight(
            name="kernel_mask",
            shape=self.layer.kernel.shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )
        # Keras calls `convolution_op` so that it can be replaced. A spectral layer calls it with
        # W / sigma. Subclasses that override it are left alone.
        if self.is_replaceable:
            self._convolve_densely = self.layer.convolution_op
            self.layer.convolution_op = self._convolve
        elif hasattr(self.layer, "matmul_op"):
            self.layer.matmul_op = self._matmul
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Calls the wrapped layer. Keras passes `training` on by itself."""
        is_dense = self.execution == "dense" or not is_supported(self.layer)
        if is_dense or type(self.layer) is not keras.layers.Dense:
            return self.layer(inputs)
        outputs = self._matmul(inputs, self.layer.kernel)
        if self.layer.use_bias:
            outputs = outputs + self.layer.bias
        return outputs if self.layer.activation is None else self.layer.activation(outputs)

    def _convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        outputs = self._sparse_product(inputs, kernel)
        return self._convolve_densely(inputs, kernel) if outputs is None else outputs

    def _matmul(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        outputs = self._sparse_product(inputs, kernel)
        return keras.ops.matmul(inputs, kernel) if outputs is None else outputs

    def _sparse_product(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor | None:
        if not is_supported(self.layer):
            return None
        return product(self, tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel))

    def density(self) -> float:
        """The fraction of ones in the mask, a Python float."""
        return self.num_active() / math.prod(self.kernel.shape)

    @property
    def is_replaceable(self) -> bool:
        """Whether the wrapped layer is a convolution as Keras computes it."""
        own = getattr(type(self.layer), "convolution_op", None)
        return own is keras.layers.Conv2D.convolution_op

    def effective_kernel(self, training: bool) -> tf.Tensor:
        """The kernel that the layer computes with: W, or W / sigma(W)."""
        if isinstance(self.layer, SpectralNormalization):
            return self.layer.normalized_kernel(training)
        return tf.convert_to_tensor(self.layer.kernel)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """The output shape of the wrapped layer."""
        return self.layer.compute_output_shape(input_shape)

    @property
    def kernel(self) -> keras.Variable:
        """The kernel variable of the wrapped layer, zero wherever the mask is zero."""
        return self.layer.kernel

    def assign_mask(self, mask: tf.Tensor) -> None:
        """Replaces the mask and sets the weights outside it to zero.

        Args:
            mask: float32 zeros and ones in the shape of the kernel.
        """
        self.kernel_mask.assign(mask)
        self.kernel.assign(self.kernel * tf.cast(mask, self.kernel.dtype))

    def num_active(self) -> int:
        """The number of ones in the mask, a Python integer."""
        return int(tf.math.count_nonzero(self.kernel_mask.value))


def masked_layers(model: keras.Model) -> list[Masked]:
    """All `Masked` layers inside a model, each once, in the order in which Keras lists them."""
    return [layer for layer in all_layers(model) if isinstance(layer, Masked)]


def set_execution(model: keras.Model, execution: str) -> keras.Model:
    """Sets how all masked layers of a model compute.

    Functions that are already traced do not change.

    Args:
        model: a Keras model.
        execution: `dense` computes as the wrapped layers do. `sparse` computes on the non-zeros,
            with kernels for CPUs, where the layer allows it: float32, channels last, stride 1.
            `auto` takes the faster of the two for each layer and batch, as measured when a function
            is first traced.

    Returns:
        The model.

    Raises:
        InputError: if `execution` is not one of the three.
    """
    check_execution("execution", execution)
    for layer in masked_layers(model):
        layer.execution = execution
    return model


def mask_layers(model: keras.Model, mask_dense: bool = False) -> keras.Model:
    """Wraps layers of a functional or sequential model in `Masked`.

    Convolutions are wrapped if the model has no `Masked` layer yet; otherwise its author has chosen
    which layers are. The returned model shares its layers and weights with `model`: a mask of one
    holds for both.

    Args:
        model: a built functional or sequential Keras model.
        mask_dense: wrap dense layers too, except those that make the gains and biases of a
            `ConditionalBatchNormalization`.

    Returns:
        A model with the same inputs, outputs and weights, and with masks of ones.

    Raises:
        InputError: if the model is subclassed: Keras cannot rewrite its calls.
    """
    kinds = () if masked_layers(model) else CONVOLUTIONS
    dense = unmasked_dense_layers(model) if mask_dense else []
    masked: dict[int, Masked] = {}  # A layer that two nested models share gets one mask.

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return rewrite(layer)
        if not isinstance(layer, kinds) and layer not in dense:
            return layer
        if id(layer) not in masked:
            masked[id(layer)] = Masked(layer)
        return masked[id(layer)]

    def rewrite(model: keras.Model) -> keras.Model:
        try:
            return keras.models.clone_model(model, clone_function=wrap)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"Cannot wrap the layers of {model.name!r}, a {type(model).__name__}: only "
                "functional and sequential models can be rewritten. In a subclassed model, wrap "
                "each layer where you create it: Masked(keras.layers.Conv2D(...))."
            ) from error

    return rewrite(model)


def unmasked_dense_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The dense layers that `mask_layers` can wrap, each once. Empty for a subclassed model."""
    found: dict[int, keras.layers.Layer] = {}
    conditioning: set[int] = set()
    for node in _all_nodes(model):
        if isinstance(node.operation, keras.layers.Dense):
            found[id(node.operation)] = node.operation
        elif isinstance(node.operation, ConditionalBatchNormalization):
            conditioning.update(id(producer(tensor)[0]) for tensor in node.input_tensors[1:])
    return [layer for key, layer in found.items() if key not in conditioning]


def _all_nodes(model: keras.Model) -> Iterator[Any]:
    """The calls in a functional or sequential model and in the models inside it."""
    graph = functional(model)
    for node in nodes(graph) if graph else ():
        yield node
        if isinstance(node.operation, keras.Model):
            yield from _all_nodes(node.operation)
