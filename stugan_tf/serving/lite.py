"""A generator for TensorFlow Lite: one signature for each batch size, `batch_1`, `batch_8`...

Each takes latents [B, latent_dim] and, if the model is conditional, labels [B], and makes images
[B, H, W, C] in [-1, 1]. The images of labels that are out of range are not numbers. Batch sizes are
fixed, because the converter cannot convert resized convolutions with a dynamic one. Weights with
enough zeros are stored sparse, except in int8: the CPU kernels refuse dynamic-range quantized
convolutions with sparse weights (TensorFlow 2.21).
"""

import contextlib
import os
import pathlib
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stugan_tf.cores import num_cores
from stugan_tf.errors import InputError
from stugan_tf.serving.bounds import are_classes, blank_unless, clipped
from stugan_tf.serving.interface import Interface
from stugan_tf.serving.lite_contents import StoredWeight, stored_weights

MAX_FILE = 2**31 - 1  # bytes, the most that the format can hold
NO_MIXTURES = (
    "a TensorFlow Lite file takes labels only. Export with --format=saved_model or sparse."
)


def write(
    path: str | os.PathLike[str],
    model: keras.Model,
    interface: Interface,
    precision: str,
    batch_sizes: Sequence[int],
) -> list[StoredWeight]:
    """Writes a .tflite file.

    Args:
        path: path of the file.
        model: a Keras model of latents, or [latents, labels], to images.
        interface: the interface of the generator.
        precision: precision of the weights: 'float32', 'float16' or 'int8', which means
            dynamic-range quantization.
        batch_sizes: batch sizes, one for each signature.

    Returns:
        The weights as they are stored.

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
        except Exception as error:  # The converter has no public class of errors.
            raise InputError(
                "TensorFlow Lite's converter refuses this generator: "
                f"{str(error).strip().splitlines()[0]:.300}. Export it with --format=saved_model."
            ) from error
    pathlib.Path(path).write_bytes(data)
    return stored_weights(data)


def _save(
    folder: str, model: keras.Model, interface: Interface, batch_sizes: Sequence[int]
) -> None:
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]

    def signature(size: int) -> Any:
        specs = [tf.TensorSpec([size, interface.latent_dim], tf.float32, "latents")]
        if interface.conditional:
            specs.append(tf.TensorSpec([size], tf.int32, "labels"))

        def images(latents: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            if labels is None:
                return {"images": tf.cast(model(latents, training=False), tf.float32)}
            given = [latents, clipped(labels, interface.num_classes)]
            made = tf.cast(model(given, training=False), tf.float32)
            return {"images": blank_unless(are_classes(labels, interface.num_classes), made)}

        return tf.function(images, specs, autograph=False).get_concrete_function()

    signatures = {f"batch_{size}": signature(size) for size in batch_sizes}
    tf.saved_model.save(module, folder, signatures=signatures)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the advice to use LiteRT's package, which runs the same files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(
    path: str | os.PathLike[str], interface: Interface
) -> tuple[Callable[..., np.ndarray], str]:
    """Reads the functions `(compute, mix)` of a `ServedGenerator`; they use all cores.

    The interpreter is C++ that trusts its file: call this only for files whose writer you trust.

    Args:
        path: path of a .tflite file that `write` wrote.
        interface: the interface of the generator.

    Raises:
        InputError: if the interpreter refuses the file, or the file does not fit the interface.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > MAX_FILE:
        raise InputError(
            f"{path} has more than {MAX_FILE:,} bytes, the most of a TensorFlow Lite file."
        )
    data = path.read_bytes()
    try:
        with _quietly():
            interpreter = tf.lite.Interpreter(model_content=data, num_threads=num_cores())
            signatures = interpreter.get_signature_list()
            sizes = {int(name.removeprefix("batch_")): name for name in signatures}
            runners = {
                size: interpreter.get_signature_runner(sizes[size]) for size in sorted(sizes)
            }
            for size, runner in runners.items():
                _check_runner(runner, size, interface)
            generate = _Batches(runners, interpreter)
            for size in runners:  # Some faults show only when a signature runs.
                if np.isnan(generate(*_nothing(size, interface))).any():
                    raise ValueError("its images are not numbers, or it has fewer classes")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RuntimeError, UnicodeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be run by TensorFlow Lite ({reason:.200}). Copy or export it again."
        ) from None
    return generate, NO_MIXTURES


def _nothing(size: int, interface: Interface) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents of zeros and, for a conditional generator, labels of the last class."""
    latents = np.zeros([size, interface.latent_dim], np.float32)
    last = np.int32(interface.num_classes - 1)
    return latents, np.full([size], last) if interface.conditional else None


def _check_runner(runner: Any, size: int, interface: Interface) -> None:
    """Raises ValueError unless a signature has the inputs and output of the interface."""
    expected: dict[str, Any] = {"latents": ((size, interface.latent_dim), np.float32)}
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
    """Makes images of any number of latents with signatures of fixed batch sizes.

    Threads that share it take turns: an interpreter has one memory for all its tensors.
    """

    def __init__(self, runners: dict[int, Any], interpreter: Any) -> None:
        if not runners:
            raise InputError("The TensorFlow Lite file has no signature.")
        self._runners = runners
        self._interpreter = interpreter  # Runners do not keep it alive.
        self._lock = threading.Lock()

    def __call__(self, latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        images: list[np.ndarray] = []
        first = 0
        while first < len(latents):
            left = len(latents) - first
            # The largest batch that is full, else the smallest; its surplus images are dropped.
            size = max((s for s in self._runners if s <= left), default=min(self._runners))
            positions = np.minimum(np.arange(first, first + size), len(latents) - 1)
            inputs = {"latents": latents[positions]}
            if labels is not None:
                inputs["labels"] = labels[positions]
            with self._lock:
                images.append(self._runners[size](**inputs)["images"][:left])
            first += size
        return np.concatenate(images)


def notes(weights: list[StoredWeight], precision: str, batch_sizes: Sequence[int]) -> list[str]:
    """Sentences for the model card on how the weights are stored.

    Args:
        weights: the weights that `write` returned.
        precision: precision of the weights.
        batch_sizes: batch sizes of the signatures.
    """
    lines = [f"Batches have {' or '.join(map(str, batch_sizes))} image(s), by fixed signatures."]
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
