"""Masked convolutions fused with what surrounds them, for execution on their non-zeros.

A sparse convolution is so cheap that normalization, ReLU, resizing and residual additions cost as
much. The sparse kernels do these in passing: some while they lay out the input, the others after
they have summed.
"""

import collections
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import functional, nodes, producer
from stugan_tf.kernels.convolution import Normalization, masked_convolution, moments
from stugan_tf.layers.execution import choose, is_replaceable, is_supported, zero_gradients
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.spectral import SpectralConv2D


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a `FusedConvolution` computes besides the convolution, in this order."""

    normalization: keras.layers.BatchNormalization | None = None
    relu: bool = False
    upsampling: int = 1
    pooling: int = 1
    has_residual: bool = False
    residual_upsampling: int = 1


class FusedConvolution(keras.layers.Layer):
    """A `Masked` convolution and its surroundings. It shares their layers and weights.

    Args:
        masked: the convolution.
        surroundings: what is fused with it.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, masked: Masked, surroundings: Surroundings, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.masked = masked
        self.surroundings = surroundings
        # Keras finds layers in attributes only.
        self.normalization = surroundings.normalization
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """Maps images [B, H, W, C], or images and a residual, to [B, H', W', C']."""
        images, residual = inputs if self.surroundings.has_residual else (inputs, None)
        layer, around = self.masked.layer, self.surroundings
        choice = choose(
            self.masked,
            images.shape[:3],
            normalized=around.normalization is not None,
            relu=around.relu,
            upsampling=around.upsampling,
            pooling=around.pooling,
        )
        return masked_convolution(
            images,
            self.masked.effective_kernel(training),
            self.masked.kernel_mask.value,
            layer.padding,
            choice,
            zero_gradients(),
            self._normalization(images, training),
            around.relu,
            around.upsampling,
            around.pooling,
            layer.bias.value if layer.use_bias else None,
            residual,
            around.residual_upsampling,
        )

    def _normalization(self, images: tf.Tensor, training: bool) -> Normalization | None:
        layer = self.normalization
        if layer is None:
            return None
        of_batch = bool(training) and layer.trainable
        if of_batch:
            mean, variance = moments(images)
            for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                moving.assign(moving * layer.momentum + value * (1.0 - layer.momentum))
        else:
            mean, variance = layer.moving_mean.value, layer.moving_variance.value
        return Normalization(
            mean,
            variance,
            layer.gamma.value if layer.scale else tf.ones_like(mean),
            layer.beta.value if layer.center else tf.zeros_like(mean),
            layer.epsilon,
            of_batch,
        )

    def compute_output_shape(self, input_shape: Any) -> tuple:
        """The shape of the output, with or without a residual."""
        shape = input_shape[0] if self.surroundings.has_residual else input_shape
        batch, height, width, channels = shape
        around = self.surroundings
        height, width = _times(height, around.upsampling), _times(width, around.upsampling)
        shape = (batch, height, width, channels)
        batch, height, width, channels = self.masked.compute_output_shape(shape)
        if around.pooling > 1:  # Then height and width are known.
            height, width = height // around.pooling, width // around.pooling
        return (batch, height, width, channels)


def fuse(model: keras.Model) -> keras.Model:
    """Fuses the masked convolutions of a model with the layers around them.

    A 1x1 convolution that follows an upsampling moves before it, and one that precedes an averaging
    moves after it: the same numbers, up to rounding, for a quarter of the work.

    Outputs that two layers use are still computed once: normalization and power iterations have
    state.

    Args:
        model: a functional or sequential Keras model. Any other model is returned unchanged.

    Returns:
        A functional Keras model with the same layers and weights.
    """
    graph = functional(model)
    if graph is None:
        return model
    fusion = _Fusion(_layers_needed_twice(graph))
    return keras.models.clone_model(
        graph, clone_function=lambda layer: layer, call_function=fusion.call
    )


def _layers_needed_twice(graph: keras.Model) -> set[keras.layers.Layer]:
    """The layers that have an output with several consumers."""
    order = nodes(graph)
    needs = collections.Counter(
        id(tensor)
        for tensors in (*(node.input_tensors for node in order), graph.outputs)
        for tensor in tensors
    )
    return {node.operation for node in order if any(needs[id(t)] > 1 for t in node.outputs)}


def _times(size: int | None, factor: int) -> int | None:
    return None if size is None else size * factor


def is_fusible(masked: Masked) -> bool:
    """Whether a `Masked` layer is a convolution that `FusedConvolution` can compute."""
    layer = masked.layer
    return (
        isinstance(layer, keras.layers.Conv2D)
        # Subclasses that override `call` compute something else.
        and type(layer).call in (keras.layers.Conv2D.call, SpectralConv2D.call)
        and is_replaceable(masked.layer)
        and masked.compute_dtype == "float32"
        and masked.activity_regularizer is None
        and is_supported(layer)
        and layer.activation in (None, keras.activations.linear)
    )


class _Fusion:
    """Calls the layers of a model in turn, each fused with the layers before it where it can be."""

    def __init__(self, needed_twice: set[keras.layers.Layer]) -> None:
        self._needed_twice = needed_twice
        # Tensors by id: outputs of those layers, and of calls with arguments besides the inputs.
        self._shared: dict[int, Any] = {}
        self._called_with_arguments: dict[int, Any] = {}

    def call(self, layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = None
        if len(args) == 1 and not _has_arguments(kwargs):
            outputs = self._fused(layer, *args)
        if outputs is None:
            outputs = layer(*args, **kwargs)
        made = {id(tensor): tensor for tensor in keras.tree.flatten(outputs)}
        if layer in self._needed_twice:
            self._shared |= made
        if _has_arguments(kwargs):
            self._called_with_arguments |= made
        return outputs

    def _fused(self, layer: keras.layers.Layer, inputs: Any) -> Any:
        if isinstance(layer, Masked) and is_fusible(layer):
            return self._convolve(layer, inputs)
        if _is_plain(layer, keras.layers.Add) and len(inputs) == 2:
            return self._add(*inputs)
        if _is_plain(layer, keras.layers.AveragePooling2D) and _halves(layer):
            return self._pool(layer, inputs)
        return None

    def _fused_producer(self, tensor: keras.KerasTensor) -> tuple[Any, list]:
        layer, inputs = producer(tensor)
        is_ours = isinstance(layer, FusedConvolution) and id(tensor) not in self._shared
        return (layer, inputs) if is_ours else (None, inputs)

    def _convolve(self, masked: Masked, images: Any) -> Any:
        around: dict[str, Any] = {}
        is_shared = id(images) in self._shared
        layer, inputs = producer(images)
        if (
            _is_plain(layer, keras.layers.UpSampling2D)
            and layer.size == (2, 2)
            and layer.interpolation == "nearest"
            and layer.data_format == "channels_last"
        ):
            around["upsampling"], (images,) = 2, inputs
            is_shared |= id(images) in self._shared
            layer, inputs = producer(images)
        if _is_relu(layer):
            around["relu"], (images,) = True, inputs
            is_shared |= id(images) in self._shared
            layer, inputs = producer(images)
        if (
            _is_plain(layer, keras.layers.BatchNormalization)
            and not is_shared
            and id(images) not in self._called_with_arguments
            and layer.axis in (-1, 3)
            and not (layer.synchronized or getattr(layer, "renorm", False))
        ):
            around["normalization"], (images,) = layer, inputs
        return FusedConvolution(masked, Surroundings(**around))(images)

    def _add(self, one: Any, other: Any) -> Any:
        for images, residual in ((one, other), (other, one)):
            fused, inputs = self._fused_producer(images)
            if fused is None or fused.surroundings.has_residual or images.shape != residual.shape:
                continue
            upsampling = 1
            shortcut, shortcut_inputs = self._fused_producer(residual)
            if (
                shortcut is not None
                and _is_pointwise(shortcut)
                and shortcut.surroundings.upsampling == 2
                and not shortcut.surroundings.has_residual
                and shortcut.surroundings.pooling == fused.surroundings.pooling == 1
            ):
                upsampling, residual = 2, _rebuilt(shortcut, shortcut_inputs, upsampling=1)
            return _rebuilt(
                fused, [*inputs, residual], has_residual=True, residual_upsampling=upsampling
            )
        return None

    def _pool(self, layer: keras.layers.Layer, images: Any) -> Any:
        fused, inputs = self._fused_producer(images)
        height, width = images.shape[1:3]
        if (
            fused is None
            or fused.surroundings.pooling > 1
            or fused.surroundings.residual_upsampling > 1
            or height is None
            or width is None
            or height % 2
            or width % 2
        ):
            return None
        around = fused.surroundings
        if _is_pointwise(fused) and around == Surroundings():
            return _rebuilt(fused, [layer(*inputs)])
        if around.has_residual:
            residual = self._pool(layer, inputs[1])
            inputs = [inputs[0], layer(inputs[1]) if residual is None else residual]
        return _rebuilt(fused, inputs, pooling=2)


def _is_plain(layer: Any, kind: Any) -> bool:
    """Whether an operation is exactly this kind of layer, computes in float32 and adds no loss."""
    return (
        type(layer) is kind
        and layer.compute_dtype == "float32"
        and layer.activity_regularizer is None
    )


def _has_arguments(kwargs: dict[str, Any]) -> bool:
    """Whether a call had arguments besides the inputs. Keras adds a `mask` that is None."""
    return any(value is not None for value in kwargs.values())


def _rebuilt(fused: FusedConvolution, inputs: list, **changes: Any) -> Any:
    around = dataclasses.replace(fused.surroundings, **changes)
    return FusedConvolution(fused.masked, around)(inputs if len(inputs) > 1 else inputs[0])


def _is_relu(layer: Any) -> bool:
    if _is_plain(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return _is_plain(layer, keras.layers.Activation) and layer.activation is keras.activations.relu


def _is_pointwise(fused: FusedConvolution) -> bool:
    return tuple(fused.masked.layer.kernel_size) == (1, 1)


def _halves(layer: Any) -> bool:
    return (
        layer.pool_size == (2, 2)
        and layer.strides == (2, 2)
        and layer.data_format == "channels_last"
    )
