"""Files as PyTorch wrote them before 1.6, made without it; and files that would do harm."""

import collections
import io
import os
import pickle
import sys
import types

import numpy as np
import pytest

from stugan_tf.evaluation.torch_file import read_tensors

KINDS = {np.dtype("<f4"): "FloatStorage", np.dtype("<i8"): "LongStorage"}


class Storage:
    """Numbers that a pickle refers to."""

    def __init__(self, key, array):
        self.key, self.array = key, array


@pytest.fixture
def torch(monkeypatch):
    """Stand-ins for the names in PyTorch that a file has, so that `pickle` can write them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in KINDS.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("the file is only written here")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = storage, offset, shape, strides, False, collections.OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Writer(pickle.Pickler):
    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        kind = getattr(sys.modules["torch"], KINDS[obj.array.dtype])
        return "storage", kind, obj.key, "cpu", obj.array.size, None


def written(tensors, storages, mark=0x1950A86A20F9469CFC6C):
    """The bytes of a file."""
    file = io.BytesIO()
    for value in (mark, 1001, {"little_endian": True}):
        pickle.dump(value, file, protocol=2)
    Writer(file, protocol=2).dump(tensors)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(storage.array.size.to_bytes(8, "little") + storage.array.tobytes())
    return file.getvalue()


def test_tensors_are_views_of_storages(torch):
    numbers = Storage("0", np.arange(12, dtype="<f4"))
    count = Storage("1", np.array([7], "<i8"))
    tensors = collections.OrderedDict(
        kernel=Tensor(numbers, 0, (3, 4), (4, 1)),
        turned=Tensor(numbers, 2, (2, 3), (1, 4)),
        scalar=Tensor(count, 0, (), ()),
        empty=Tensor(numbers, 0, (0, 4), (4, 1)),
    )
    found = read_tensors(written(tensors, [numbers, count]))
    whole = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(found["kernel"], whole)
    np.testing.assert_array_equal(found["turned"], whole[:, 2:].T)
    assert found["kernel"].dtype == np.float32
    assert found["scalar"] == 7
    assert found["scalar"].dtype == np.int64
    assert found["empty"].shape == (0, 4)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (3, 5), (5, 1)), (9, (4,), (1,)), (0, (2,), (100,)), (-1, (2,), (1,)), (0, (2,), (-1,))],
)
def test_nothing_outside_of_a_storage_is_read(torch, offset, shape, strides):
    numbers = Storage("0", np.arange(12, dtype="<f4"))
    data = written({"x": Tensor(numbers, offset, shape, strides)}, [numbers])
    with pytest.raises(ValueError, match=r"too short|impossible shape"):
        read_tensors(data)


def test_a_tensor_is_not_larger_than_its_storage(torch):
    numbers = Storage("0", np.arange(12, dtype="<f4"))
    with pytest.raises(ValueError, match="more numbers than the storage"):
        read_tensors(written({"x": Tensor(numbers, 0, (2**40,), (0,))}, [numbers]))


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["dictionary", "mark", "keys"])
def test_a_pickle_that_calls_anything_else_is_refused_before_it_is_called(torch, tmp_path, place):
    numbers = Storage("0", np.zeros(1, "<f4"))
    harm = Harm(tmp_path / "harmed")
    if place == "dictionary":
        data = written({"x": harm}, [numbers])
    elif place == "mark":
        data = pickle.dumps(harm)
    else:
        whole = written({"x": Tensor(numbers, 0, (1,), (1,))}, [numbers])
        keys = pickle.dumps(["0"], protocol=2)
        data = whole.replace(keys, pickle.dumps(harm, protocol=2))
        assert data != whole
    with pytest.raises(ValueError, match=r"it names .*system, which is not part of a tensor"):
        read_tensors(data)
    assert not (tmp_path / "harmed").exists()


def test_what_is_not_such_a_file_is_told(torch):
    numbers = Storage("0", np.zeros(4, "<f4"))
    tensors = {"x": Tensor(numbers, 0, (4,), (1,))}
    data = written(tensors, [numbers])
    for bad, message in (
        (b"", "damaged"),
        (b"PK\3\4 a zip archive", "damaged"),
        (data[:-1], "ends early"),
        (data + b"x", "something follows"),
        (written(tensors, [numbers], mark=1), "not a file of PyTorch"),
        (written({"x": 1}, [numbers]), "dictionary of tensors"),
        (written([1], [numbers]), "dictionary of tensors"),
        (written(tensors, []), "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            read_tensors(bad)
