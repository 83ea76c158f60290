"""The networks whose features and logits FID, KID and the Inception Score are computed from.

A configuration chooses one by `Evaluator.extractor = @name`. If the network cannot be loaded, its
function raises `InputError`, before any image is generated.
"""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import gin
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from stugan_tf.adapters.keras_internals import functional, nodes
from stugan_tf.errors import InputError
from stugan_tf.evaluation import efficientnet_lite0 as efficientnet
from stugan_tf.evaluation import inception
from stugan_tf.evaluation.computation import calls_python, sha256_of_computation, traced
from stugan_tf.evaluation.digits_classifier import model as digits
from stugan_tf.evaluation.preprocessing import Preprocessing
from stugan_tf.evaluation.weights import (
    check_sha256,
    sha256_of_bytes,
    sha256_of_keras,
    sha256_of_saved_model,
)
from stugan_tf.files import local_path, without_patterns

TFGAN_INCEPTION = "https://tfhub.dev/tensorflow/tfgan/eval/inception/1"
# Size of the images that try networks for any size; the usual networks need at most 75.
_TRIAL_SIZE = (96, 96)
# Rounding may make outputs of one image differ this much, relative to the largest output.
_SAME = 1e-3

# float32 [B, H, W, C] -> (features, logits or None).
Network: TypeAlias = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]


class Extractor:
    """A network with its preprocessing: uint8 images to features and logits.

    Create it in `strategy.scope()`; call it anywhere, inside `strategy.run` too.

    Attributes:
        name: name in messages and protocols.
        sha256: hex digest of the weights.
        computation: hex digest of what is computed with them, from the images to the outputs.
        preprocessing: `size`, `resize` and `range`, a dict that JSON can hold.
        channels: channels of the network's images, 1 or 3; grey images are repeated to three.
        num_features: number of features of an image.
        num_logits: number of logits; None if there are none, and so no Inception Score.
    """

    def __init__(
        self,
        network: Network,
        preprocess: Preprocessing,
        *,
        name: str,
        sha256: str,
        outputs: Sequence[str | None],
        channels: int = 3,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        """Tries the network on batches of three images: black, noise, ramps.

        Args:
            network: function of float32 [B, H, W, channels] to `(features, logits or None)`.
            preprocess: preprocessing of the images for the network.
            name: name in messages and protocols.
            sha256: hex digest of the weights.
            outputs: names of features and logits, for the protocol.
            channels: channels of the network's images, 1 or 3.
            preprocessing: the preprocessing for the protocol, if the network does part of it.

        Raises:
            InputError: if the network fails on them, its outputs cannot be scored or depend on the
                other images of a batch, or its logits are probabilities.
        """
        if channels not in (1, 3):
            raise InputError(
                f"{name} takes images of {channels} channels; only 1 (grey) and 3 (RGB), as the "
                "last dimension, are supported."
            )
        self._network = network
        self._preprocess = preprocess
        self._outputs = outputs
        self.name = name
        self.sha256 = sha256
        self.channels = channels
        self.preprocessing = preprocessing or preprocess.describe()
        self.num_features, self.num_logits, self.computation = self._try()

    @property
    def protocol(self) -> dict[str, Any]:
        """The extractor's part of a protocol, a dict that JSON can hold."""
        return {
            "name": self.name,
            "sha256": self.sha256[:16],
            "computation": self.computation[:16],
            "preprocessing": self.preprocessing,
            "outputs": self._outputs,
        }

    @tf.autograph.experimental.do_not_convert  # it would wrap our errors in its own
    def __call__(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Computes features and logits.

        Args:
            images: uint8 [B, H, W, 1 or 3].

        Returns:
            Features, float32 [B, D], and logits, float32 [B, K], or None.

        Raises:
            InputError: if the images have another type or shape.
        """
        images = tf.convert_to_tensor(images)
        self._check_images(images)
        if images.shape[-1] < self.channels:
            images = tf.image.grayscale_to_rgb(images)
        features, logits = self._network(self._preprocess(images))
        return self._flat("features", features), self._flat("logits", logits)

    def _check_images(self, images: tf.Tensor) -> None:
        if images.dtype != tf.uint8 or images.shape.rank != 4 or images.shape[-1] not in (1, 3):
            raise InputError(
                f"{self.name} takes images as uint8 [B, H, W, 1 or 3], got {images.dtype.name} "
                f"{images.shape}. Images in [-1, 1] must be converted to 0 .. 255 first."
            )
        if images.shape[-1] > self.channels:
            raise InputError(
                f"{self.name} takes grey images, got RGB. Choose an extractor for RGB images, "
                "e.g. `Evaluator.extractor = @tfhub_inception`."
            )

    def _flat(self, kind: str, outputs: tf.Tensor | None) -> tf.Tensor | None:
        if outputs is None:
            return None
        shape = outputs.shape
        if shape.rank == 4 and shape[1:3].is_compatible_with([1, 1]):
            outputs = tf.squeeze(outputs, [1, 2])
        elif shape.rank != 2:
            raise InputError(
                f"The {kind} of {self.name} have the shape {shape}, expected [B, D]. Choose an "
                "output after global pooling, with one vector for an image."
            )
        return tf.cast(outputs, tf.float32)

    def _try(self) -> tuple[int, int | None, str]:
        """Number of features and of logits, and the digest of the computation."""
        height, width = self._preprocess.size or _TRIAL_SIZE  # type: ignore[misc]
        black, noise, ramp, inverse = _trial_images(height, width, self.channels)
        try:
            # On a replica, as later: only replicas can read mirrored variables of a SavedModel.
            run = traced(self, tf.TensorSpec([3, *black.shape], tf.uint8))
            # The noise is first among some, and last among others.
            batches = ((noise, black, ramp), (inverse, black, noise))
            trials = [run(tf.constant(np.stack(batch))) for batch in batches]
        except InputError:
            raise
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.name} fails on 3 images of {height} x {width} x {self.channels}: "
                f"{_shortened(error)}. If it takes images of one size only, set `size`; its "
                "batch dimension must be None."
            ) from error
        for kind, first, second in zip(("features", "logits"), *trials, strict=True):
            if first is not None:
                self._check_outputs(kind, np.asarray(first), np.asarray(second))
        features, logits = trials[0]
        if logits is not None:
            self._check_logits(np.concatenate([logits for _, logits in trials]))
        self._check_layout(features.shape[1], height, width)
        if calls_python(run):
            logging.warning(
                "%s calls Python code (tf.py_function or tf.numpy_function), which is not in the "
                "digest of what it computes. Give it another name or sha256 whenever that code "
                "changes; otherwise statistics of real images that are kept do not fit it.",
                self.name,
            )
        num_logits = None if logits is None else logits.shape[1]
        return features.shape[1], num_logits, sha256_of_computation(run)

    def _check_outputs(self, kind: str, first: np.ndarray, second: np.ndarray) -> None:
        """Raises InputError unless outputs are finite and of one image each.

        Args:
            kind: name of the outputs.
            first: outputs of a batch that begins with the noise.
            second: outputs of a batch that ends with it.
        """
        if len(first) != 3:
            raise InputError(
                f"The {kind} of {self.name} have the shape {first.shape} for 3 images: its batch "
                "dimension is fixed. Export it with a batch dimension of None."
            )
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise InputError(
                f"The {kind} of {self.name} are not finite for images of black, noise and "
                "ramps: its weights are damaged, or `input_range` is not what it was trained with."
            )
        difference = np.abs(first[0] - second[2]).max()
        largest = max(np.abs(first).max(), np.abs(second).max())
        if difference > _SAME * largest:
            raise InputError(
                f"The {kind} of {self.name} for one image change by {difference:.3g} (the largest "
                f"is {largest:.3g}) with the other images of its batch: they depend on the whole "
                "batch, or on chance. Scores need a network in inference mode: export it with "
                "training=False, with moving statistics and without dropout."
            )

    def _check_layout(self, num_features: int, height: int, width: int) -> None:
        """Raises InputError if there is a feature for each row of the images, whatever their size.

        A network for [B, C, H, W] does that to images [B, H, W, C] if it pools over its H and W.
        """
        if num_features != height:
            return
        higher = tf.zeros([3, height + 16, width, self.channels])
        try:
            features, _ = traced(self._network, tf.TensorSpec(higher.shape, tf.float32))(higher)
        except Exception:
            return  # It is for images of one size, and so not of unknown layout.
        flat = self._flat("features", features)
        if flat is not None and flat.shape[1] == height + 16:
            raise InputError(
                f"The features of {self.name} are as many as an image has rows, whatever its size. "
                "So it takes images [B, C, H, W] and would pool over width and colours. Export it "
                "for images [B, H, W, C]."
            )

    def _check_logits(self, logits: np.ndarray) -> None:
        """Raises InputError if logits are what a softmax makes of them."""
        if (logits >= 0).all() and np.abs(logits.sum(1) - 1).max() < _SAME:
            raise InputError(
                f"The logits of {self.name} are probabilities: all are at least 0, and those of an "
                "image add up to 1. The Inception Score needs what goes into the softmax, and is "
                "wrong for probabilities. Name the layer or output before the softmax (for a Keras "
                "classifier, build it with classifier_activation=None), or set `logits` = None."
            )


def _trial_images(height: int, width: int, channels: int) -> list[np.ndarray]:
    """Images of black, of noise, of a ramp, and of white less half of it: uint8 [H, W, C] each."""
    shape = (height, width, channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ramp = np.linspace(0, 255, height * width * channels).astype(np.uint8).reshape(shape)
    return [np.zeros(shape, np.uint8), noise, ramp, 255 - ramp // 2]


@gin.configurable
def tfhub_inception(
    handle: str = TFGAN_INCEPTION,
    cache_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
) -> Extractor:
    """Inception as TF-GAN uses it, downloaded from TF-Hub once.

    TF-GAN leaves resizing to its callers. Its examples use `tf.image.resize` without antialiasing,
    to 299 x 299 in [-1, 1].

    Args:
        handle: URL or folder of a TF-Hub module that returns `pool_3` and `logits`.
        cache_dir: folder for downloads, by default `stugan_tf/tfhub` in the user's cache.
        sha256: start of the expected digest of its weights, or None.

    Raises:
        InputError: if the module cannot be downloaded or used.
    """
    folder = inception.fetch_module(handle, cache_dir)
    loaded, digest = _load_saved_model("tfhub_inception.handle", folder, sha256)
    if not callable(loaded):
        raise InputError(
            f"tfhub_inception.handle: {handle} cannot be called. It must be a TF2 SavedModel like "
            f"{TFGAN_INCEPTION}; for other SavedModels use @saved_model."
        )
    return Extractor(
        _selected(loaded, "pool_3", "logits", "tfhub_inception"),
        Preprocessing(299, "bilinear", (-1.0, 1.0)),
        name="tfhub_inception",
        sha256=digest,
        outputs=["pool_3", "logits"],
    )


@gin.configurable
def frozen_inception(
    path: str | os.PathLike[str] = gin.REQUIRED, sha256: str | None = None
) -> Extractor:
    """The Inception graph of 2015-12-05, which published scores use.

    It resizes to 299 x 299 by TensorFlow 1's bilinear interpolation. Logits are without the bias.

    Args:
        path: `classify_image_graph_def.pb`, the folder that holds it, or
            `inception-2015-12-05.tgz`.
        sha256: start of the expected digest of the .pb, or None.

    Raises:
        InputError: if the graph cannot be read or used.
    """
    data = inception.read_graph(path)
    digest = sha256_of_bytes(data)
    check_sha256("frozen_inception.sha256", digest, sha256, path)
    graph = inception.parse_graph(data, path)
    try:
        network = inception.network_of_graph(graph)
    except (tf.errors.OpError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"frozen_inception.path: {path} cannot be imported: {_shortened(error)}. Get the "
            f"graph again from {inception.GRAPH_URL}."
        ) from error
    inside = Preprocessing(inception.resized_to(graph), "bilinear_legacy", (0.0, 255.0))
    return Extractor(
        network,
        Preprocessing(None, "none", (0.0, 255.0)),
        name="inception_2015",
        sha256=digest,
        outputs=["pool_3", "logits without bias"],
        preprocessing=inside.describe(),
    )


@gin.configurable
def saved_model(
    path: str | os.PathLike[str] = gin.REQUIRED,
    features: str = "pool",
    logits: str | None = "logits",
    size: tuple[int, int] | int | None = None,
    resize: str = "none",
    input_range: tuple[float, float] = (-1.0, 1.0),
    signature: str = "serving_default",
    sha256: str | None = None,
) -> Extractor:
    """Any network saved as a SavedModel, for example by Keras' `model.export`.

    Args:
        path: folder of the SavedModel.
        features: name of the output with the features.
        logits: name of the output with the logits, or None.
        size: height and width of the network's images; by default those of its signature.
        resize: how images are resized to `size`, see `preprocessing.RESIZE`.
        input_range: the values that 0 and 255 become.
        signature: name of a signature with one input, float [B, H, W, C].
        sha256: start of the expected digest of the weights, or None.

    Raises:
        InputError: if the SavedModel cannot be loaded or used.
    """
    loaded, digest = _load_saved_model("saved_model.path", path, sha256)
    if signature not in loaded.signatures:
        raise InputError(
            f"saved_model.signature: {path} has no signature {signature!r}. "
            + _there_are(loaded.signatures)
        )
    spec = _only_input(loaded.signatures[signature], path)

    def network(images: tf.Tensor) -> Any:
        # Through `loaded`, because nothing else keeps its variables alive.
        return loaded.signatures[signature](**{spec.name: tf.cast(images, spec.dtype)})

    return Extractor(
        _selected(network, features, logits, "saved_model"),
        Preprocessing(size or _size_of(spec.shape), resize, input_range),
        name=f"saved_model {local_path(path, 'saved_model.path').resolve().name}",
        sha256=digest,
        outputs=[features, logits],
        channels=3 if spec.shape.rank is None or spec.shape[-1] is None else spec.shape[-1],
    )


@gin.configurable
def keras_model(
    path: str | os.PathLike[str] = gin.REQUIRED,
    features: str = gin.REQUIRED,
    logits: str | None = None,
    size: tuple[int, int] | int | None = None,
    resize: str = "bilinear_antialias",
    input_range: tuple[float, float] = (0.0, 255.0),
    sha256: str | None = None,
) -> Extractor:
    """Any functional or sequential model saved as a `.keras` file.

    Args:
        path: the file.
        features: name of the layer whose output is the features.
        logits: name of the layer whose output is the logits, or None.
        size: height and width of the network's images; by default those of its input.
        resize: how images are resized to `size`, see `preprocessing.RESIZE`.
        input_range: the values that 0 and 255 become.
        sha256: start of the expected digest of the weights, or None.

    Raises:
        InputError: if the model cannot be loaded or used.
    """
    model = _load_keras_model(path)
    digest = sha256_of_keras(model)
    check_sha256("keras_model.sha256", digest, sha256, path)
    names = {"features": features} | ({"logits": logits} if logits is not None else {})
    outputs = {kind: _output_of(model, kind, name, path) for kind, name in names.items()}
    chosen = keras.Model(model.inputs, outputs)

    def network(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        computed = chosen(images, training=False)
        return computed["features"], computed.get("logits")

    shape = tf.TensorShape(model.inputs[0].shape)
    return Extractor(
        network,
        Preprocessing(size or _size_of(shape), resize, input_range),
        name=f"keras_model {pathlib.Path(path).name}",
        sha256=digest,
        outputs=[features, logits],
        channels=3 if shape.rank != 4 or shape[-1] is None else shape[-1],
    )


@gin.configurable
def digits_classifier() -> Extractor:
    """A small classifier of scikit-learn's digits that comes with the package; see its CARD.md.

    Its scores compare runs on `@digits`; they mean nothing for other images.
    """
    model = digits.load()
    return Extractor(
        lambda images: digits.compute(model, images),
        digits.PREPROCESSING,
        name="digits_classifier",
        sha256=sha256_of_keras(model),
        outputs=["features", "logits"],
        channels=1,
    )


@gin.configurable
def efficientnet_lite0() -> Extractor:
    """EfficientNet-Lite0 with ImageNet weights, which the extra `scores` installs: no download.

    Images are resized to 224 x 224 as `bilinear`. Grey images are repeated to RGB. The weights are
    under the Apache License 2.0.

    Raises:
        NotInstalledError: if the package of the weights is not installed.
        InputError: if its weights are other ones.
    """
    model = efficientnet.load()
    return Extractor(
        lambda images: model(images, training=False),
        efficientnet.PREPROCESSING,
        name="efficientnet_lite0",
        sha256=sha256_of_keras(model),
        outputs=["features", "logits"],
    )


def _load_saved_model(
    setting: str, path: str | os.PathLike[str], sha256: str | None
) -> tuple[Any, str]:
    """`(loaded, digest)` of the SavedModel in a folder, which the gin setting `setting` names."""
    folder = local_path(path, setting)
    what = f"{setting}: {path}"
    if not folder.exists():
        raise InputError(f"{what} does not exist. Give the folder that holds saved_model.pb.")
    if not folder.is_dir() or not tf.saved_model.contains_saved_model(str(folder)):
        raise InputError(
            f"{what} is not a SavedModel: give the folder that holds saved_model.pb. For a .keras "
            "file use @keras_model, for the Inception graph of 2015 @frozen_inception."
        )
    with _unloadable(what), without_patterns(folder) as readable:
        digest = sha256_of_saved_model(readable)
    check_sha256(f"{setting.partition('.')[0]}.sha256", digest, sha256, path)
    with _unloadable(what), without_patterns(folder) as readable:
        return tf.saved_model.load(str(readable)), digest


def _load_keras_model(path: str | os.PathLike[str]) -> keras.Model:
    file = local_path(path, "keras_model.path")
    if not file.is_file():
        raise InputError(
            f"keras_model.path: there is no file {path}. Give a file that `model.save('x.keras')` "
            "wrote; for a SavedModel's folder use @saved_model."
        )
    if not zipfile.is_zipfile(file):
        raise InputError(
            f"keras_model.path: {path} is not a .keras file. Keras 3 writes one by "
            "`model.save('x.keras')`."
        )
    with _unloadable(f"keras_model.path: {path}"):
        model = keras.models.load_model(file, compile=False)
    if len(getattr(model, "inputs", None) or ()) != 1:
        raise InputError(
            f"keras_model.path: {path} must be a functional or sequential model with one input, "
            f"got a {type(model).__name__}. Export other models and use @saved_model."
        )
    return model


@contextlib.contextmanager
def _unloadable(what: str) -> Iterator[None]:
    """Turns any error over a damaged file into an `InputError`."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{what} cannot be loaded: {_shortened(error)}. Copy or export it again; layers of "
            "your own need an `import their_module` in the gin file."
        ) from error


def _only_input(function: Any, path: str | os.PathLike[str]) -> tf.TensorSpec:
    """The TensorSpec of the one input of a signature, with its name."""
    _, inputs = function.structured_input_signature
    specs = list(inputs.values())
    if len(specs) != 1 or not _is_batch_of_images(specs[0]):
        described = ", ".join(f"{spec.name}: {spec.dtype.name} {spec.shape}" for spec in specs)
        raise InputError(
            f"saved_model.signature: the signature of {path} must take one batch of images, "
            f"float [None, H, W, C], but takes {described or 'nothing'}."
        )
    ((name, spec),) = inputs.items()
    return tf.TensorSpec(spec.shape, spec.dtype, name)


def _is_batch_of_images(spec: tf.TensorSpec) -> bool:
    shape = spec.shape
    return spec.dtype.is_floating and (shape.rank is None or (shape.rank == 4 and not shape[0]))


def _selected(
    network: Callable[[tf.Tensor], Any], features: str, logits: str | None, configurable: str
) -> Network:
    """A function from images to the outputs of these names."""

    def select(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        outputs = network(images)
        if not isinstance(outputs, dict):
            raise InputError(
                f"{configurable}: the outputs of the network have no names. Export it with a "
                "dictionary of outputs."
            )
        for kind, name in (("features", features), ("logits", logits)):
            if name not in outputs and (kind, name) != ("logits", None):
                raise InputError(
                    f"{configurable}: there is no output {name!r} to take {kind} from. "
                    f"{_there_are(outputs)} Logits may be None: then there is no Inception Score."
                )
        return outputs[features], outputs[logits] if logits is not None else None

    return select


def _output_of(
    model: keras.Model, kind: str, name: str, path: str | os.PathLike[str]
) -> keras.KerasTensor:
    layers = {layer.name: layer for layer in model.layers}
    if name not in layers:
        raise InputError(f"keras_model.{kind}: {path} has no layer {name!r}. {_there_are(layers)}")
    graph = functional(model)
    calls = sum(node.operation is layers[name] for node in nodes(graph)) if graph else 1
    if calls > 1:
        raise InputError(
            f"keras_model.{kind}: {path} calls the layer {name!r} {calls} times, so its output is "
            "not one. Name a layer that is called once, such as an Identity after the call."
        )
    output = layers[name].output
    if not keras.backend.is_keras_tensor(output):
        raise InputError(f"keras_model.{kind}: the layer {name!r} of {path} has several outputs.")
    return output


def _size_of(shape: tf.TensorShape) -> tuple[int, int] | None:
    """(height, width) of a shape [B, H, W, C] if they are fixed, else None."""
    if shape.rank != 4 or None in (shape[1], shape[2]):
        return None
    return (shape[1], shape[2])


def _there_are(names: Iterable[str]) -> str:
    return f"There are: {', '.join(map(repr, sorted(names))) or 'none'}."


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] + " ..." if len(text) > 300 else text).rstrip(".")
