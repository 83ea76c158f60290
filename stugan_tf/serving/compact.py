"""A generator in one file that stores only non-zeros: safetensors of values, masks and a manifest.

Each weight is stored as `layer/weight` or, where that is smaller, as its non-zero values,
`layer/weight:values`, and their positions: `:mask` and, if the mask is sparse, `:low`, see
`positions`. The metadata hold the version, the SHA-256 of the file (with zeros in place of its
digits) and a manifest in JSON: Keras' description of the layers, shapes, and all else that belongs
to the model. Reading executes nothing, and the size of the file limits the memory it takes.
"""

import hashlib
import json
import math
import os
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically
from stugan_tf.serving import graph as graphs
from stugan_tf.serving import positions

FORMAT = "stugan_tf.sparse"
VERSION = 1
DTYPES = {"float32": np.float32, "float16": np.float16}
MAX_FILE = 2**31
MAX_HEADER = 2**23
# The most weights for each byte of a file; most of them are zeros.
MAX_EXPANSION = 2**10
# The digest in the metadata. In other texts JSON escapes these quotes.
_DIGEST = '"sha256":"{}"'
_NO_DIGEST = "0" * 64


def write(
    path: str | os.PathLike[str], graph: graphs.Graph, precision: str, manifest: dict[str, Any]
) -> None:
    """Writes a graph to a file, in one piece.

    Args:
        path: path of the file.
        graph: the folded generator.
        precision: precision of the values, 'float32' or 'float16'.
        manifest: a dictionary that JSON can hold; the file's manifest also has `model` and
            `tensors`.

    Raises:
        InputError: if a weight is too large for the precision.
    """
    tensors: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {}
    for name, value in graph.weights().items():
        described[name], parts = _encoded(name, value, DTYPES[precision])
        tensors |= parts
    manifest = {**manifest, "model": json.loads(graphs.to_json(graph)), "tensors": described}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "sha256": _NO_DIGEST,
        "manifest": json.dumps(manifest),
    }
    data = safetensors.numpy.save(tensors, metadata)
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(path, _with_digest(data, _NO_DIGEST, digest))


def _with_digest(data: bytes, former: str, digest: str) -> bytes:
    return data.replace(_DIGEST.format(former).encode(), _DIGEST.format(digest).encode(), 1)


def _encoded(
    name: str, value: np.ndarray, dtype: npt.DTypeLike
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A weight for the file: its description, and tensors by name."""
    value = _cast(name, value, dtype)
    flat = value.ravel()
    mask = flat != 0
    high, low, k = positions.encode(mask)
    described: dict[str, Any] = {"shape": list(value.shape)}
    count = int(np.count_nonzero(mask))
    if count * flat.itemsize + high.nbytes + low.nbytes >= flat.nbytes:
        return described, {name: value}
    described |= {"nonzero": count, "low_bits": k}
    parts = {f"{name}:values": flat[mask], f"{name}:mask": high, f"{name}:low": low}
    return described, {part: array for part, array in parts.items() if array.size}


def _cast(name: str, value: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if not np.all(np.isfinite(cast)):
        raise InputError(
            f"{name} has weights of up to {np.abs(value).max():.3g}, too large for float16. Export "
            "with --precision=float32."
        )
    return cast


def read(path: str | os.PathLike[str]) -> tuple[graphs.Graph, dict[str, Any]]:
    """Reads a file that `write` wrote.

    Args:
        path: path of the file.

    Returns:
        (graph, manifest): the folded generator and the manifest.

    Raises:
        InputError: if the file is damaged or not a sparse file of stugan_tf.
    """
    size = os.path.getsize(path)
    if size > MAX_FILE:
        raise InputError(f"{path} has {size:,} bytes; up to {MAX_FILE:,} are read.")
    with open(path, "rb") as file:
        data = file.read(size)
    try:
        metadata = _metadata(data)
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{path} is not a sparse file of stugan_tf: it does not say format = {FORMAT}."
            )
        if metadata.get("version") != str(VERSION):
            raise InputError(
                f"{path} is of version {metadata.get('version')!r:.20} of its format; this "
                f"stugan_tf reads version {VERSION}. Use the stugan_tf that wrote it, or export it "
                "again."
            )
        _check_digest(path, data, metadata["sha256"])
        manifest = json.loads(metadata["manifest"])
        described = manifest["tensors"]
        _check_sizes(path, described, len(data))
        tensors = safetensors.numpy.load(data)
        weights = {name: _decoded(tensors, name, about) for name, about in described.items()}
        if tensors:
            raise InputError(f"{path} holds {next(iter(tensors))!r:.60}, which is not a weight.")
        return graphs.from_json(json.dumps(manifest["model"]), weights), manifest
    except InputError:
        raise
    except (
        *(LookupError, ValueError, TypeError, AttributeError, struct.error, RecursionError),
        safetensors.SafetensorError,
    ) as error:
        raise InputError(
            f"{path} is damaged or not a sparse file of stugan_tf ({_reason(error)}). Copy or "
            "export it again."
        ) from None


def read_manifest(data: bytes) -> dict[str, Any]:
    """The manifest of a file that was read and checked before.

    Args:
        data: the bytes of the file.
    """
    return json.loads(_metadata(data)["manifest"])


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__


def _metadata(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file, all strings."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata are not text")
    return metadata


def _check_digest(path: str | os.PathLike[str], data: bytes, digest: str) -> None:
    """Raises InputError unless the bytes have the digest that they contain."""
    if len(digest) != 64 or not digest.isalnum():
        raise ValueError("no checksum")
    zeroed = _with_digest(data, digest, _NO_DIGEST)
    if hashlib.sha256(zeroed).hexdigest() != digest:
        raise InputError(f"{path} is damaged: its checksum is wrong. Copy or export it again.")


def _check_sizes(path: str | os.PathLike[str], described: dict[str, Any], num_bytes: int) -> None:
    """Raises InputError if the weights would take too much memory."""
    num_weights = 0
    for about in described.values():
        shape = about["shape"]
        if len(shape) > 8 or not all(type(size) is int and 0 < size < 2**31 for size in shape):
            raise ValueError(f"a shape of {shape!r:.60}")
        num_weights += math.prod(shape)
    most = min(graphs.MAX_WEIGHTS, MAX_EXPANSION * num_bytes)
    if num_weights > most:
        raise InputError(
            f"{path} declares {num_weights:,} weights; up to {most:,} are read from a file of "
            f"{num_bytes:,} bytes."
        )


def _decoded(tensors: dict[str, np.ndarray], name: str, about: dict[str, Any]) -> np.ndarray:
    """A weight, float32; removes its parts from `tensors`."""
    shape = tuple(about["shape"])
    size = math.prod(shape)
    if "nonzero" not in about:
        value = _values(tensors.pop(name))
        if value.shape != shape:
            raise ValueError(f"{name} has another shape")
        return value
    count, k = about["nonzero"], about["low_bits"]
    if type(count) is not int or type(k) is not int:
        raise TypeError(f"{name} has no integers")
    nothing = np.zeros(0, np.uint8)
    values = _values(tensors.pop(f"{name}:values", np.zeros(0, np.float32)))
    high, low = (tensors.pop(f"{name}:{part}", nothing) for part in ("mask", "low"))
    if high.dtype != np.uint8 or low.dtype != np.uint8 or high.ndim != 1 or low.ndim != 1:
        raise TypeError(f"{name} has no mask")
    if values.shape != (count,):
        raise ValueError(f"{name} has {values.shape} values")
    dense = np.zeros(size, np.float32)
    dense[positions.decode(high, low, k, count, size)] = values
    return dense.reshape(shape)


def _values(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.float32, np.float16):
        raise TypeError(f"values of {array.dtype}")
    if not np.all(np.isfinite(array)):
        raise ValueError("values are not finite")
    return array.astype(np.float32)
