"""Masks in files that other frameworks can read: safetensors, one bool tensor a leaf."""

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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune._version import __version__
from jaxprune.masks._like import check_like, fill_like

_FORMAT = "jaxprune.mask"
_VERSION = "1"
_RESERVED = "__metadata__"  # by safetensors, for what is no tensor
_REPAIR = "Give `load` a file that `save` wrote."


def save(
    path: str | os.PathLike[str], mask: PyTree, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Writes a mask to a safetensors file.

    Each prunable leaf is a BOOL tensor named by its readable path ("Dense_0/kernel"), True = kept,
    so that PyTorch reads it with ``safetensors.torch.load_file``. The metadata hold the format and
    its version, the version of jaxprune, the settings as JSON, the counts of kept and of all
    weights, and a checksum (CRC-32 of all leaves, in the order of their names). The file appears
    whole or not at all: it is written beside its place and then moved.

    Args:
      path: the file, by convention ``*.safetensors``; its folder must exist.
      mask: a mask, True = kept, `None` where a leaf is not prunable. With several processes only
        one of them should save.
      settings: how the mask was made (sparsity, name of the allocation, seed, ...): strings,
        finite numbers, booleans, None, and lists and dicts of these; tuples become lists.

    Raises:
      TypeError: if a leaf is not boolean, or a setting is not JSON; the message names it.
      ValueError: if the mask has no leaf, two leaves have the same readable path, one is named
        "__metadata__" (the format's own), or a leaf has no values here: in compiled code, or on
        devices of other processes.
      FileNotFoundError: if the folder does not exist.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "mask.safetensors"
      >>> mask = {"kernel": jnp.array([True, False]), "bias": None}
      >>> jp.masks.save(path, mask, settings={"sparsity": 0.5, "allocation": "globally"})
      >>> jp.masks.load(path)
      {'kernel': Array([ True, False], dtype=bool)}
      >>> jp.masks.read_settings(path)
      {'sparsity': 0.5, 'allocation': 'globally'}

    References:
      https://github.com/huggingface/safetensors: the file format.
    """
    # Imported here: `import jaxprune` should not pay for what few calls need.
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    check_bool(mask)
    named = _tree.named_leaves(mask)
    if not named:
        raise ValueError("the mask has no prunable leaf, so there is nothing to save.")
    names = [name for name, _ in named]
    _tree.check_unique(names)
    if _RESERVED in names:
        raise ValueError(
            f"the mask has a leaf {_RESERVED!r}, a name that safetensors files reserve. Rename it, "
            "or save the mask inside another dict."
        )
    document = json.dumps(_plain(dict(settings or {}), "settings"))
    tensors = {name: _on_host(name, leaf) for name, leaf in named}
    metadata = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "jaxprune_version": __version__,
        "settings": document,
        "kept": str(_kept(tensors)),
        "total": str(_tree.size(mask)),
        "crc32": str(_checksum(tensors)),
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist. Make it first.")
    with _moved_into_place(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load(path: str | os.PathLike[str], *, like: PyTree | None = None) -> PyTree:
    """Reads a mask that `save` wrote.

    Args:
      path: the file.
      like: parameters, a mask or a tree of `jax.ShapeDtypeStruct` that the mask must fit: every
        leaf of the file must be a leaf of it, of the same shape. Leaves that the file lacks are
        not prunable; if ``like`` is a mask (all leaves boolean), the file must have them all.

    Returns:
      With ``like`` the mask in its structure, `None` where a leaf is not prunable, each leaf
      placed like that of ``like`` if that one has a sharding over several devices. Without it a
      dict ``{readable path: bool array}``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is no mask file, of a format version that is not known, or damaged;
        if it does not fit ``like``, listing the first differences.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "mask.safetensors"
      >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
      >>> jp.masks.save(path, {"kernel": jnp.array([[True, False]]), "bias": None})
      >>> jp.masks.load(path, like=params)
      {'bias': None, 'kernel': Array([[ True, False]], dtype=bool)}
    """
    with _opened(path) as (file, metadata):
        # Headers first: a file of another model is refused before its data are read.
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for name, part in slices.items():
            if part.get_dtype() != "BOOL":
                raise ValueError(
                    f"{os.fspath(path)!r} holds {part.get_dtype()} at {name!r}, not BOOL: it is "
                    f"not a mask file. {_REPAIR}"
                )
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        if like is not None:
            check_like(shapes, like, what="the file")
        values = {name: file.get_tensor(name) for name in shapes}
    for name, value in values.items():
        # Bools may be bytes other than 0 and 1 in a file, which NumPy takes for True and counts so.
        if value.size and value.view(np.uint8).max() > 1:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged: {name!r} holds the byte "
                f"{value.view(np.uint8).max()}, but booleans are 0 or 1. Save the mask again."
            )
    found = str(_kept(values)), str(sum(math.prod(shape) for shape in shapes.values()))
    if found != (metadata.get("kept"), metadata.get("total")):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: it keeps {found[0]} of {found[1]} weights, but says "
            f"{metadata.get('kept')} of {metadata.get('total')}. Save the mask again."
        )
    if metadata.get("crc32", str(_checksum(values))) != str(_checksum(values)):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its checksum is {_checksum(values)}, but it says "
            f"{metadata['crc32']}. Save the mask again."
        )
    if like is None:
        return {name: jnp.asarray(value) for name, value in values.items()}
    shardings = {name: _sharding(leaf) for name, leaf in _tree.named_leaves(like)}
    placed = {
        name: jnp.asarray(value)
        if shardings[name] is None
        else jax.device_put(value, shardings[name])
        for name, value in values.items()
    }
    return fill_like(placed, like)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the settings that `save` was given, without reading the mask.

    Args:
      path: the file.

    Returns:
      The settings; empty if there were none.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is no mask file, of a format version that is not known, or if its
        settings are damaged.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "mask.safetensors"
      >>> jp.masks.save(path, {"w": jnp.ones(2, bool)}, settings={"seed": 3})
      >>> jp.masks.read_settings(path)
      {'seed': 3}
    """
    with _opened(path) as (_, metadata):
        try:
            settings = json.loads(metadata["settings"])
        except (KeyError, ValueError, RecursionError):
            settings = None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its settings are no JSON object. Save the mask again."
        )
    return settings


def _checksum(tensors: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(tensors[name].tobytes(), checksum)
    return checksum


def _kept(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(int(np.count_nonzero(value)) for value in tensors.values())


def _on_host(path: str, leaf: Any) -> np.ndarray:
    """The values of a leaf, in C order."""
    if _tree.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"the mask leaf {path!r} is abstract, it has no values. Save masks outside jit."
        )
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"parts of the mask leaf {path!r} lie on devices of other processes. Gather it first: "
            "jax.experimental.multihost_utils.process_allgather(mask, tiled=True)."
        )
    return np.asarray(leaf, order="C")


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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, dict[str, str]]]:
    """The open file and its metadata, once it has shown to be a mask file."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"there is no mask file {name!r}.")
    try:
        file = safe_open(name, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{name!r} is not a safetensors file ({error}). {_REPAIR}") from error
    with file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{name!r} is a safetensors file but not a mask file: its metadata say format "
                f"{metadata.get('format')!r}, not {_FORMAT!r}. {_REPAIR}"
            )
        if metadata.get("format_version") != _VERSION:
            raise ValueError(
                f"{name!r} has format version {metadata.get('format_version')!r}; jaxprune "
                f"{__version__} reads version {_VERSION}. Read it with the jaxprune that wrote it "
                f"({metadata.get('jaxprune_version')})."
            )
        yield file, metadata


def _sharding(leaf: Any) -> Any:
    """The sharding of a concrete or abstract leaf if it has one over several devices."""
    if _tree.is_traced(leaf) or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    sharding = leaf.sharding
    # An abstract mesh, as eval_shape has it, names no device.
    if sharding is None or isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return None
    return sharding if len(sharding.device_set) > 1 else None
