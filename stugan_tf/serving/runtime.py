"""Sparse files computed at their non-zeros, by stugan_runtime (`pip install ./runtime`)."""

import importlib
import os
import pathlib
from typing import Any

import numpy as np

from stugan_tf.errors import InputError
from stugan_tf.serving import compact
from stugan_tf.serving.generator import ServedGenerator
from stugan_tf.serving.interface import Interface


def read(path: str | os.PathLike[str], precision: str = "float32") -> ServedGenerator:
    """Reads the generator in a file of the format `sparse`.

    It draws the images that TensorFlow draws, up to rounding. It takes no mixtures of classes.

    Args:
        path: path of the file.
        precision: of sparse convolutions, see `stugan_runtime.load`.

    Raises:
        InputError: if the library is not installed, or refuses the file or the precision.
    """
    try:
        library: Any = importlib.import_module("stugan_runtime")
    except ImportError:
        raise InputError(
            "stugan_runtime is not installed. Install it from the checkout: pip install ./runtime."
        ) from None
    data = pathlib.Path(path).read_bytes()
    try:
        generator = library.loads(data, precision=precision)
    except (library.RuntimeFault, OSError, AttributeError, TypeError) as error:
        # The last two come from a library that is older.
        raise InputError(f"stugan_runtime does not read {path}: {error}") from None
    manifest = compact.read_manifest(data)
    name = f"stugan_runtime {library.__version__} ({generator.instruction_set})"

    def compute(latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return generator(latents=latents, labels=labels, dtype="float32")

    no_mixtures = f'{name} does not. Load it with by="tensorflow".'
    interface = Interface.from_json(manifest.get("interface"))
    return ServedGenerator(interface, compute, manifest, no_mixtures, computed_by=name)
