"""A layer whose kernel stays zero under a mask: where models and sparsity meet."""

import math
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import (
    all_layers,
    functional,
    nodes,
    own_weights,
    producer,
)
from stugan_tf.errors import InputError
from stugan_tf.layers.conditional import ConditionalBatchNormalization
from stugan_tf.layers.execution import check_execution, is_supported, product
from stugan_tf.layers.kernel_mask import KernelMask
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

# The layers that have ever been wrapped: a second mask would not know the zeros of the first.
_wrapped: weakref.WeakSet = weakref.WeakSet()


@keras.saving.register_keras_serializable("stugan_tf")
class Masked(keras.layers.Wrapper):
    """Keeps `kernel == kernel * kernel_mask` of the wrapped layer between calls.

    So `call` need not multiply, and the tape yields the dense gradient that growth asks for
    (Sec. 4.3). `KernelMask`, the constraint of the kernel, restores the invariant after each update
    of any optimizer of Keras. Other code that changes the kernel must do so itself, e.g. by
    `assign_mask`. A dense layer has a mask of ones.

    Attributes:
        execution: how the product with the kernel is computed: `dense`, `sparse` or `auto`. See
            `set_execution`.

    Args:
        layer: a layer with a `kernel`, e.g. a convolution or dense layer.
        **kwargs: arguments of `keras.layers.Layer`. The default name is that of the wrapped layer.

    Raises:
        InputError: when it is built, if the layer has no variable `kernel`, or has been wrapped
            before.
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
        if self.layer in _wrapped:
            raise InputError(
                f"Layer {self.layer.name!r} is already under a mask, and a second one would add to "
                "its zeros. Go on with the model that has the first mask, or build the layers "
                "again for each model."
            )
        _wrapped.add(self.layer)
        # In Keras `mask` means time steps, hence the longer name.
        self.kernel_mask = self.add_weight(
            name="kernel_mask",
            shape=self.layer.kernel.shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )
        self._mask = KernelMask(self.layer.kernel, self.kernel_mask, self.name)
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

    def save_own_variables(self, store: Any) -> None:
        """Saves the mask. Raises InputError if a weight outside it is not zero."""
        self.check_zeros()
        super().save_own_variables(store)

    def check_zeros(self) -> None:
        """Raises InputError unless the kernel is zero outside the mask."""
        self._mask.check_zeros()

    def density(self) -> float:
        """The fraction of ones in the mask, a Python float."""
        return self._mask.density()

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
        self._mask.assign_mask(mask)

    def num_active(self) -> int:
        """The number of ones in the mask, a Python integer."""
        return self._mask.num_active()


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


def check_zeros(model: keras.Model) -> None:
    """Raises InputError if a weight of a model is outside the mask of its layer and not zero."""
    for layer in masked_layers(model):
        layer.check_zeros()


def check_not_frozen(model: keras.Model) -> None:
    """Raises InputError if a masked layer of a model is frozen: its weights could not change."""
    trained = {id(variable) for variable in model.trainable_variables}
    for layer in masked_layers(model):
        if id(layer.kernel) not in trained:
            raise InputError(
                f"Layer {layer.name!r} of {model.name!r} is under a mask and frozen (trainable = "
                "False): masks are for layers that train. Leave the layer outside `Masked`, or "
                "set trainable = True."
            )


class Unmasked(NamedTuple):
    """Weights of a layer that no mask covers."""

    layer: str  # Name of the layer.
    kind: str  # Its class, with that of a wrapper around it: `TimeDistributed(Conv2D)`.
    size: int  # Number of weights.
    rank: int  # Of the kernel: 2 if the layer is dense, more if it is a convolution.


def unmasked_kernels(model: keras.Model) -> list[Unmasked]:
    """The trainable weights of rank 2 or more that are not under masks, one entry for each tensor.

    Biases and the scales of norms have rank 1 and are left out.

    Args:
        model: a built Keras model.
    """
    layers = all_layers(model)
    wrappers = {
        id(layer.layer): layer
        for layer in layers
        if isinstance(layer, keras.layers.Wrapper) and not isinstance(layer, Masked)
    }
    bare = {id(variable) for variable in model.trainable_variables}
    bare -= {id(layer.kernel) for layer in masked_layers(model)}
    found = {}
    for layer in layers:
        kind = type(layer).__name__
        if id(layer) in wrappers:
            kind = f"{type(wrappers[id(layer)]).__name__}({kind})"
        for variable in own_weights(layer):
            rank = len(variable.shape)
            # A wrapper may list the kernel of the layer inside as its own.
            if rank >= 2 and id(variable) in bare and not isinstance(layer, keras.layers.Wrapper):
                size = math.prod(variable.shape)
                found[id(variable)] = Unmasked(layer.name, kind, size, rank)
    return list(found.values())


def mask_layers(model: keras.Model, mask_dense: bool = False) -> keras.Model:
    """Wraps layers of a functional or sequential model in `Masked`.

    Convolutions are wrapped if the model has no `Masked` layer yet; otherwise its author has chosen
    which layers are. Frozen layers and layers inside other wrappers, such as
    `keras.layers.TimeDistributed`, are not wrapped. The returned model shares its layers and
    weights with `model`: a mask of one holds for both.

    Args:
        model: a built functional or sequential Keras model.
        mask_dense: wrap dense layers too, except those that make the gains and biases of a
            `ConditionalBatchNormalization`.

    Returns:
        A model with the same inputs, outputs and weights, and with masks of ones.

    Raises:
        InputError: if the model is subclassed, because Keras cannot rewrite its calls, or if a
            layer has been wrapped before.
    """
    kinds = () if masked_layers(model) else CONVOLUTIONS
    dense = unmasked_dense_layers(model) if mask_dense else []
    masked: dict[int, Masked] = {}  # A layer that two nested models share gets one mask.

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return rewrite(layer)
        wanted = isinstance(layer, kinds) and layer.trainable
        if not wanted and layer not in dense:
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
    """The dense layers that `mask_layers` can wrap, each once. Empty for a subclassed model.

    Those that make gains and biases of a `ConditionalBatchNormalization` and frozen ones are not
    among them.
    """
    found: dict[int, keras.layers.Layer] = {}
    conditioning: set[int] = set()
    for node in _all_nodes(model):
        if isinstance(node.operation, keras.layers.Dense) and node.operation.trainable:
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
