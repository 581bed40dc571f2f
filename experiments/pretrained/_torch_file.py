"""Tensors out of files of PyTorch before 1.6, without PyTorch.

Such a file is a row of pickles (a magic number, the version, facts of the machine, the tensors as
references, the keys of their storages) and then the storages, each a count and its bytes. A pickle
can run code; here it can name nothing but tensors and dictionaries.
"""

import collections
import os
import pickle
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "u1",
}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Raises:
      ValueError: if it is no such file, or holds something else than tensors by name.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} holds no tensors by name in the format of PyTorch before 1.6 "
            f"({error})."
        ) from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if (magic := _Unpickler(file).load()) != _MAGIC:
        raise pickle.UnpicklingError(f"it begins with {magic!r}")
    if (version := _Unpickler(file).load()) != _VERSION:
        raise pickle.UnpicklingError(f"version {version!r}")
    if not _Unpickler(file).load()["little_endian"]:
        raise pickle.UnpicklingError("it is of a machine of the other byte order")
    unpickler = _Unpickler(file)
    views: dict[str, Any] = dict(unpickler.load())
    storages = {}
    for key in _Unpickler(file).load():
        dtype, size = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != size:
            raise pickle.UnpicklingError(f"storage {key} is of another length than its tensors say")
        storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype, size)
    return {name: view.of(storages) for name, view in views.items()}


class _View:
    """A tensor as the file has it: a stretch of a storage, seen in a shape."""

    def __init__(self, storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def of(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        whole = storages[self.storage]
        furthest = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if self.offset < 0 or min(self.strides, default=0) < 0 or 0 in self.shape:
            raise pickle.UnpicklingError("a tensor is empty or begins before its storage")
        if self.offset + furthest >= len(whole):
            raise pickle.UnpicklingError("a tensor ends after its storage")
        strides = tuple(s * whole.itemsize for s in self.strides)
        seen = np.lib.stride_tricks.as_strided(whole[self.offset :], self.shape, strides)
        return np.ascontiguousarray(seen).reshape(self.shape)  # the first makes [] into [1]


def _rebuild(storage: str, offset: int, shape: Any, strides: Any, *others: Any) -> _View:
    del others  # whether it has a gradient, and hooks
    return _View(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, key, _device, size, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        self.storages[str(key)] = dtype, int(size)
        return str(key)
