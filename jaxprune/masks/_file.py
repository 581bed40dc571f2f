"""Masks in files that other frameworks can read: safetensors, one bit a weight."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _safetensors, _tree
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune.masks._like import check_like, fill_like

_FORMAT = "jaxprune.mask"
_BYTES, _BITS = "1", "2"  # versions: a weight is a byte, as it was once, or a bit
_FORMATS = {_FORMAT: (_BYTES, _BITS)}


def save(
    path: str | os.PathLike[str], mask: PyTree, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Writes a mask to a safetensors file, one bit a weight.

    Each prunable leaf is a tensor of bytes (U8) named by its readable path ("Dense_0/kernel"): its
    weights in C order, eight a byte, the first in the lowest bit, 1 = kept. Any reader of
    safetensors has it, PyTorch too: ``bits = safetensors.numpy.load_file(path)["Dense_0/kernel"]``,
    ``np.unpackbits(bits, count=n, bitorder="little").reshape(shape)``. The metadata hold the format
    and its version, the version of jaxprune, the shapes and the settings as JSON, the counts of
    kept and of all weights, and a checksum (CRC-32 of all this). The file appears whole or not at
    all: it is written beside its place and then moved. `jaxprune.save` writes the weights, too.

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
    check_bool(mask)
    named = _tree.named_leaves(mask)
    if not named:
        raise ValueError("the mask has no prunable leaf, so there is nothing to save.")
    names = [name for name, _ in named]
    _tree.check_unique(names)
    if _safetensors.RESERVED in names:
        raise ValueError(
            f"the mask has a leaf {_safetensors.RESERVED!r}, a name that safetensors files "
            "reserve. Rename it, or save the mask inside another dict."
        )
    metadata = {
        "format": _FORMAT,
        "format_version": _BITS,
        "settings": _safetensors.to_json(settings),
        "shapes": json.dumps({name: np.shape(leaf) for name, leaf in named}),
    }
    tensors, kept = {}, 0
    for name, leaf in named:
        value = _safetensors.on_host(name, leaf, what="mask")
        kept += int(np.count_nonzero(value))
        tensors[name] = _safetensors.pack_bits(value)
    metadata |= {"kept": str(kept), "total": str(_tree.size(mask))}
    _safetensors.write(path, tensors, metadata)


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
    file = _safetensors.open_file(path, _FORMATS, what="mask file")
    # Headers first: a file of another model is refused before its data are read.
    old = file.metadata["format_version"] == _BYTES
    shapes = _shapes_of_bytes(file) if old else _shapes_of_bits(file)
    if like is not None:
        check_like(shapes, like, what="the file")
    values = _read_bytes(file) if old else _read_bits(file, shapes)
    found = str(_kept(values)), str(sum(map(math.prod, shapes.values())))
    said = file.metadata.get("kept"), file.metadata.get("total")
    if found != said:
        file.refuse(f"it keeps {found[0]} of {found[1]} weights, but says {said[0]} of {said[1]}")
    if like is None:
        return {name: jnp.asarray(value) for name, value in values.items()}
    shardings = {name: _safetensors.sharding_of(leaf) for name, leaf in _tree.named_leaves(like)}
    placed = {
        name: jnp.asarray(value)
        if shardings[name] is None
        else jax.device_put(value, shardings[name])
        for name, value in values.items()
    }
    return fill_like(placed, like)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the settings that `save` or another of jaxprune was given, without reading more.

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
    formats = {**_FORMATS, "jaxprune.network": ("2",), "jaxprune.shrunk": ("1",)}
    return _safetensors.open_file(path, formats, what="mask file").settings()


def _shapes_of_bits(file: _safetensors.File) -> dict[str, tuple[int, ...]]:
    try:
        said = json.loads(file.metadata["shapes"])
        shapes = {name: tuple(shape) for name, shape in said.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        file.refuse("it does not say the shapes of its masks")
    if shapes.keys() != file.headers.keys() or not all(map(_safetensors.is_shape, shapes.values())):
        file.refuse("it does not say the shapes of its masks")
    for name, shape in shapes.items():
        header, n_bytes = file.headers[name], -(-math.prod(shape) // 8)
        if (header.code, header.shape) != ("U8", (n_bytes,)):
            file.refuse(
                f"it holds {header.code}{list(header.shape)} at {name!r}, but a mask of shape "
                f"{shape} is {n_bytes} bytes"
            )
    return shapes


def _read_bits(
    file: _safetensors.File, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    raw = file.read_all()
    return {name: _safetensors.unpack_bits(raw[name], shape) for name, shape in shapes.items()}


def _shapes_of_bytes(file: _safetensors.File) -> dict[str, tuple[int, ...]]:
    for name, header in file.headers.items():
        if header.code != "BOOL":
            raise ValueError(
                f"{file.path!r} holds {header.code} at {name!r}, not BOOL: it is not a mask file. "
                "Give a file that `save` wrote."
            )
    return {name: header.shape for name, header in file.headers.items()}


def _read_bytes(file: _safetensors.File) -> dict[str, np.ndarray]:
    values, checksum = {}, 0
    for name in sorted(file.headers):
        value = file.read(name)
        # Bools may be bytes other than 0 and 1 in a file, which NumPy takes for True and counts so.
        if value.max(initial=0) > 1:
            file.refuse(f"{name!r} holds the byte {value.max()}, but booleans are 0 or 1")
        checksum = zlib.crc32(value.data, zlib.crc32(name.encode(), checksum))
        values[name] = value.view(bool).reshape(file.headers[name].shape)
    if file.metadata.get("crc32", str(checksum)) != str(checksum):  # the first files had none
        file.refuse(f"its checksum is {checksum}, but it says {file.metadata['crc32']}")
    return {name: values[name] for name in file.headers}


def _kept(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(int(np.count_nonzero(value)) for value in tensors.values())
