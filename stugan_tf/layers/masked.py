"""A layer whose kernel stays zero under a mask: where models and sparsity meet."""

import math
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
from stugan_tf.layers.execution import check_execution, replace_product, set_mask_execution
from stugan_tf.layers.kernel_mask import KernelMask, kernel_masks, mask_of
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
    (Sec. 4.3). `KernelMask`, the constraint of the kernel, restores the invariant after each update
    of any optimizer of Keras. Other code that changes the kernel must do so itself, e.g. by
    `assign_mask`. A dense layer has a mask of ones.

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
        self._execution = "dense"

    def build(self, input_shape: Shape) -> None:
        """Builds the wrapped layer, then a mask of ones in the shape of its kernel."""
        super().build(input_shape)
        kernel = getattr(self.layer, "kernel", None)
        if not isinstance(kernel, keras.Variable):
            raise InputError(
                f"`Masked` needs a layer with one `kernel`, got {type(self.layer).__name__} "
                f"{self.layer.name!r}. Wrap a convolution or dense layer."
            )
        if mask_of(kernel) is not None:
            raise InputError(
                f"Layer {self.layer.name!r} is already under a mask, and a second one would add to "
                "its zeros. Go on with the model that has the first mask, or build the layers "
                "again for each model."
            )
        # In Keras `mask` means time steps, hence the longer name.
        self.kernel_mask = self.add_weight(
            name="kernel_mask",
            shape=kernel.shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )
        self._mask = KernelMask(kernel, self.kernel_mask, self.name, self.layer)
        set_mask_execution(self._mask, self._execution)
        replace_product(self._mask)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Calls the wrapped layer. Keras passes `training` on by itself."""
        return self.layer(inputs)

    @property
    def execution(self) -> str:
        """How the product with the kernel is computed, see `set_execution`."""
        return self._mask.execution if self.built else self._execution

    @execution.setter
    def execution(self, execution: str) -> None:
        self._execution = execution
        if self.built:
            set_mask_execution(self._mask, execution)

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
    """All `Masked` layers inside a model, each once, in the order in which Keras lists them.

    A model that `sparsify` masked in place has none: `kernel_masks` lists the masks of both.
    """
    return [layer for layer in all_layers(model) if isinstance(layer, Masked)]


def set_execution(model: keras.Model, execution: str) -> keras.Model:
    """Sets how all masked layers of a model compute.

    Functions that are already traced do not change. Call it before `compile`: XLA cannot run the
    sparse kernels, and `jit_compile` is decided there.

    Args:
        model: a Keras model.
        execution: `dense` computes as the wrapped layers do. `sparse` computes on the non-zeros,
            with kernels for CPUs, where the layer allows it: float32, channels last, stride 1.
            `auto` takes the faster of the two for each layer and batch, as measured when a function
            is first traced.

    Returns:
        The model.

    Raises:
        InputError: if `execution` is not one of the three, or the model has no masks.
    """
    check_execution("execution", execution)
    check_layer(model)
    if not kernel_masks(model) and not masked_layers(model):
        raise InputError(
            f"{model.name!r} has no masks, so all of it computes densely. Give it masks first, "
            "model = st.sparsify(model, 0.9)."
        )
    for mask in kernel_masks(model):
        set_mask_execution(mask, execution)
    for layer in masked_layers(model):  # Those that are not built have no mask yet.
        layer.execution = execution
    return model


def check_layer(model: Any) -> None:
    """Raises InputError unless `model` is a Keras model or layer."""
    if not isinstance(model, keras.layers.Layer):
        raise InputError(
            f"A Keras model is needed, such as keras.applications.ResNet50(weights=None), got "
            f"{model!r}."
        )


def check_built(model: Any) -> None:
    """Raises InputError unless `model` is a Keras model that is built."""
    check_layer(model)
    if not model.built:
        raise InputError(
            f"{model.name!r} is not built, so its kernels have no shapes. Give it a `keras.Input`, "
            "or call it once."
        )


def check_zeros(model: keras.Model) -> None:
    """Raises InputError if a weight of a model is outside the mask of its layer and not zero."""
    for mask in kernel_masks(model):
        mask.check_zeros()


def check_not_frozen(model: keras.Model) -> None:
    """Raises InputError if a masked layer of a model is frozen: its weights could not change."""
    trained = {id(variable) for variable in model.trainable_variables}
    for mask in kernel_masks(model):
        if id(mask.kernel) not in trained:
            raise InputError(
                f"Layer {mask.name!r} of {model.name!r} is under a mask and frozen (trainable = "
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

    Biases are left out, and so are the scales of norms, which have rank 1.

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
    bare -= {id(mask.kernel) for mask in kernel_masks(model)}
    found = {}
    for layer in layers:
        kind = type(layer).__name__
        if id(layer) in wrappers:
            kind = f"{type(wrappers[id(layer)]).__name__}({kind})"
        for variable in own_weights(layer):
            rank = 1 if variable.name.endswith("bias") else len(variable.shape)
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
