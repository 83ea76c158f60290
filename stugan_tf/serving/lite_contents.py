"""What is in a .tflite file: which weights are stored sparse, and nothing that could do harm.

The interpreter is C++ that trusts much of what a file says. So a file from elsewhere is read here
first, in Python, where a wrong offset is an error and no access to memory: its operations must be
among those that exports of ours use, its constants as long as their shapes say, its sparse ones
well-formed, its sizes bounded.
"""

import functools
import math
import struct
from typing import NamedTuple

import numpy as np

from stugan_tf.adapters.tensorflow_internals import lite_schema
from stugan_tf.errors import InputError
from stugan_tf.serving.graph import MAX_WEIGHTS

schema = lite_schema()

MAX_FILE = 2**31 - 1  # of the format itself
MAX_ENTRIES = 2**14  # tensors, operations, ... of a signature; a large BigGAN has 10**3
MAX_TENSOR = 2**30  # bytes
MAX_TENSORS = 2**34  # bytes; memory of tensors that are not needed at once is shared
OPERATIONS = """
    ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CONCATENATION CONV_2D DENSIFY
    DEPTHWISE_CONV_2D DEQUANTIZE DIV ELU EXP EXPAND_DIMS FULLY_CONNECTED GATHER GELU LEAKY_RELU
    LESS LOG LOGISTIC MAXIMUM MAX_POOL_2D MINIMUM MUL NEG PACK PAD RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SELECT_V2 SHAPE SLICE SOFTMAX SQUEEZE
    STRIDED_SLICE SUB TANH TILE TRANSPOSE TRANSPOSE_CONV
"""
_CODES = {getattr(schema.BuiltinOperator, name): name for name in OPERATIONS.split()}
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


def check_contents(data, path):
    """Raises InputError unless a file is as safe to run as one of ours.

    Args:
        data: its bytes.
        path: for messages.
    """
    if len(data) > MAX_FILE or len(data) < 8 or data[4:8] != b"TFL3":
        raise InputError(f"{path} is no TensorFlow Lite file.")
    try:
        _check_model(schema.Model.GetRootAsModel(data, 0), len(data))
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    except (
        *(struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError),
        *(RecursionError, ArithmeticError, AssertionError),
    ) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}). Copy or export it anew."
        ) from None


def _check_model(model, num_bytes):
    _count(model.SubgraphsLength(), "signatures")
    _count(model.OperatorCodesLength(), "kinds of operations")
    _count(model.SignatureDefsLength(), "signatures")
    # A hostile file may let many of its entries be one and the same.
    _count(model.BuffersLength(), "buffers", 8 * MAX_ENTRIES)
    _count(model.MetadataLength(), "metadata")
    for code in map(model.OperatorCodes, range(model.OperatorCodesLength())):
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number not in _CODES or code.CustomCode() is not None:
            raise InputError(f"it has operation {number}, which no exported generator has.")
    lengths = []
    for buffer in map(model.Buffers, range(model.BuffersLength())):
        if buffer.Offset() or buffer.Size():
            raise InputError("its buffers are outside of it.")
        lengths.append(buffer.DataLength())
    if sum(lengths) > num_bytes:
        raise InputError("its buffers are longer than it is.")
    num_tensors = 0
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        num_tensors += graph.TensorsLength()
        _count(num_tensors, "tensors")
        _check_graph(model, graph, lengths)


def _count(number, what, most=MAX_ENTRIES):
    if number > most:
        raise InputError(f"it has {number:,} {what}; up to {most:,} are read.")


def _check_graph(model, graph, lengths):
    num_tensors = graph.TensorsLength()
    total = weights = 0
    for tensor in map(graph.Tensors, range(num_tensors)):
        size, constant = _check_tensor(model, tensor, lengths)
        total += size
        weights += size * constant
    if total > MAX_TENSORS or weights > 4 * MAX_WEIGHTS:
        raise InputError(f"its tensors take {total:,} bytes, its weights {weights:,}.")
    _count(graph.OperatorsLength(), "operations")
    for operation in map(graph.Operators, range(graph.OperatorsLength())):
        if operation.OpcodeIndex() >= model.OperatorCodesLength():
            raise InputError("it has an operation of no kind.")
        for indices in (
            _numbers(operation.InputsLength, operation.InputsAsNumpy),
            _numbers(operation.OutputsLength, operation.OutputsAsNumpy),
        ):
            # -1 stands for an input that is left out.
            if len(indices) and not -1 <= indices.min() <= indices.max() < num_tensors:
                raise InputError("it has an operation on no tensor.")


def _numbers(length, as_numpy):
    return as_numpy() if length() else np.zeros(0, np.int32)


def _shape(tensor):
    return tuple(int(size) for size in _numbers(tensor.ShapeLength, tensor.ShapeAsNumpy))


def _check_tensor(model, tensor, lengths):
    """The bytes of a tensor, and whether it is a constant."""
    if tensor.Type() not in _DTYPES:
        raise InputError(f"it has tensors of type {tensor.Type()}.")
    if tensor.IsVariable() or tensor.VariantTensorsLength():
        raise InputError("it has tensors that keep a state.")
    shape, dtype = _shape(tensor), _DTYPES[tensor.Type()]
    fixed = _numbers(tensor.ShapeSignatureLength, tensor.ShapeSignatureAsNumpy)
    if len(shape) > 8 or any(size < 0 for size in shape) or any(size < 0 for size in fixed):
        raise InputError(f"it has a tensor of shape {shape}.")
    size = math.prod(shape) * dtype().itemsize
    if size > MAX_TENSOR:
        raise InputError(f"it has a tensor of {size:,} bytes; up to {MAX_TENSOR:,} are allowed.")
    if not 0 <= tensor.Buffer() < len(lengths):
        raise InputError("it has a tensor of no buffer.")
    length = lengths[tensor.Buffer()]
    sparsity = tensor.Sparsity()
    if sparsity is not None:
        _check_sparsity(sparsity, shape, length // dtype().itemsize)
    elif length not in (0, size):
        raise InputError(f"it has a constant of {length:,} bytes in place of {size:,}.")
    return size, length > 0


def _check_sparsity(sparsity, shape, count):
    """Only rows of the last axis may be sparse, as the converter stores convolutions."""
    rank = len(shape)
    order = _numbers(sparsity.TraversalOrderLength, sparsity.TraversalOrderAsNumpy)
    if sparsity.BlockMapLength() or sparsity.DimMetadataLength() != rank or rank == 0:
        raise InputError("it has a sparse constant of blocks.")
    if list(order) != list(range(rank)):
        raise InputError("it has a sparse constant in another order.")
    *dense, last = map(sparsity.DimMetadata, range(rank))
    formats = [axis.Format() for axis in dense]
    sizes = tuple(axis.DenseSize() for axis in dense)
    if any(formats) or sizes != shape[:-1] or last.Format() != schema.DimensionType.SPARSE_CSR:
        raise InputError("it has a sparse constant of another shape.")
    segments, indices = _csr(last)
    if (
        len(segments) != math.prod(shape[:-1]) + 1
        or segments[0] != 0
        or np.any(np.diff(segments.astype(np.int64)) < 0)
        or segments[-1] != count
        or len(indices) != count
        or (count and not 0 <= indices.min() <= indices.max() < shape[-1])
    ):
        raise InputError("it has a sparse constant whose positions are damaged.")


def _csr(axis):
    """Where each row begins, and the positions in the rows."""
    return (
        _vector(axis.ArraySegmentsType(), axis.ArraySegments()),
        _vector(axis.ArrayIndicesType(), axis.ArrayIndices()),
    )


def _vector(kind, table):
    if kind not in _INDICES or table is None:
        raise InputError("it has a sparse constant without positions.")
    holder, dtype = _INDICES[kind]
    vector = holder()
    vector.Init(table.Bytes, table.Pos)
    return _numbers(vector.ValuesLength, functools.partial(_values, vector)).astype(dtype)


def _values(vector):
    return vector.ValuesAsNumpy()
