"""A generator for TensorFlow Lite: one signature for each batch size, `batch_1`, `batch_8`...

Each takes latents [B, latent_dim] and, where the model has them, labels [B], and makes images
[B, H, W, C] in [-1, 1]. Sizes are fixed, for a dynamic one stops the converter at resized
convolutions. Weights of which enough are zero are stored sparse, except in int8: the CPU kernels
refuse dynamic-range quantized convolutions whose weights are sparse (TensorFlow 2.21).
"""

import contextlib
import os
import pathlib
import tempfile
import threading
import warnings

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.serving.lite_contents import stored_weights

MAX_FILE = 2**31 - 1  # bytes, the most that the format can hold
NO_MIXTURES = (
    "a TensorFlow Lite file takes labels only. Export with --format=saved_model or sparse."
)


def write(path, model, interface, precision, batch_sizes):
    """Writes a .tflite file.

    Args:
        path: of the file.
        model: a Keras model of latents, or [latents, labels], to images.
        interface: its `Interface`.
        precision: 'float32', 'float16' of the weights, or 'int8': dynamic-range quantization.
        batch_sizes: integers, a signature each.

    Returns:
        A list of `StoredWeight`: what became of the weights.

    Raises:
        InputError: if TensorFlow's converter refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save(folder, model, interface, batch_sizes)
        names = [f"batch_{size}" for size in batch_sizes]
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=names)
        converter.optimizations = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
        if precision != "int8":
            converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            with _quietly():
                data = converter.convert()
        except Exception as error:  # It has no class of errors that is public.
            raise InputError(
                "TensorFlow Lite's converter refuses this generator: "
                f"{str(error).strip().splitlines()[0]:.300}. Export it with --format=saved_model."
            ) from error
    pathlib.Path(path).write_bytes(data)
    return stored_weights(data)


def _save(folder, model, interface, batch_sizes):
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    def signature(size):
        specs = [tf.TensorSpec([size, interface.latent_dim], tf.float32, "latents")]
        if interface.conditional:
            specs.append(tf.TensorSpec([size], tf.int32, "labels"))

        def images(*inputs):
            inputs = inputs if interface.conditional else inputs[0]
            return {"images": tf.cast(model(inputs, training=False), tf.float32)}

        return tf.function(images, specs, autograph=False).get_concrete_function()

    signatures = {f"batch_{size}": signature(size) for size in batch_sizes}
    tf.saved_model.save(module, folder, signatures=signatures)


@contextlib.contextmanager
def _quietly():
    """Without the advice to use LiteRT's package, which runs the same files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path, interface):
    """(compute, mix) of a `ServedGenerator`, on all cores.

    The interpreter is C++ that trusts its file: call this for files whose writer you trust.

    Args:
        path: of a .tflite file of `write`.
        interface: its `Interface`.

    Raises:
        InputError: if the interpreter refuses the file, or it does not fit the interface.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > MAX_FILE:
        raise InputError(
            f"{path} has more than {MAX_FILE:,} bytes, as no TensorFlow Lite file has."
        )
    data = path.read_bytes()
    try:
        with _quietly():
            num_threads = len(os.sched_getaffinity(0))
            interpreter = tf.lite.Interpreter(model_content=data, num_threads=num_threads)
            signatures = interpreter.get_signature_list()
            sizes = {int(name.removeprefix("batch_")): name for name in signatures}
            runners = {
                size: interpreter.get_signature_runner(sizes[size]) for size in sorted(sizes)
            }
            for size, runner in runners.items():
                _check_runner(runner, size, interface)
            generate = _Batches(runners, interpreter)
            for size in runners:  # What cannot run is found when it first runs, and not before.
                generate(*_nothing(size, interface))
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RuntimeError, UnicodeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be run by TensorFlow Lite ({reason:.200}). Copy or export it anew."
        ) from None
    return generate, NO_MIXTURES


def _nothing(size, interface):
    """Latents of zeros and, if there are any, labels of the last class."""
    latents = np.zeros([size, interface.latent_dim], np.float32)
    last = np.int32(interface.num_classes - 1)
    return latents, np.full([size], last) if interface.conditional else None


def _check_runner(runner, size, interface):
    """Raises ValueError unless a signature takes and gives what the interface says."""
    expected = {"latents": ((size, interface.latent_dim), np.float32)}
    if interface.conditional:
        expected["labels"] = ((size,), np.int32)
    for details, wanted in (
        (runner.get_input_details(), expected),
        (runner.get_output_details(), {"images": ((size, *interface.image_shape), np.float32)}),
    ):
        found = {name: (tuple(one["shape"]), one["dtype"]) for name, one in details.items()}
        if found != wanted:
            raise ValueError(f"a signature has {found}, expected {wanted}")


class _Batches:
    """Makes images of any number of latents by signatures of fixed batch sizes.

    Threads that share it wait for each other: an interpreter has one memory for all its tensors.
    """

    def __init__(self, runners, interpreter):
        if not runners:
            raise InputError("The TensorFlow Lite file has no signature.")
        self._runners = runners
        self._interpreter = interpreter  # Runners do not keep it alive.
        self._lock = threading.Lock()

    def __call__(self, latents, labels):
        images, first = [], 0
        while first < len(latents):
            left = len(latents) - first
            # The largest batch that is full, else the smallest, of which some are thrown away.
            size = max((s for s in self._runners if s <= left), default=min(self._runners))
            positions = np.minimum(np.arange(first, first + size), len(latents) - 1)
            inputs = {"latents": latents[positions]}
            if labels is not None:
                inputs["labels"] = labels[positions]
            with self._lock:
                images.append(self._runners[size](**inputs)["images"][:left])
            first += size
        return np.concatenate(images)


def notes(weights, precision, batch_sizes):
    """Sentences on what became of the weights.

    Args:
        weights: of `write`.
        precision: likewise.
        batch_sizes: likewise.
    """
    lines = [f"Batches are of {' or '.join(map(str, batch_sizes))} image(s), by fixed signatures."]
    sparse = [weight for weight in weights if weight.sparse]
    dense = [weight for weight in weights if not weight.sparse and weight.density < 0.5]
    if sparse:
        lines.append(
            f"{len(sparse)} of {len(weights)} weights are stored sparse, in "
            f"{sum(weight.num_bytes for weight in sparse):,} bytes; they are made dense when "
            "loaded, so this saves bytes, not time."
        )
    if precision == "int8":
        lines.append(
            "Nothing is stored sparse: TensorFlow Lite cannot run dynamic-range quantized "
            "convolutions with sparse weights on CPUs."
        )
    elif dense:
        lines.append(
            "Stored dense although mostly zero: "
            f"{', '.join(f'{weight.name} {weight.shape}' for weight in dense)}."
        )
    return lines
