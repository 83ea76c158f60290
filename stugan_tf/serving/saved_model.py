"""Writes a generator as a SavedModel that needs only TensorFlow, and reads it.

Signatures, all with dynamic batches; `serving_default` is `images_of_latents`:

    images_of_latents    latents [, labels] -> images: float32 in [-1, 1]
    pixels_of_latents    the same -> pixels: uint8
    images_of_seed       seed, num_images, truncation [, class_id] -> images
    pixels_of_seed       the same -> pixels
    images_of_mixtures   latents, class_weights -> images; where labels are embedded
    pixels_of_mixtures   the same -> pixels

`truncation` 0 draws from the whole normal distribution, `class_id` -1 draws each label at random.
The graph refuses other values that are out of bounds. Besides the signatures there is a function
`serve` of one structure, latents or {"latents", "labels"}, to images, as Keras calls it.
"""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.files import without_patterns
from stugan_tf.layers.mixing import mixing_classes
from stugan_tf.randomness import Purpose, fold
from stugan_tf.serving.bounds import MAX_IMAGES, are_classes, blank_unless, clipped, require
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.numbering import numbered_inputs

NO_TRUNCATION = 0.0
ANY_CLASS = -1


def write(folder: str | os.PathLike[str], model: keras.Model, interface: Interface) -> None:
    """Writes a SavedModel.

    Args:
        folder: folder to write to.
        model: a Keras model of latents, or [latents, labels], to images.
        interface: the interface of the generator.
    """
    module = _Module(model, interface)
    tf.saved_model.save(module, str(folder), signatures=module.signatures())


class _Module(tf.Module):
    """The functions of a generator, and its variables."""

    def __init__(self, model, interface):
        super().__init__(name="generator")
        self._interface = interface
        # tf.Module does not find Keras' variables.
        self.weights = [variable.value for variable in model.variables]
        self._call = _shared(model)
        mixing = mixing_or_reason(model, interface)
        self._mix = None if isinstance(mixing, str) else _shared(mixing)
        self.serve = self._of_structure()

    def signatures(self) -> dict[str, Any]:
        """Concrete functions by name."""
        interface = self._interface
        of_latents = self._specs()
        latents = of_latents[0]
        of_seed = [
            tf.TensorSpec([], tf.int64, "seed"),
            tf.TensorSpec([], tf.int32, "num_images"),
            tf.TensorSpec([], tf.float32, "truncation"),
        ]
        if interface.conditional:
            of_seed.append(tf.TensorSpec([], tf.int32, "class_id"))
        kinds = {
            "latents": (self._of_latents, of_latents),
            "seed": (self._of_seed, of_seed),
        }
        if self._mix is not None:
            weights = tf.TensorSpec([None, interface.num_classes], tf.float32, "class_weights")
            kinds["mixtures"] = (self._of_mixtures, [latents, weights])
        found = {}
        for kind, (function, specs) in kinds.items():
            found[f"images_of_{kind}"] = _images(function, specs)
            found[f"pixels_of_{kind}"] = _pixels(function, specs)
        return {"serving_default": found["images_of_latents"], **found}

    def _specs(self):
        """What the generator takes: latents, and labels if it is conditional."""
        latents = tf.TensorSpec([None, self._interface.latent_dim], tf.float32, "latents")
        labels = tf.TensorSpec([None], tf.int32, "labels")
        return [latents, labels] if self._interface.conditional else [latents]

    def _of_structure(self):
        """A function of all inputs in one structure, for `keras.layers.TFSMLayer`."""
        specs = self._specs()
        if not self._interface.conditional:
            return tf.function(self._of_latents, specs, autograph=False)
        structure = {spec.name: spec for spec in specs}
        return tf.function(
            lambda inputs: self._of_latents(inputs["latents"], inputs["labels"]),
            [structure],
            autograph=False,
        )

    def _of_latents(self, latents, labels=None):
        if labels is None:
            return self._shaped(self._call(latents), latents)
        num_classes = self._interface.num_classes
        valid = are_classes(labels, num_classes)
        expected = f"labels must be from 0 to {num_classes - 1}, one for each of the latents"
        is_one_each = tf.equal(tf.size(labels), tf.shape(latents)[0])
        allowed = tf.reduce_all(valid) & is_one_each
        latents, labels = require(allowed, expected, labels, [latents, labels])
        images = self._call([latents, clipped(labels, num_classes)])
        return blank_unless(valid, self._shaped(images, latents))

    def _of_mixtures(self, latents, class_weights):
        shape = tf.shape(class_weights)
        is_one_each = tf.equal(shape[0], tf.shape(latents)[0])
        expected = "class_weights must be one row for each of the latents"
        latents, class_weights = require(is_one_each, expected, shape, [latents, class_weights])
        return self._shaped(self._mix([latents, class_weights]), latents)

    def _shaped(self, images, latents):
        """Images with their shape. TensorFlow gives another one to a batch of none."""
        return tf.reshape(images, [tf.shape(latents)[0], *self._interface.image_shape])

    def _of_seed(self, seed, num_images, truncation, class_id=None):
        interface = self._interface
        (seed,) = require(seed >= 0, "seed must be at least 0", seed, [seed])
        allowed = (num_images > 0) & (num_images <= MAX_IMAGES)
        expected = f"num_images must be from 1 to {MAX_IMAGES}"
        (num_images,) = require(allowed, expected, num_images, [num_images])
        allowed = truncation >= NO_TRUNCATION
        expected = "truncation must be at least 0"
        (truncation,) = require(allowed, expected, truncation, [truncation])
        folded = fold(tf.stack([seed, 0]), Purpose.SAMPLES)

        def draw(limit):
            return numbered_inputs(
                num_images, interface.latent_dim, interface.num_classes, folded, limit
            )

        latents, labels = tf.cond(
            (truncation > NO_TRUNCATION) & tf.math.is_finite(truncation),
            lambda: draw(truncation),
            lambda: draw(None),
        )
        latents = tf.ensure_shape(latents, [None, interface.latent_dim])
        if class_id is None:
            return self._of_latents(latents)
        chosen = tf.where(class_id == ANY_CLASS, labels, class_id)
        return self._of_latents(latents, tf.ensure_shape(chosen, [None]))


def _shared(model):
    """A function that all signatures call, so that its graph is stored once."""
    return tf.function(lambda inputs: model(inputs, training=False), autograph=False)


def mixing_or_reason(model: keras.Model, interface: Interface) -> keras.Model | str:
    """A model that takes weights of classes instead of labels, or the reason why there is none."""
    if not interface.conditional:
        return "the generator was trained without labels."
    try:
        return mixing_classes(model)
    except InputError as error:
        return str(error)


def _images(function, specs):
    def images(*arguments):
        return {"images": tf.cast(function(*arguments), tf.float32)}

    return tf.function(images, specs, autograph=False).get_concrete_function()


def _pixels(function, specs):
    def pixels(*arguments):
        images = tf.cast(function(*arguments), tf.float32)
        images = tf.where(
            tf.math.is_nan(images), -1.0, images
        )  # Black: no integer is "not a number".
        return {"pixels": tf.cast(tf.clip_by_value(127.5 * images + 127.5, 0, 255), tf.uint8)}

    return tf.function(pixels, specs, autograph=False).get_concrete_function()


def read(
    folder: str | os.PathLike[str], interface: Interface
) -> tuple[Callable[..., Any], Callable[..., Any] | str]:
    """Reads the functions `(compute, mix)` of a `ServedGenerator`.

    A SavedModel is a program: call this only for folders whose writer you trust.

    Args:
        folder: folder of the SavedModel.
        interface: the interface of the generator.

    Raises:
        InputError: if it is not a SavedModel, or its signatures do not fit the interface.
    """
    try:
        with without_patterns(folder) as readable:
            loaded = tf.saved_model.load(str(readable))
        signatures = loaded.signatures
    except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise InputError(
            f"{folder} cannot be loaded as a SavedModel ({str(error).splitlines()[0]:.200}). Copy "
            "or export it again."
        ) from None
    _check_signature(folder, signatures, interface)
    # `loaded` must live as long as its functions.
    call = _caller(loaded, "images_of_latents", ("latents", "labels"))
    if "images_of_mixtures" in signatures:
        return call, _caller(loaded, "images_of_mixtures", ("latents", "class_weights"))
    return call, (
        "its labels enter other layers than embeddings."
        if interface.conditional
        else "the generator was trained without labels."
    )


def _check_signature(folder, signatures, interface):
    """Raises InputError unless the signature has the inputs and output of the interface.

    The number of classes is not checked: a signature does not show it.
    """
    expected = {"latents": (None, interface.latent_dim)}
    if interface.conditional:
        expected["labels"] = (None,)
    found, made = {}, None
    if "images_of_latents" in signatures:
        function = signatures["images_of_latents"]
        specs = function.structured_input_signature[1]
        found = {name: tuple(spec.shape) for name, spec in specs.items()}
        made = function.structured_outputs.get("images")
    if found != expected or made is None or tuple(made.shape[1:]) != interface.image_shape:
        raise InputError(
            f"The SavedModel in {folder} has no signature images_of_latents that takes {expected} "
            f"and makes images {interface.image_shape}. Export it again."
        )


def _caller(loaded, signature, names):
    def call(*arrays):
        inputs = {
            name: tf.constant(array)
            for name, array in zip(names, arrays, strict=True)
            if array is not None
        }
        return np.asarray(loaded.signatures[signature](**inputs)["images"])

    return call


def callable_of(
    model: keras.Model, interface: Interface
) -> tuple[Callable[..., Any], Callable[..., Any] | str]:
    """The functions `(compute, mix)` of a `ServedGenerator`, from the Keras model of a graph."""
    mixing = mixing_or_reason(model, interface)
    return _compiled(model), mixing if isinstance(mixing, str) else _compiled(mixing)


def _compiled(model: keras.Model) -> Callable[..., np.ndarray]:
    @tf.function(autograph=False, reduce_retracing=True)
    def run(inputs):
        return tf.cast(model(inputs, training=False), tf.float32)

    def call(latents, labels=None):
        inputs = tf.constant(latents)
        return run(inputs if labels is None else [inputs, tf.constant(labels)]).numpy()

    return call
