"""Reads the tensors in a file of `torch.save`, without PyTorch and without running its pickle.

Such a file holds a pickled dictionary of tensors. A pickle may name any function of Python and have
it called. This reader knows tensors, their storages and dictionaries, and refuses all other names.

It is read in the form of PyTorch before 1.6: a number that marks the form, its version, facts about
the machine, the dictionary, the keys of the storages, and for each storage its length and numbers.
"""

import collections
import io
import math
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MARK = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
}


class _Storage(NamedTuple):
    """Numbers in the file."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A strided view of a storage; all counts are in numbers, not in bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary.

    Args:
        data: the bytes of the file.

    Returns:
        {name: array of the type and shape of the tensor}.

    Raises:
        ValueError: if the file is damaged, or holds anything but a dictionary of tensors.
    """
    try:
        tensors, numbers = _read(data)
        return {name: _array(tensor, numbers) for name, tensor in tensors.items()}
    except ValueError:
        raise
    except Exception as error:  # A damaged pickle can raise anything.
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error


def _read(data: bytes) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _MARK:
        raise ValueError("it is not a file of PyTorch before 1.6")
    for _ in ("version", "facts about the machine"):
        _Unpickler(file).load()
    tensors = _checked(_Unpickler(file).load())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {}
    for key in _Unpickler(file).load():
        if key not in storages:
            raise ValueError(f"no tensor uses the storage {key!r}")
        length = int.from_bytes(file.read(8), "little")
        if length != storages[key].length:
            raise ValueError(f"the storage {key!r} has {length} numbers")
        numbers[key] = file.read(length * storages[key].dtype.itemsize)
        if len(numbers[key]) != length * storages[key].dtype.itemsize:
            raise ValueError("it ends early")
    if file.read(1):
        raise ValueError("something follows its last storage")
    return tensors, numbers


def _checked(found: Any) -> dict[str, _Tensor]:
    """What was unpickled, if it is a dictionary of tensors."""
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in found.items()
    ):
        raise ValueError("it does not hold a dictionary of tensors")
    return found


def _array(tensor: _Tensor, numbers: Mapping[str, bytes]) -> np.ndarray:
    """A tensor as an array of its own. Nothing outside of its storage is read."""
    storage, offset, shape, strides = tensor
    counts = (offset, *shape, *strides)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("a tensor has an impossible shape")
    if len(shape) != len(strides):
        raise ValueError("a tensor has another number of strides than dimensions")
    flat = np.frombuffer(numbers[storage.key], storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(flat):
        raise ValueError(f"the storage {storage.key!r} is too short")
    if math.prod(shape) > len(flat):
        raise ValueError(f"a tensor has more numbers than the storage {storage.key!r}")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    steps = [stride * storage.dtype.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
    return view.copy()


class _Unpickler(pickle.Unpickler):
    """Unpickles numbers, texts, lists, dictionaries and tensors, and nothing else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """The meaning of a name in the pickle."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise ValueError(f"it names {module}.{name}, which is not part of a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of a tensor: ('storage', type, key, device, length[, view])."""
        kind, dtype, key, _, length, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise ValueError("it refers to something other than a storage")
        return _Storage(key, dtype, length)


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """What `torch._utils._rebuild_tensor_v2` is called with, as a record."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
