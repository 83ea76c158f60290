"""SNGAN: the unconditional residual GAN of Miyato et al. (2018), as configured in GAN Tickets.

At 32x32 the two networks are those of the paper's CIFAR-10 experiments (generator of width 256:
4,276,739 parameters; discriminator of width 128: 1,053,824). Other image sizes halve or double
the number of resolutions, nothing else. Weights start as in the PyTorch reference: Glorot uniform
convolutions, PyTorch's default for dense kernels and for all biases.
"""

import math
from collections.abc import Callable

import gin
import keras
from keras import layers

from stugan_tf.checks import check_positive
from stugan_tf.errors import InputError
from stugan_tf.layers.initializers import torch_bias, torch_kernel
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.pooling import SumPooling2D
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense
from stugan_tf.signatures import ImageShape


@gin.configurable(denylist=["image_shape"])
def sngan_generator(
    image_shape: ImageShape,
    width: int = 256,
    latent_dim: int = 128,
    cross_replica_batch_norm: bool = False,
) -> keras.Model:
    """The generator: latents [B, latent_dim] to images [B, H, W, C] in [-1, 1].

    Args:
        image_shape: (H, W, C); H == W, a multiple of 8.
        width: feature maps of each convolution.
        latent_dim: length of a latent vector.
        cross_replica_batch_norm: normalise by the statistics of the global batch.

    Returns:
        A functional `keras.Model`.

    Raises:
        InputError: if an argument is not positive or the images have another shape.
    """
    check_positive("sngan_generator.width", width)
    check_positive("sngan_generator.latent_dim", latent_dim)
    size, num_blocks = _bottom(image_shape)

    def batch_norm(name: str) -> keras.layers.Layer:
        return layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02),
            synchronized=cross_replica_batch_norm,
            name=name,
        )

    def up_block(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
        outputs = layers.ReLU()(batch_norm(f"{name}_b1")(inputs))
        outputs = layers.UpSampling2D()(outputs)
        outputs = _convolution(layers.Conv2D, outputs, width, 3, f"{name}_c1")
        outputs = layers.ReLU()(batch_norm(f"{name}_b2")(outputs))
        outputs = _convolution(layers.Conv2D, outputs, width, 3, f"{name}_c2")
        shortcut = layers.UpSampling2D()(inputs)
        shortcut = _convolution(layers.Conv2D, shortcut, width, 1, f"{name}_c_sc")
        return layers.Add()([outputs, shortcut])

    latents = keras.Input([latent_dim], name="latents")
    first = layers.Dense(
        size * size * width,
        kernel_initializer=torch_kernel(),
        bias_initializer=torch_bias(latent_dim),
        name="l1",
    )
    outputs = first(latents)
    outputs = layers.Reshape([size, size, width])(outputs)
    for block in range(num_blocks):
        outputs = up_block(outputs, f"block{block + 2}")
    outputs = layers.ReLU()(batch_norm("b5")(outputs))
    outputs = _convolution(layers.Conv2D, outputs, image_shape[-1], 3, "c5")
    images = layers.Activation("tanh", dtype="float32", name="images")(outputs)
    return keras.Model(latents, images, name="generator")


@gin.configurable(denylist=["image_shape"])
def sngan_discriminator(image_shape: ImageShape, width: int = 128) -> keras.Model:
    """The discriminator: images [B, H, W, C] in [-1, 1] to logits [B, 1].

    The resolution is halved down to 8x8, at least once, in at least four blocks.

    Args:
        image_shape: (H, W, C); H == W, a multiple of 8.
        width: feature maps of each convolution.

    Returns:
        A functional `keras.Model`.

    Raises:
        InputError: if an argument is not positive or the images have another shape.
    """
    check_positive("sngan_discriminator.width", width)
    _bottom(image_shape)
    num_halvings = max(1, round(math.log2(image_shape[0] / 8)))

    def first_block(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
        outputs = _convolution(SpectralConv2D, inputs, width, 3, f"{name}_c1")
        outputs = layers.ReLU()(outputs)
        outputs = _convolution(SpectralConv2D, outputs, width, 3, f"{name}_c2")
        shortcut = layers.AveragePooling2D(2)(inputs)
        shortcut = _convolution(SpectralConv2D, shortcut, width, 1, f"{name}_c_sc")
        return layers.Add()([layers.AveragePooling2D(2)(outputs), shortcut])

    def block(inputs: keras.KerasTensor, name: str, halve: bool) -> keras.KerasTensor:
        outputs = layers.ReLU()(inputs)
        outputs = _convolution(SpectralConv2D, outputs, width, 3, f"{name}_c1")
        outputs = layers.ReLU()(outputs)
        outputs = _convolution(SpectralConv2D, outputs, width, 3, f"{name}_c2")
        if not halve:
            return layers.Add()([outputs, inputs])
        shortcut = _convolution(SpectralConv2D, inputs, width, 1, f"{name}_c_sc")
        return layers.AveragePooling2D(2)(layers.Add()([outputs, shortcut]))

    images = keras.Input(image_shape, name="images")
    outputs = first_block(images, "block1")
    for index in range(1, max(4, num_halvings)):
        outputs = block(outputs, f"block{index + 1}", halve=index < num_halvings)
    outputs = layers.ReLU()(outputs)
    # A sum, not a mean: logits scale with the number of positions, as in the reference.
    outputs = SumPooling2D()(outputs)
    last = SpectralDense(1, use_bias=False, kernel_initializer=torch_kernel(), name="l5")
    logits = last(outputs)
    return keras.Model(images, logits, name="discriminator")


def _bottom(image_shape: ImageShape) -> tuple[int, int]:
    """The generator's first resolution and its number of doublings: (4, 3) for 32x32."""
    height, width, _ = image_shape
    if height != width or height < 8 or height % 8:
        raise InputError(
            f"SNGAN makes square images whose side is a multiple of 8, got {height}x{width}. "
            "Set `image_size` of the data source, e.g. 32."
        )
    num_blocks = 0
    while height % 2 == 0 and height >= 8:
        height //= 2
        num_blocks += 1
    return height, num_blocks


def _convolution(
    kind: Callable[..., keras.layers.Layer],
    inputs: keras.KerasTensor,
    filters: int,
    kernel_size: int,
    name: str,
) -> keras.KerasTensor:
    """A masked SAME convolution of stride 1, initialised as in the reference."""
    fan_in = inputs.shape[-1] * kernel_size**2
    convolution = kind(
        filters,
        kernel_size,
        padding="same",
        bias_initializer=torch_bias(fan_in),
        name=name,
    )
    return Masked(convolution)(inputs)
