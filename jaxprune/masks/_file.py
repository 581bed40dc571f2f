"""Masks in files that other frameworks can read: safetensors, one bit a weight."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _safetensors, _tree
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune.masks._like import check_like, fill_like

_KIND = _safetensors.Kind(
    "jaxprune.mask", ("1", "2"), "mask file", "Give `load` a file that `save` wrote."
)


def pack_bits(mask: np.ndarray) -> np.ndarray:
    """A mask as a file holds it: eight weights a byte in C order, the first in the lowest bit."""
    return np.packbits(mask.ravel(), bitorder="little")


def unpack_bits(path: Any, name: str, bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse of `pack_bits`.

    Raises:
      ValueError: if there are not as many bits as there should be.
    """
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: {name!r} holds {bits.dtype}{list(bits.shape)} for "
            f"{size} bits. Save it again."
        )
    return np.unpackbits(bits, count=size, bitorder="little").astype(np.bool_).reshape(shape)


def save(
    path: str | os.PathLike[str], mask: PyTree, *, settings: Mapping[str, Any] | None = None
) -> None:
    """Writes a mask to a safetensors file.

    Each prunable leaf is a tensor of bytes named by its readable path ("Dense_0/kernel"): one bit a
    weight, 1 = kept, in C order, the first in the lowest bit of the first byte. Any reader of
    safetensors can take it apart: ``numpy.unpackbits(tensor, bitorder="little")``, with the shape
    from the metadata. These hold, too, the format and its version, the version of jaxprune, the
    settings as JSON, the counts of kept and of all weights, and a checksum (CRC-32 of all leaves,
    in the order of their names). The file appears whole or not at all: it is written beside its
    place and then moved.

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
    values = {name: _safetensors.on_host(name, leaf, what="mask") for name, leaf in named}
    _safetensors.write(
        path,
        _KIND,
        {name: pack_bits(value) for name, value in values.items()},
        settings=settings,
        metadata={
            "shapes": json.dumps({name: list(value.shape) for name, value in values.items()}),
            "kept": str(_kept(values)),
            "total": str(_tree.size(mask)),
        },
    )


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
    with _safetensors.opened(path, _KIND) as (file, metadata):
        # Headers first: a file of another model is refused before its data are read.
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        packed = metadata["format_version"] != "1"
        for name, part in slices.items():
            if part.get_dtype() != ("U8" if packed else "BOOL"):
                raise ValueError(
                    f"{os.fspath(path)!r} holds {part.get_dtype()} at {name!r}, not "
                    f"{'U8' if packed else 'BOOL'}: it is not a mask file. {_KIND.repair}"
                )
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        if packed:
            shapes = _shapes(path, metadata, shapes)
        if like is not None:
            check_like(shapes, like, what="the file")
        held = {name: file.get_tensor(name) for name in shapes}
    values = held
    if packed:
        values = {name: unpack_bits(path, name, held[name], shapes[name]) for name in shapes}
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
    _safetensors.check_sum(path, metadata, held)
    if like is None:
        return {name: jnp.asarray(value) for name, value in values.items()}
    shardings = {name: _safetensors.sharding_of(x) for name, x in _tree.named_leaves(like)}
    placed = {
        name: jnp.asarray(value)
        if shardings[name] is None
        else jax.device_put(value, shardings[name])
        for name, value in values.items()
    }
    return fill_like(placed, like)


def _shapes(
    path: str | os.PathLike[str], metadata: Mapping[str, str], tensors: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the masks, from the metadata.

    Raises:
      ValueError: if they are damaged, or not those of the tensors.
    """
    found = _safetensors.read_json(path, metadata, "shapes")
    for name, shape in found.items():
        good = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not good or name not in tensors:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged: it has no mask {name!r} of shape {shape!r}. Save "
                "it again."
            )
    if missing := sorted(tensors.keys() - found.keys()):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: it does not say the shape of {missing[0]!r}. Save it "
            "again."
        )
    return {name: tuple(found[name]) for name in tensors}


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
    with _safetensors.opened(path, _KIND) as (_, metadata):
        return _safetensors.settings_of(path, metadata)


def _kept(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(int(np.count_nonzero(value)) for value in tensors.values())
