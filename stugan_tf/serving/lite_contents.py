"""Which weights of a .tflite file that we wrote are stored sparse, and in how many bytes."""

import math
from typing import NamedTuple

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
    """A constant of at least 1 KiB as a dense array."""

    name: str
    shape: tuple
    dtype: str
    num_bytes: int  # in the file, positions included
    sparse: bool
    density: float  # the fraction that is not zero


def stored_weights(data):
    """The `StoredWeight`s of a file of our own writing, each once."""
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    found = []
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        buffer = model.Buffers(tensor.Buffer())
        shape, dtype = _shape(tensor), _DTYPES[tensor.Type()]
        size = math.prod(shape)
        if not buffer.DataLength() or size * dtype().itemsize < 1024:
            continue
        values = np.frombuffer(buffer.DataAsNumpy(), dtype)
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


def _position_bytes(sparsity):
    last = sparsity.DimMetadata(sparsity.DimMetadataLength() - 1)
    return sum(array.nbytes for array in _csr(last))


def _numbers(length, as_numpy):
    return as_numpy() if length() else np.zeros(0, np.int32)


def _shape(tensor):
    return tuple(int(size) for size in _numbers(tensor.ShapeLength, tensor.ShapeAsNumpy))


def _csr(axis):
    """Where each row begins, and the positions in the rows."""
    return (
        _vector(axis.ArraySegmentsType(), axis.ArraySegments()),
        _vector(axis.ArrayIndicesType(), axis.ArrayIndices()),
    )


def _vector(kind, table):
    holder, dtype = _INDICES[kind]
    vector = holder()
    vector.Init(table.Bytes, table.Pos)
    return _numbers(vector.ValuesLength, vector.ValuesAsNumpy).astype(dtype)
