"""Layers of class-conditional residual blocks: batch norm by class, self-attention."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers


@keras.saving.register_keras_serializable("stugan_tf")
class ConditionalBatchNormalization(layers.BatchNormalization):
    """Batch norm whose gain and bias are given with each sample: BN(x) * (1 + gain) + bias.

    They come from the class: from an `Embedding` of its label, or from a dense layer of a vector
    that stands for it. The layer has no gain and bias of its own. Where both are zero it is plain
    batch norm.

    Args:
        **kwargs: arguments of `keras.layers.BatchNormalization`, e.g. `momentum`, `epsilon` and
            `synchronized`, which normalises by the statistics of the global batch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "center": False, "scale": False})

    def build(self, inputs_shape: tuple, gain_shape: tuple, bias_shape: tuple) -> None:
        """Builds the moving statistics."""
        del gain_shape, bias_shape
        super().build(inputs_shape)

    def compute_output_shape(
        self, inputs_shape: tuple, gain_shape: tuple, bias_shape: tuple
    ) -> tuple:
        """The shape of the images."""
        del gain_shape, bias_shape
        return inputs_shape

    def call(self, inputs: Any, gain: Any, bias: Any, training: bool | None = None) -> Any:
        """Maps images [B, H, W, C] with gain and bias [B, C] to images [B, H, W, C]."""
        outputs = super().call(inputs, training=training)
        return outputs * (1 + gain[:, None, None, :]) + bias[:, None, None, :]


@keras.saving.register_keras_serializable("stugan_tf")
class LearnedScale(layers.Layer):
    """Multiplies by one learned number, `gamma`, which is zero at first."""

    def build(self, input_shape: tuple) -> None:
        """Builds the number."""
        del input_shape
        self.gamma = self.add_weight(name="gamma", shape=(), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Multiplies a tensor of any shape."""
        return self.gamma * inputs


def self_attention(
    images: keras.KerasTensor,
    convolution: Callable[[keras.KerasTensor, int, str], keras.KerasTensor],
    name: str,
) -> keras.KerasTensor:
    """The block of SAGAN (Zhang et al., 2019): x + gamma * o(softmax(theta phi') g).

    Each position attends to the positions of a grid of half the resolution. Products are not
    scaled.

    Args:
        images: a Keras tensor [B, H, W, C]; H and W even, C a multiple of 8.
        convolution: `(images, filters, name) -> images`, a 1x1 convolution without bias.
        name: name of the block; the names of its layers begin with it.

    Returns:
        A Keras tensor [B, H, W, C].
    """
    _, height, width, channels = images.shape

    def flat(images: keras.KerasTensor) -> keras.KerasTensor:  # [B, H, W, C] to [B, H * W, C]
        return layers.Reshape([-1, images.shape[-1]])(images)

    theta = convolution(images, channels // 8, f"{name}_theta")
    phi = layers.MaxPooling2D()(convolution(images, channels // 8, f"{name}_phi"))
    g = layers.MaxPooling2D()(convolution(images, channels // 2, f"{name}_g"))
    query, value, key = flat(theta), flat(g), flat(phi)
    attended = layers.Attention(name=f"{name}_softmax")([query, value, key])
    attended = layers.Reshape([height, width, channels // 2])(attended)
    attended = convolution(attended, channels, f"{name}_o")
    return layers.Add()([LearnedScale(name=f"{name}_gamma")(attended), images])
