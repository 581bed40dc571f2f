"""Files in the safetensors format: written whole or not at all, with settings and a checksum."""

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
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._version import __version__

RESERVED = "__metadata__"  # by safetensors, for what is no tensor
_OWN = "metadata_crc32"


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      format: its name in the metadata.
      versions: those that can be read; the last is the one that is written.
      what: what errors call it.
      repair: what errors advise.
    """

    format: str
    versions: tuple[str, ...]
    what: str
    repair: str


def write(
    path: str | os.PathLike[str],
    kind: Kind,
    tensors: Mapping[str, np.ndarray],
    *,
    settings: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
) -> None:
    """Writes a file beside its place, and moves it there.

    Raises:
      TypeError: if a setting is not JSON.
      FileNotFoundError: if the folder does not exist.
    """
    # Imported here: `import jaxprune` should not pay for what few calls need.
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    document = {
        "format": kind.format,
        "format_version": kind.versions[-1],
        "jaxprune_version": __version__,
        "settings": json.dumps(plain(dict(settings or {}), "settings")),
        **metadata,
        "crc32": str(checksum(tensors)),
    }
    document[_OWN] = str(_checksum_of(document))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist. Make it first.")
    with moved_into_place(path) as temporary:
        save_file(dict(tensors), temporary, metadata=document)


@contextmanager
def opened(path: str | os.PathLike[str], kind: Kind) -> Iterator[tuple[Any, dict[str, str]]]:
    """The open file and its metadata, once it has shown to be of its kind.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is of another kind or version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"there is no {kind.what} {name!r}.")
    try:
        file = safe_open(name, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{name!r} is not a safetensors file ({error}). {kind.repair}") from error
    with file:
        metadata = file.metadata() or {}
        if metadata.get("format") != kind.format:
            raise ValueError(
                f"{name!r} is a safetensors file but not a {kind.what}: its metadata say format "
                f"{metadata.get('format')!r}, not {kind.format!r}. {kind.repair}"
            )
        if metadata.get("format_version") not in kind.versions:
            raise ValueError(
                f"{name!r} has format version {metadata.get('format_version')!r}; jaxprune "
                f"{__version__} reads version {' and '.join(kind.versions)}. Read it with the "
                f"jaxprune that wrote it ({metadata.get('jaxprune_version')})."
            )
        found = str(_checksum_of(metadata))
        if metadata.get(_OWN, found) != found:
            raise ValueError(
                f"{name!r} is damaged: the checksum of its metadata is {found}, but it says "
                f"{metadata[_OWN]}. Save it again."
            )
        yield file, metadata


def _checksum_of(metadata: Mapping[str, str]) -> int:
    held = sorted((key, value) for key, value in metadata.items() if key != _OWN)
    return zlib.crc32(json.dumps(held).encode())


def settings_of(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The settings in the metadata of a file.

    Raises:
      ValueError: if they are damaged.
    """
    return read_json(path, metadata, "settings")


def read_json(
    path: str | os.PathLike[str], metadata: Mapping[str, str], name: str
) -> dict[str, Any]:
    """A JSON object in the metadata of a file.

    Raises:
      ValueError: if it is damaged.
    """
    try:
        found = json.loads(metadata[name])
    except (KeyError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its {name} are no JSON object. Save it again."
        )
    return found


def check_sum(
    path: str | os.PathLike[str], metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Raises if the checksum of a file is not that of its tensors.

    Raises:
      ValueError: with both.
    """
    found = str(checksum(tensors))
    if metadata.get("crc32", found) != found:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its checksum is {found}, but it says "
            f"{metadata['crc32']}. Save it again."
        )


def checksum(tensors: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of names and values, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].tobytes(), value)
    return value


def on_host(path: str, leaf: Any, *, what: str) -> np.ndarray:
    """The values of a leaf, in C order.

    Raises:
      ValueError: if it has none here; ``what`` says what it is a leaf of.
    """
    if _tree.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"the {what} leaf {path!r} is abstract, it has no values. Save outside of jit."
        )
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"parts of the {what} leaf {path!r} lie on devices of other processes. Gather it "
            "first: "
            "jax.experimental.multihost_utils.process_allgather(tree, tiled=True)."
        )
    return np.asarray(leaf, order="C")


def plain(value: Any, name: str) -> Any:
    """``value`` as JSON gives it back; ``name`` is its place in errors."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"{name} has the key {key!r}, but JSON has only strings as keys. Pass str(key)."
                )
        return {key: plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
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
def moved_into_place(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file beside ``path`` that replaces it if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors makes files private to their owner; ours are as the user's umask has them.
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sharding_of(leaf: Any) -> Any:
    """The sharding of a concrete or abstract leaf if it has one over several devices."""
    if _tree.is_traced(leaf) or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    sharding = leaf.sharding
    # An abstract mesh, as eval_shape has it, names no device.
    if sharding is None or isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return None
    return sharding if len(sharding.device_set) > 1 else None
