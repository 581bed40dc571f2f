"""Safetensors files of ours: written whole or not at all, with a checksum, read with suspicion."""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._version import __version__

RESERVED = "__metadata__"  # by safetensors, for what is no tensor
# Two checksums, so that the metadata are known to be whole before the rest is read, and without it.
_OF_WORDS, _OF_TENSORS = "metadata_crc32", "crc32"
_LARGEST = 2**60  # entries
# What every release of safetensors that we allow can name. Other types are written as bytes.
_CODES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
}  # fmt: skip


class Header(NamedTuple):
    """What a file says of a tensor: its type, by the format's name, its shape, where it lies."""

    code: str
    shape: tuple[int, ...]
    start: int
    end: int


class File(NamedTuple):
    """A file whose header has been read, and no tensor yet.

    Attributes:
      path: the file.
      metadata: words by name.
      headers: of each tensor, by name.
    """

    path: str
    metadata: dict[str, str]
    headers: dict[str, Header]

    def read(self, name: str) -> np.ndarray:
        """The bytes of a tensor, uint8 ``[n]``."""
        header = self.headers[name]
        n = header.end - header.start
        raw = np.fromfile(self.path, np.uint8, n, offset=header.start)
        if len(raw) != n:
            self.refuse(f"it ends inside {name!r}")
        return raw

    def read_all(self) -> dict[str, np.ndarray]:
        """The bytes of all tensors.

        Raises:
          ValueError: if their checksum is wrong.
        """
        raw = {name: self.read(name) for name in self.headers}
        self._compare(_OF_TENSORS, _checksum_of_tensors(raw))
        return raw

    def check_metadata(self) -> None:
        """Checks the metadata, which say what the names, types and shapes of tensors should be.

        Raises:
          ValueError: if their checksum is wrong.
        """
        self._compare(_OF_WORDS, _checksum_of_words(self.metadata))

    def _compare(self, which: str, found: int) -> None:
        said = self.metadata.get(which, "nothing")
        if str(found) != said:
            self.refuse(f"its checksum is {found}, but it says {said}")

    def refuse(self, reason: str) -> NoReturn:
        """Raises a ValueError that says what is damaged."""
        raise ValueError(f"{self.path!r} is damaged: {reason}. Save it again.")

    def settings(self) -> dict[str, Any]:
        """The settings that it was saved with.

        Raises:
          ValueError: if they are no JSON object.
        """
        try:
            settings = json.loads(self.metadata["settings"])
        except (KeyError, ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            self.refuse("its settings are no JSON object")
        return settings


def stored_as(dtype: np.dtype, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """How an array is written: the format's name of the type, and the shape.

    complex128 is two float64 along a last axis of its own; narrow types that the format does not
    know are bytes, one an entry.
    """
    if dtype == np.complex128:
        return "F64", (*shape, 2)
    return _CODES.get(dtype.name, "U8"), shape


def _as_stored(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.complex128:
        return x.reshape(-1).view(np.float64).reshape(*x.shape, 2)
    return x if x.dtype.name in _CODES else x.view(np.uint8)


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a file beside its place and moves it there.

    Args:
      path: the file; its folder must exist.
      tensors: arrays in C order, by name. Types that the format does not know: see `stored_as`.
      metadata: words by name; the version of jaxprune and a checksum of all are added.

    Raises:
      FileNotFoundError: if the folder does not exist.
      OSError: if the file cannot be written.
    """
    # Imported here: `import jaxprune` should not pay for what few calls need.
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist. Make it first.")
    metadata = {**metadata, "jaxprune_version": __version__}
    stored = {name: _as_stored(x) for name, x in tensors.items()}
    raw = {name: x.reshape(-1).view(np.uint8) for name, x in stored.items()}
    metadata[_OF_TENSORS] = str(_checksum_of_tensors(raw))
    metadata[_OF_WORDS] = str(_checksum_of_words(metadata))
    with _moved_into_place(path) as temporary:
        try:
            save_file(stored, temporary, metadata=metadata)
        except SafetensorError as error:  # that is how a full disk shows
            raise OSError(f"{path} could not be written ({error}).") from error


def _checksum_of_tensors(raw: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of their names and bytes, whatever their order."""
    checksum = 0
    for name in sorted(raw):
        checksum = zlib.crc32(raw[name].data, zlib.crc32(name.encode(), checksum))
    return checksum


def _checksum_of_words(metadata: Mapping[str, str]) -> int:
    held = sorted((name, word) for name, word in metadata.items() if name != _OF_WORDS)
    return zlib.crc32(json.dumps(held).encode())


def open_file(
    path: str | os.PathLike[str], formats: Mapping[str, tuple[str, ...]], *, what: str
) -> File:
    """Reads the header of a file.

    Args:
      path: the file.
      formats: the formats that will do, each with its versions. The newest must have a checksum.
      what: the word for such a file in errors.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no safetensors file, of another format or version, or its metadata
        are damaged.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    repair = f"Give a {what} that jaxprune wrote."
    if not os.path.isfile(name):
        raise FileNotFoundError(f"there is no {what} {name!r}.")
    try:
        with safe_open(name, framework="numpy"):  # checks that all lies in the file
            pass
        metadata, headers = _read_header(name)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name!r} is not a safetensors file ({error}). {repair}") from error
    if metadata.get("format") not in formats:
        raise ValueError(
            f"{name!r} is a safetensors file but not a {what}: its metadata say format "
            f"{metadata.get('format')!r}, not {' or '.join(map(repr, formats))}. {repair}"
        )
    known = formats[metadata["format"]]
    if metadata.get("format_version") not in known:
        raise ValueError(
            f"{name!r} has format version {metadata.get('format_version')!r}; jaxprune "
            f"{__version__} reads version {' and '.join(known)}. Read it with the jaxprune that "
            f"wrote it ({metadata.get('jaxprune_version')})."
        )
    file = File(name, metadata, headers)
    if metadata["format_version"] == known[-1] or _OF_WORDS in metadata:
        file.check_metadata()
    return file


def _read_header(name: str) -> tuple[dict[str, str], dict[str, Header]]:
    with open(name, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop(RESERVED, {})
    headers = {}
    for tensor, said in header.items():
        start, end = said["data_offsets"]
        headers[tensor] = Header(
            said["dtype"], tuple(said["shape"]), 8 + length + start, 8 + length + end
        )
    return metadata, headers


def on_host(path: str, leaf: Any, *, what: str) -> np.ndarray:
    """The values of a leaf, in C order.

    Raises:
      ValueError: if it has none here.
    """
    if _tree.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"the {what} leaf {path!r} is abstract, it has no values. Save outside jit."
        )
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"parts of the {what} leaf {path!r} lie on devices of other processes. Gather it "
            "first: jax.experimental.multihost_utils.process_allgather(tree, tiled=True)."
        )
    return np.asarray(leaf, order="C")


def is_shape(shape: tuple[Any, ...]) -> bool:
    """Whether a file's word for a shape is one that NumPy can have."""
    lengths = all(type(n) is int and n >= 0 for n in shape)
    return lengths and math.prod(n or 1 for n in shape) <= _LARGEST


def pack_bits(mask: np.ndarray) -> np.ndarray:
    """A mask in one bit a weight, uint8 ``[ceil(n / 8)]``: C order, the first in the lowest bit."""
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_bits(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of a shape that `pack_bits` was given."""
    flags = np.unpackbits(bits, count=math.prod(shape), bitorder="little")
    return flags.reshape(shape).view(bool)


def sharding_of(leaf: Any) -> Any:
    """The sharding of a concrete or abstract leaf if it has one over several devices."""
    if _tree.is_traced(leaf) or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    sharding = leaf.sharding
    # An abstract mesh, as eval_shape has it, names no device.
    if sharding is None or isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return None
    return sharding if len(sharding.device_set) > 1 else None


def to_json(settings: Mapping[str, Any] | None) -> str:
    """Settings as JSON, which gives them back as they are.

    Raises:
      TypeError: naming one that it would not.
    """
    return json.dumps(_plain(dict(settings or {}), "settings"))


def _plain(value: Any, name: str) -> Any:
    """``value`` as JSON gives it back; ``name`` is its place in errors."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"{name} has the key {key!r}, but JSON has only strings as keys. Pass str(key)."
                )
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        # Most readers of JSON take every number as a float64.
        raise TypeError(
            f"{name} is an integer of {value.bit_length()} bits, too large for a number of JSON. "
            "Pass hex(value)."
        )
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if value is None or isinstance(value, str) or is_number:
        return value
    raise TypeError(
        f"{name} is {value!r}, which is not JSON. Pass a string, a finite Python number, a bool, "
        "None, or a list or dict of these."
    )


@contextmanager
def _moved_into_place(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file beside ``path`` that replaces it if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors makes files private to their owner; ours are as the user's umask has them.
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a crash of the machine could leave an empty file in place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
