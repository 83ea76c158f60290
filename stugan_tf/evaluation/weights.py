"""Digests of weights, by which a protocol tells networks apart."""

import hashlib
import pathlib
import re

import numpy as np
import tensorflow as tf

from stugan_tf.errors import InputError


def sha256_of_bytes(data):
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_arrays(named_arrays):
    """Hex digest of (name, array) pairs in their order: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in named_arrays:
        array = np.asarray(array)
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        # The bytes of an array of strings are addresses.
        data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        digest.update(data)
    return digest.hexdigest()


def sha256_of_saved_model(folder):
    """Hex digest of the variables of a SavedModel, or of its graph if it has none.

    Two exports of equal weights differ in their files, but not in this.
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


def sha256_of_keras(model):
    """Hex digest of the weights of a Keras model, seeds of random layers excluded."""
    return sha256_of_arrays((weight.path, weight.value.numpy()) for weight in model.weights)


def sha256_of_folder(folder):
    """Hex digest of all files below a folder, by relative path."""
    digest = hashlib.sha256()
    for path in sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def check_sha256(parameter, found, expected, what):
    """Raises `InputError` unless the digest `found` starts with `expected`.

    Args:
        parameter: What the expected digest is called in a gin file.
        found: 64 hex digits.
        expected: 8 to 64 hex digits, or None to accept any.
        what: Whose weights these are, e.g. a path.
    """
    if expected is None:
        return
    if not isinstance(expected, str) or not re.fullmatch("[0-9a-fA-F]{8,64}", expected):
        raise InputError(
            f"{parameter} must be a string of 8 to 64 hex digits, got {expected!r}. It is the "
            f"start of the digest of the weights; that of {what} is '{found[:16]}'."
        )
    if not found.startswith(expected.lower()):
        raise InputError(
            f"The weights of {what} have the sha256 {found}, expected {expected.lower()}. Scores "
            "of other weights cannot be compared: get the file that was meant, or, if these "
            f"weights are, set {parameter} = '{found[:16]}'."
        )
