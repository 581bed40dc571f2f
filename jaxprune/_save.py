"""Pruned networks in one file: weights, masks and settings."""

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
from jaxprune.masks import pack_bits, unpack_bits

_KIND = _safetensors.Kind(
    "jaxprune.network", ("1",), "file of a network", "Give jaxprune.load a file of jaxprune.save."
)
_MASK = "jaxprune.mask/"  # before the path of a weight: the name of its mask
# What the format has a word for, and the reader of NumPy arrays, too. The rest is kept as bytes.
_NATIVE = ("bfloat16", "bool", "complex64", "float16", "float32", "float64")
_NATIVE += tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))


def save(
    path: str | os.PathLike[str],
    params: PyTree,
    mask: PyTree | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and its mask to one safetensors file.

    Each weight is a tensor named by its readable path ("Dense_0/kernel"), so that PyTorch reads it
    with ``safetensors.torch.load_file``; dtypes that the format has no word for (float8, float4,
    int4, complex128) are kept as bytes. The mask of a weight is a tensor "jaxprune.mask/PATH" of
    bytes, one bit a weight, 1 = kept, in C order, the first in the lowest bit. The metadata hold
    shapes, dtypes, settings and a checksum. The file appears whole or not at all.

    Args:
      path: the file, by convention ``*.safetensors``; its folder must exist.
      params: any pytree of arrays, of JAX or NumPy. With several processes only one should save.
      mask: their mask, True = kept, `None` where a leaf is not prunable; `None` without one.
      settings: how they were made: strings, finite numbers, booleans, None, and lists and dicts of
        these.

    Raises:
      TypeError: if a leaf is no array, the mask not boolean, or a setting not JSON.
      ValueError: if there is no leaf, two leaves have the same readable path, the mask is of other
        parameters, or a leaf has no values here: in compiled code, or on devices of other
        processes.
      FileNotFoundError: if the folder does not exist.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "network.safetensors"
      >>> params, mask = jp.prune({"kernel": jnp.array([[1.0, 2.0]])}, 0.5)
      >>> jp.save(path, params, mask, settings={"sparsity": 0.5})
      >>> weights, kept = jp.load(path)
      >>> weights["kernel"].tolist(), kept["kernel"].tolist()
      ([[0.0, 2.0]], [[False, True]])

    References:
      https://github.com/huggingface/safetensors: the file format.
    """
    named = _tree.named_leaves(params)
    if not named:
        raise ValueError("the network has no leaf, so there is nothing to save.")
    names = [name for name, _ in named]
    _tree.check_unique(names)
    for name, leaf in named:
        if name == _safetensors.RESERVED or name.startswith(_MASK):
            raise ValueError(f"a leaf is named {name!r}, which the file format needs. Rename it.")
        if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"the leaf {name!r} is no array of numbers, but {type(leaf).__name__}. Save "
                "arrays; of a random key save jax.random.key_data(key)."
            )
    values = {name: _safetensors.on_host(name, leaf, what="weight") for name, leaf in named}
    masks: dict[str, np.ndarray] = {}
    if mask is not None:
        check_bool(mask)
        beside = _tree.beside(_tree.expanded(mask, params), params)
        masks = {name: _safetensors.on_host(name, m, what="mask") for name, m, _ in beside}
    tensors = {name: _as_stored(value) for name, value in values.items()}
    tensors |= {_MASK + name: pack_bits(value) for name, value in masks.items()}
    leaves = {n: {"dtype": x.dtype.name, "shape": list(x.shape)} for n, x in values.items()}
    _safetensors.write(
        path,
        _KIND,
        tensors,
        settings=settings,
        metadata={
            "leaves": json.dumps(leaves),
            "keys": json.dumps(dict(zip(names, _keys(params), strict=True))),
        },
    )


def load(
    path: str | os.PathLike[str], *, like: PyTree | None = None
) -> tuple[PyTree, PyTree | None]:
    """Reads a network that `save` wrote.

    Args:
      path: the file.
      like: parameters, or a tree of `jax.ShapeDtypeStruct`, that the network must fit: the same
        paths, shapes and dtypes.

    Returns:
      The parameters and the mask, or `None` if there is none in the file. With ``like`` they are in
      its structure, each leaf placed like that of ``like`` if that one has a sharding over several
      devices. Without it they are dicts and, where the keys were positions, lists; what other
      containers there were is not kept. Arrays of 64 bits are NumPy's unless JAX has them enabled.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no file of a network, of a version that is not known, or damaged; if it
        does not fit ``like``, naming the first difference.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "network.safetensors"
      >>> jp.save(path, {"layers": [jnp.ones(1), jnp.zeros(1)]})
      >>> jp.load(path)
      ({'layers': [Array([1.], dtype=float32), Array([0.], dtype=float32)]}, None)
    """
    with _safetensors.opened(path, _KIND) as (file, metadata):
        leaves = _checked_leaves(path, _safetensors.read_json(path, metadata, "leaves"))
        keys = _safetensors.read_json(path, metadata, "keys")
        if like is not None:
            _check_fit(path, leaves, like)
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _safetensors.check_sum(path, metadata, stored)
    masks = {name.removeprefix(_MASK): x for name, x in stored.items() if name.startswith(_MASK)}
    held = {name: x for name, x in stored.items() if not name.startswith(_MASK)}
    fits = held.keys() == leaves.keys() == keys.keys() and masks.keys() <= leaves.keys()
    if not fits or not all(map(_is_way, keys.values())):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its tensors are not those that it lists. Save it "
            "again."
        )
    values = {name: _from_stored(path, name, held[name], *leaves[name]) for name in leaves}
    flags = {
        name: unpack_bits(path, _MASK + name, bits, leaves[name][1]) for name, bits in masks.items()
    }
    if like is None:
        tree = _nested(keys, {name: _as_array(value) for name, value in values.items()})
        mask = _nested(keys, {n: jnp.asarray(flags[n]) if n in flags else None for n in leaves})
    else:
        placed = {n: _place(values[n], leaf) for n, leaf in _tree.named_leaves(like)}
        own = {n: _place(flags[n], leaf) for n, leaf in _tree.named_leaves(like) if n in flags}
        tree, mask = (
            jax.tree_util.tree_map_with_path(
                lambda p, x, found=found: found.get(_tree.path_string(p)), like
            )
            for found in (placed, own)
        )
    return tree, mask if masks else None


def _keys(tree: PyTree) -> list[list[Any]]:
    """The keys on the way to each leaf: names, and positions as numbers."""

    def plain(key: Any) -> Any:
        if isinstance(key, jax.tree_util.SequenceKey):
            return key.idx
        if isinstance(key, jax.tree_util.DictKey) and not isinstance(key.key, str):
            return str(key.key)
        return getattr(key, "key", getattr(key, "name", str(key)))

    return [[plain(k) for k in path] for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _is_way(keys: Any) -> bool:
    return isinstance(keys, list) and all(isinstance(key, (str, int)) for key in keys)


def _nested(keys: Mapping[str, Any], values: Mapping[str, Any]) -> PyTree:
    """Values put back by their keys into dicts and lists."""
    root: Any = {}
    for name, value in values.items():
        place = root
        *way, last = ["", *keys[name]]
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return _with_lists(root[""])


def _with_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    inner = {key: _with_lists(value) for key, value in tree.items()}
    positions = all(isinstance(key, int) for key in inner)
    # Positions of leaves that are no arrays are gaps, which a list cannot have.
    if positions and sorted(inner) == list(range(len(inner))):
        return [inner[i] for i in range(len(inner))]
    return inner


def _as_stored(value: np.ndarray) -> np.ndarray:
    if value.dtype.name in _NATIVE:
        return value
    return np.frombuffer(value.tobytes(), np.uint8)


def _from_stored(
    path: Any, name: str, stored: np.ndarray, dtype: Any, shape: tuple[int, ...]
) -> np.ndarray:
    value, size = stored, dtype.itemsize * math.prod(shape)
    if dtype.name not in _NATIVE and (stored.dtype, stored.shape) == (np.uint8, (size,)):
        value = np.frombuffer(stored.tobytes(), dtype).reshape(shape)
    if value.dtype != dtype or value.shape != shape:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: {name!r} is {value.dtype}{list(value.shape)}, and "
            f"should be {dtype}{list(shape)}. Save it again."
        )
    return value


def _checked_leaves(
    path: Any, leaves: dict[str, Any]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    found: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for name, entry in leaves.items():
        try:
            shape = tuple(entry["shape"])
            if any(type(n) is not int or n < 0 for n in shape):
                raise TypeError
            found[name] = jnp.dtype(entry["dtype"]), shape
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged: {entry!r} is no dtype and shape of {name!r}. "
                "Save it again."
            ) from error
    return found


def _check_fit(path: Any, leaves: Mapping[str, Any], like: PyTree) -> None:
    named = _tree.named_leaves(like)
    _tree.check_unique([name for name, _ in named])
    wanted = {name: (jnp.dtype(leaf.dtype), tuple(np.shape(leaf))) for name, leaf in named}
    for name in (*wanted, *leaves):
        ours, theirs = wanted.get(name), leaves.get(name)
        if ours != theirs:
            shown = ("absent" if x is None else f"{x[0]}{list(x[1])}" for x in (theirs, ours))
            raise ValueError(
                f"{os.fspath(path)!r} is of another network than `like`: {name!r} is "
                f"{' in the file, '.join(shown)} in `like`. Pass as `like` the parameters that the "
                "network has."
            )


def _as_array(value: np.ndarray) -> Any:
    narrowed = jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype
    return value if narrowed else jnp.asarray(value)


def _place(value: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return value
    sharding = _safetensors.sharding_of(leaf)
    return _as_array(value) if sharding is None else jax.device_put(value, sharding)
