"""BigGAN: the class-conditional residual GAN of Brock et al. (2019), after their PyTorch code.

At 32x32, as for CIFAR-10, all blocks are equally wide, and labels choose the gains and biases of
batch norm from tables (width 64: 4,304,387 and 4,207,361 parameters). Larger images use the
networks for ImageNet: widths fall as the resolution grows, a shared embedding of the label and a
piece of the latents condition each block, and attention follows one block (128x128, width 96:
70,433,988 and 87,982,370 parameters). Both are settings of the same two functions.

Layers have the names of the reference code, and spectral norm is computed as there: see
`layers.spectral`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import keras
from keras import layers

from stugan_tf.checks import check_above_zero, check_function, check_positive
from stugan_tf.errors import InputError
from stugan_tf.layers.conditional import ConditionalBatchNormalization, self_attention
from stugan_tf.layers.initializers import normal_weights, torch_bias
from stugan_tf.layers.masked import Masked
from stugan_tf.layers.pooling import SumPooling2D
from stugan_tf.layers.spectral import SpectralConv2D, SpectralDense, SpectralEmbedding
from stugan_tf.signatures import ImageShape

# Image size -> feature maps of the output of each block, in multiples of `width`.
GENERATOR_WIDTHS = {
    32: (4, 4, 4),
    64: (16, 8, 4, 2),
    128: (16, 8, 4, 2, 1),
    256: (16, 8, 8, 4, 2, 1),
}
DISCRIMINATOR_WIDTHS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}


@gin.configurable(denylist=["image_shape", "num_classes"])
def biggan_generator(
    image_shape: ImageShape,
    num_classes: int,
    width: int = 64,
    latent_dim: int = 128,
    shared_dim: int | None = None,
    hierarchical: bool = False,
    attention_sizes: Sequence[int] = (),
    initializer: Callable[[], keras.initializers.Initializer] = normal_weights,
    spectral_epsilon: float = 1e-8,
    cross_replica_batch_norm: bool = False,
) -> keras.Model:
    """The generator: latents [B, latent_dim] and labels [B] to images [B, H, W, C] in [-1, 1].

    Args:
        image_shape: (H, W, C); H == W, one of 32, 64, 128, 256.
        num_classes: labels are integers below it.
        width: the reference's `ch`, which `GENERATOR_WIDTHS` multiplies.
        latent_dim: length of a latent vector.
        shared_dim: length of the shared embedding of the label. Spectral dense layers turn it into
            the gains and biases of all batch norms. None: each batch norm has tables of its own.
        hierarchical: the first layer sees only the first piece of the latents. Each block is
            conditioned by the shared embedding and a piece of its own.
        attention_sizes: heights of the feature maps that self-attention follows.
        initializer: makes the initializer of kernels and embeddings, as in `layers.initializers`.
        spectral_epsilon: `epsilon` of `layers.spectral`.
        cross_replica_batch_norm: normalise by the statistics of the global batch.

    Returns:
        A functional `keras.Model` of [latents, labels].

    Raises:
        InputError: if an argument cannot work; the message names it.
    """
    name = "biggan_generator"
    widths = _widths(name, image_shape, GENERATOR_WIDTHS, width)
    sizes = [8 * 2**index for index in range(len(widths))]
    _check_attention(name, attention_sizes, sizes, widths)
    _check_condition(latent_dim, shared_dim, hierarchical, num_pieces=1 + len(widths))
    make = _Layers(name, num_classes, initializer, spectral_epsilon)
    statistics: dict[str, Any] = {
        "momentum": 0.9,
        "epsilon": 1e-5,
        "synchronized": cross_replica_batch_norm,
    }

    def of_class(condition: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
        """A gain or bias: a row of a table for a label, or a linear function of a vector."""
        if shared_dim:
            return make.dense(condition, units, name, use_bias=False)
        return make.embedding(layers.Embedding, condition, units, name)

    def normalize(
        inputs: keras.KerasTensor, condition: keras.KerasTensor, name: str
    ) -> keras.KerasTensor:
        gain = of_class(condition, inputs.shape[-1], f"{name}_gain")
        bias = of_class(condition, inputs.shape[-1], f"{name}_bias")
        return ConditionalBatchNormalization(**statistics, name=name)(inputs, gain, bias)

    def up_block(
        inputs: keras.KerasTensor, condition: keras.KerasTensor, filters: int, name: str
    ) -> keras.KerasTensor:
        outputs = layers.ReLU()(normalize(inputs, condition, f"{name}_bn1"))
        outputs = layers.UpSampling2D()(outputs)
        outputs = make.convolution(outputs, filters, 3, f"{name}_conv1")
        outputs = layers.ReLU()(normalize(outputs, condition, f"{name}_bn2"))
        outputs = make.convolution(outputs, filters, 3, f"{name}_conv2")
        shortcut = layers.UpSampling2D()(inputs)
        shortcut = make.convolution(shortcut, filters, 1, f"{name}_conv_sc")
        return layers.Add()([outputs, shortcut])

    latents = keras.Input([latent_dim], name="latents")
    labels = keras.Input([], dtype="int32", name="labels")
    seen_first, conditions = latents, [labels] * len(widths)
    if shared_dim:
        shared = make.embedding(layers.Embedding, labels, shared_dim, "shared")
        conditions = [shared] * len(widths)
    if hierarchical:
        seen_first, *pieces = keras.ops.split(latents, 1 + len(widths), axis=1)
        conditions = [layers.Concatenate()([shared, piece]) for piece in pieces]
    outputs = make.dense(seen_first, 4 * 4 * widths[0], "linear")
    outputs = layers.Reshape([4, 4, widths[0]])(outputs)
    for index, (filters, condition) in enumerate(zip(widths, conditions, strict=True)):
        outputs = up_block(outputs, condition, filters, f"block{index}")
        if outputs.shape[1] in attention_sizes:
            outputs = self_attention(outputs, make.pointwise, f"block{index}_attention")
    outputs = layers.BatchNormalization(**statistics, name="output_bn")(outputs)
    outputs = layers.ReLU()(outputs)
    outputs = make.convolution(outputs, image_shape[-1], 3, "output_conv")
    images = layers.Activation("tanh", dtype="float32", name="images")(outputs)
    return keras.Model([latents, labels], images, name="generator")


@gin.configurable(denylist=["image_shape", "num_classes"])
def biggan_discriminator(
    image_shape: ImageShape,
    num_classes: int,
    width: int = 64,
    attention_sizes: Sequence[int] = (),
    initializer: Callable[[], keras.initializers.Initializer] = normal_weights,
    spectral_epsilon: float = 1e-8,
) -> keras.Model:
    """The discriminator: images [B, H, W, C] in [-1, 1] and labels [B] to logits [B, 1].

    A logit is a linear function of the features plus their product with the label's embedding
    (Miyato and Koyama, 2018).

    Args:
        image_shape: (H, W, C); H == W, one of 32, 64, 128, 256.
        num_classes: labels are integers below it.
        width: the reference's `ch`, which `DISCRIMINATOR_WIDTHS` multiplies.
        attention_sizes: heights of the feature maps that self-attention follows.
        initializer: makes the initializer of kernels and embeddings, as in `layers.initializers`.
        spectral_epsilon: `epsilon` of `layers.spectral`.

    Returns:
        A functional `keras.Model` of [images, labels].

    Raises:
        InputError: if an argument cannot work; the message names it.
    """
    name = "biggan_discriminator"
    widths = _widths(name, image_shape, DISCRIMINATOR_WIDTHS, width)
    smallest = 8 if image_shape[0] == 32 else 4
    sizes = [max(smallest, image_shape[0] // 2**index) for index in range(1, 1 + len(widths))]
    _check_attention(name, attention_sizes, sizes, widths)
    make = _Layers(name, num_classes, initializer, spectral_epsilon)

    def first_block(inputs: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
        outputs = make.convolution(inputs, filters, 3, f"{name}_conv1")
        outputs = make.convolution(layers.ReLU()(outputs), filters, 3, f"{name}_conv2")
        shortcut = layers.AveragePooling2D(2)(inputs)
        shortcut = make.convolution(shortcut, filters, 1, f"{name}_conv_sc")
        return layers.Add()([layers.AveragePooling2D(2)(outputs), shortcut])

    def block(inputs: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
        outputs = make.convolution(layers.ReLU()(inputs), filters, 3, f"{name}_conv1")
        outputs = make.convolution(layers.ReLU()(outputs), filters, 3, f"{name}_conv2")
        halves, shortcut = inputs.shape[1] > smallest, inputs
        if halves or inputs.shape[-1] != filters:
            shortcut = make.convolution(inputs, filters, 1, f"{name}_conv_sc")
        outputs = layers.Add()([outputs, shortcut])
        return layers.AveragePooling2D(2)(outputs) if halves else outputs

    images = keras.Input(image_shape, name="images")
    labels = keras.Input([], dtype="int32", name="labels")
    outputs = images
    for index, filters in enumerate(widths):
        outputs = (block if index else first_block)(outputs, filters, f"block{index}")
        if outputs.shape[1] in attention_sizes:
            outputs = self_attention(outputs, make.pointwise, f"block{index}_attention")
    # A sum, not a mean: logits scale with the number of positions, as in the reference.
    features = SumPooling2D()(layers.ReLU()(outputs))
    embedded = make.embedding(SpectralEmbedding, labels, features.shape[-1], "embed")
    projection = layers.Dot(axes=1)([features, embedded])
    unconditional = make.dense(features, 1, "linear")
    logits = layers.Add()([unconditional, projection])
    return keras.Model([images, labels], logits, name="discriminator")


@dataclasses.dataclass(frozen=True)
class _Layers:
    """Makes and calls the layers of one network, with one initializer and one epsilon."""

    network: str
    num_classes: int
    initializer: Callable[[], keras.initializers.Initializer]
    epsilon: float

    def __post_init__(self) -> None:
        check_positive(f"{self.network}.num_classes", self.num_classes)
        check_function(f"{self.network}.initializer", self.initializer)
        check_above_zero(f"{self.network}.spectral_epsilon", self.epsilon)

    def convolution(
        self,
        images: keras.KerasTensor,
        filters: int,
        kernel_size: int,
        name: str,
        use_bias: bool = True,
    ) -> keras.KerasTensor:
        """A masked SAME convolution of stride 1."""
        layer = SpectralConv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=use_bias,
            kernel_initializer=self.initializer(),
            bias_initializer=torch_bias(images.shape[-1] * kernel_size**2),
            name=name,
            **self._normalization,
        )
        return Masked(layer)(images)

    def pointwise(self, images: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
        """A masked 1x1 convolution without bias."""
        return self.convolution(images, filters, 1, name, use_bias=False)

    def dense(
        self,
        vectors: keras.KerasTensor,
        units: int,
        name: str,
        use_bias: bool = True,
    ) -> keras.KerasTensor:
        """A spectral dense layer, not masked."""
        layer = SpectralDense(
            units,
            use_bias=use_bias,
            kernel_initializer=self.initializer(),
            bias_initializer=torch_bias(vectors.shape[-1]),
            name=name,
            **self._normalization,
        )
        return layer(vectors)

    def embedding(
        self, kind: type, labels: keras.KerasTensor, units: int, name: str
    ) -> keras.KerasTensor:
        """A row for each class, by `layers.Embedding` or `SpectralEmbedding`."""
        normalization = self._normalization if kind is SpectralEmbedding else {}
        layer = kind(
            self.num_classes,
            units,
            embeddings_initializer=self.initializer(),
            name=name,
            **normalization,
        )
        return layer(labels)

    @property
    def _normalization(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "iterate_in_inference": True}


def _widths(
    network: str, image_shape: ImageShape, multiples: Mapping[int, tuple[int, ...]], width: int
) -> list[int]:
    """The feature maps of the output of each block."""
    check_positive(f"{network}.width", width)
    height, width_of_images, _ = image_shape
    if height != width_of_images or height not in multiples:
        raise InputError(
            f"BigGAN makes square images of side {', '.join(map(str, multiples))}, got "
            f"{height}x{width_of_images}. Set `image_size` of the data source, e.g. 32."
        )
    return [width * multiple for multiple in multiples[height]]


def _check_attention(
    network: str, attention_sizes: Sequence[int], sizes: Sequence[int], widths: Sequence[int]
) -> None:
    """Raises InputError unless attention can follow blocks whose outputs have these sizes."""
    if not isinstance(attention_sizes, (tuple, list)) or not set(attention_sizes) <= set(sizes):
        raise InputError(
            f"{network}.attention_sizes must be a tuple of sizes of its feature maps, "
            f"{', '.join(map(str, dict.fromkeys(sizes)))}, got {attention_sizes!r}. One size is "
            "written (64,)."
        )
    for size, filters in zip(sizes, widths, strict=True):
        if size in attention_sizes and filters % 8:
            raise InputError(
                f"{network}.attention_sizes has {size}, where there are {filters} feature maps: "
                f"attention needs a multiple of 8. Choose {network}.width accordingly."
            )


def _check_condition(
    latent_dim: int, shared_dim: int | None, hierarchical: bool, num_pieces: int
) -> None:
    """Raises InputError unless the blocks of the generator can be conditioned."""
    check_positive("biggan_generator.latent_dim", latent_dim)
    if shared_dim is not None:
        check_positive("biggan_generator.shared_dim", shared_dim)
    if not hierarchical:
        return
    if shared_dim is None:
        raise InputError(
            "biggan_generator.hierarchical = True needs the shared embedding, to which each "
            "block's piece of the latents is appended. Set biggan_generator.shared_dim, e.g. 128."
        )
    if latent_dim % num_pieces:
        raise InputError(
            f"biggan_generator.latent_dim = {latent_dim} must be a multiple of {num_pieces}: with "
            "hierarchical latents the first layer and each block have a piece of their own."
        )
