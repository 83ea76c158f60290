"""Masked convolutions fused with what surrounds them, for execution on their non-zeros.

There the convolution is so cheap that normalization, ReLU, resizing and residual additions cost as
much. The sparse kernels do them in passing: before they lay out the input, after they have summed.
"""

import dataclasses

import keras
import tensorflow as tf

from stugan_tf.kernels.convolution import Normalization, masked_convolution, moments
from stugan_tf.layers.execution import choose, is_supported, zero_gradients
from stugan_tf.layers.masked import Masked


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What happens in a `FusedConvolution` besides the convolution, in this order."""

    normalization: keras.layers.BatchNormalization | None = None
    relu: bool = False
    upsampling: int = 1
    pooling: int = 1
    has_residual: bool = False
    residual_upsampling: int = 1


class FusedConvolution(keras.layers.Layer):
    """A `Masked` convolution and its surroundings, whose layers and weights it shares.

    Args:
        masked: the convolution.
        surroundings: what is fused with it.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, masked, surroundings, **kwargs):
        super().__init__(**kwargs)
        self.masked = masked
        self.surroundings = surroundings
        # Keras finds layers in attributes only.
        self.normalization = surroundings.normalization
        self.built = True

    def call(self, inputs, training=False):
        """Images [B, H, W, C], or these and a residual, to [B, H', W', C']."""
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

    def _normalization(self, images, training):
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

    def compute_output_shape(self, input_shape):
        """The shape of the output, whether or not there is a residual."""
        shape = input_shape[0] if self.surroundings.has_residual else input_shape
        batch, height, width, channels = shape
        around = self.surroundings
        shape = (batch, height * around.upsampling, width * around.upsampling, channels)
        batch, height, width, channels = self.masked.compute_output_shape(shape)
        return (batch, height // around.pooling, width // around.pooling, channels)


def fuse(model):
    """A model of the same layers and weights whose masked convolutions are fused.

    A 1x1 convolution of upsampled images becomes one that is upsampled afterwards, one that is
    averaged afterwards one of averaged images: the same numbers, up to rounding, for a quarter of
    the work.

    Args:
        model: a functional Keras model; any other is returned as it is.

    Returns:
        A functional Keras model.
    """
    if not isinstance(model, keras.Model) or not model.inputs or not model._operations:
        return model
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=_call_fused
    )


def _call_fused(layer, *args, **kwargs):
    outputs = None
    if isinstance(layer, Masked) and is_fusible(layer):
        outputs = _convolve(layer, *args)
    elif type(layer) is keras.layers.Add and len(args[0]) == 2:
        outputs = _add(*args[0])
    elif type(layer) is keras.layers.AveragePooling2D and _halves(layer):
        outputs = _pool(layer, *args)
    return layer(*args, **kwargs) if outputs is None else outputs


def is_fusible(masked):
    """Whether a `Masked` layer is a convolution that `FusedConvolution` computes."""
    layer = masked.layer
    return (
        isinstance(layer, keras.layers.Conv2D)
        and masked.is_replaceable
        and is_supported(layer)
        and layer.activation in (None, keras.activations.linear)
    )


def _producer(tensor):
    """The layer that made a Keras tensor, and its inputs."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def _fused_producer(tensor):
    layer, inputs = _producer(tensor)
    return (layer, inputs) if isinstance(layer, FusedConvolution) else (None, inputs)


def _rebuilt(fused, inputs, **changes):
    around = dataclasses.replace(fused.surroundings, **changes)
    return FusedConvolution(fused.masked, around)(inputs if len(inputs) > 1 else inputs[0])


def _convolve(masked, images):
    around = {}
    layer, inputs = _producer(images)
    if (
        type(layer) is keras.layers.UpSampling2D
        and layer.size == (2, 2)
        and layer.interpolation == "nearest"
        and layer.data_format == "channels_last"
    ):
        around["upsampling"], (images,) = 2, inputs
        layer, inputs = _producer(images)
    if _is_relu(layer):
        around["relu"], (images,) = True, inputs
        layer, inputs = _producer(images)
    if (
        type(layer) is keras.layers.BatchNormalization
        and layer.axis in (-1, 3)
        and layer.compute_dtype == "float32"
        and not (layer.synchronized or getattr(layer, "renorm", False))
    ):
        around["normalization"], (images,) = layer, inputs
    return FusedConvolution(masked, Surroundings(**around))(images)


def _is_relu(layer):
    if type(layer) is keras.layers.ReLU:
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return type(layer) is keras.layers.Activation and layer.activation is keras.activations.relu


def _is_pointwise(fused):
    return tuple(fused.masked.layer.kernel_size) == (1, 1) and len(fused.masked.kernel.shape) == 4


def _add(one, other):
    for images, residual in ((one, other), (other, one)):
        fused, inputs = _fused_producer(images)
        if fused is None or fused.surroundings.has_residual or images.shape != residual.shape:
            continue
        upsampling = 1
        shortcut, shortcut_inputs = _fused_producer(residual)
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


def _halves(layer):
    return (
        layer.pool_size == (2, 2)
        and layer.strides == (2, 2)
        and layer.data_format == "channels_last"
    )


def _pool(layer, images):
    fused, inputs = _fused_producer(images)
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
        inputs = [inputs[0], _call_fused(layer, inputs[1])]
    return _rebuilt(fused, inputs, pooling=2)
