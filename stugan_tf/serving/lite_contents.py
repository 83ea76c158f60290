"""Reads from a .tflite file of ours which weights are stored sparse, and in how many bytes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stugan_tf.adapters.tensorflow_internals import lite_schema

schema = lite_schema()

_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.BOOL: np.bool_,
}
_INDICES = {
    schema.SparseIndexVector.Int32Vector: (schema.Int32Vector, np.int32),
    schema.SparseIndexVector.Uint16Vector: (schema.Uint16Vector, np.uint16),
    schema.SparseIndexVector.Uint8Vector: (schema.Uint8Vector, np.uint8),
}


class StoredWeight(NamedTuple):
    """A constant that takes at least 1 KiB as a dense array.

    Attributes:
        name: name of the tensor.
        shape: its dimensions.
        dtype: name of its type.
        num_bytes: bytes in the file, positions included.
        sparse: whether it is stored sparse.
        density: the fraction that is not zero.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    sparse: bool
    density: float


def stored_weights(data: bytes) -> list[StoredWeight]:
    """The weights of a .tflite file that we wrote, each once."""
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    found = []
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        buffer = model.Buffers(tensor.Buffer())
        shape, dtype = _shape(tensor), _DTYPES[tensor.Type()]
        size = math.prod(shape)
        if not buffer.DataLength() or size * dtype().itemsize < 1024:
            continue
        values: Any = np.frombuffer(buffer.DataAsNumpy(), dtype)
        sparsity = tensor.Sparsity()
        found.append(
            StoredWeight(
                tensor.Name().decode(),
                shape,
                dtype.__name__,
                buffer.DataLength() + (0 if sparsity is None else _position_bytes(sparsity)),
                sparsity is not None,
                float(np.count_nonzero(values)) / size,
            )
        )
    return found


def _position_bytes(sparsity: Any) -> int:
    last = sparsity.DimMetadata(sparsity.DimMetadataLength() - 1)
    return sum(array.nbytes for array in _csr(last))


def _numbers(length: Callable[[], int], as_numpy: Callable[[], Any]) -> Any:
    return as_numpy() if length() else np.zeros(0, np.int32)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in _numbers(tensor.ShapeLength, tensor.ShapeAsNumpy))


def _csr(axis: Any) -> tuple[np.ndarray, np.ndarray]:
    """The beginning of each row, and the positions in the rows."""
    return (
        _vector(axis.ArraySegmentsType(), axis.ArraySegments()),
        _vector(axis.ArrayIndicesType(), axis.ArrayIndices()),
    )


def _vector(kind: int, table: Any) -> np.ndarray:
    holder, dtype = _INDICES[kind]
    vector = holder()
    vector.Init(table.Bytes, table.Pos)
    return _numbers(vector.ValuesLength, vector.ValuesAsNumpy).astype(dtype)
