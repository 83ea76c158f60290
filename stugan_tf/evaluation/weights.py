"""Digests of weights, by which a protocol tells networks apart."""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stugan_tf.errors import InputError


def sha256_of_bytes(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_arrays(named_arrays: Iterable[tuple[str, npt.ArrayLike]]) -> str:
    """Hex digest of (name, array) pairs in order: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in named_arrays:
        array = np.asarray(array)
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(content(array))
    return digest.hexdigest()


def content(array: np.ndarray) -> bytes:
    """The values of an array as bytes. The memory of an array of strings holds addresses."""
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def sha256_of_saved_model(folder: str | os.PathLike[str]) -> str:
    """Hex digest of the variables of a SavedModel, or of its graph if it has no variables.

    Two exports of equal weights differ in their files, but not in this digest.
    """
    folder = pathlib.Path(folder)
    if not (folder / "variables" / "variables.index").exists():
        graph = next(path for path in folder.glob("saved_model.pb*") if path.is_file())
        return sha256_of_bytes(graph.read_bytes())
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = sorted(
        name
        for name in checkpoint.get_variable_to_shape_map()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH" and not name.startswith("save_counter")
    )
    return sha256_of_arrays((name, checkpoint.get_tensor(name)) for name in names)


def sha256_of_keras(model: keras.Model) -> str:
    """Hex digest of the weights of a Keras model, seeds of random layers excluded."""
    return sha256_of_arrays((weight.path, weight.value.numpy()) for weight in model.weights)


def sha256_of_folder(folder: str | os.PathLike[str]) -> str:
    """Hex digest of all files below a folder, with their relative paths."""
    digest = hashlib.sha256()
    for path in sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def check_sha256(
    parameter: str, found: str, expected: str | None, what: str | os.PathLike[str]
) -> None:
    """Raises `InputError` unless the digest `found` starts with `expected`.

    Args:
        parameter: name of the expected digest in a gin file.
        found: 64 hex digits.
        expected: 8 to 64 hex digits, or None to accept any.
        what: where the weights come from, e.g. a path.
    """
    if expected is None:
        return
    if not isinstance(expected, str) or not re.fullmatch("[0-9a-fA-F]{8,64}", expected):
        raise InputError(
            f"{parameter} must be a string of 8 to 64 hex digits, got {expected!r}. It is the "
            f"start of the digest of the weights; the digest of {what} is '{found[:16]}'."
        )
    if not found.startswith(expected.lower()):
        raise InputError(
            f"The weights of {what} have the sha256 {found}, expected {expected.lower()}. Scores "
            "of other weights cannot be compared: get the expected file, or, if these weights are "
            f"the right ones, set {parameter} = '{found[:16]}'."
        )
