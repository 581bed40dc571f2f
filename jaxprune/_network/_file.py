"""A pruned network in one file that other frameworks can read: weights, mask, paths, settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _host, _mask, _safetensors, _tree
from jaxprune._network._leaves import (
    DTYPES,
    NUMBERS,
    Cut,
    Leaf,
    check_like,
    check_paths,
    described,
    keys_of,
    nested,
    path_of,
)
from jaxprune._tree import PyTree

NETWORK = {"jaxprune.network": ("2",)}
SHRUNK = {"jaxprune.shrunk": ("1",)}  # it says, too, which channels were removed
_MASKS = "jaxprune.mask/"  # what the names of packed masks begin with
_KEPT = "jaxprune.kept/"  # and those of the positions that are left


def save(
    path: str | os.PathLike[str],
    params: PyTree,
    mask: PyTree | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network and its mask to one safetensors file.

    Each leaf is a tensor named by its readable path ("Dense_0/kernel"), so that PyTorch reads the
    weights with ``safetensors.torch.load_file``, in the layout that they have here. They are
    written as they are: apply the mask before (`jaxprune.prune` does), or a reader who does not
    know masks sees the network unpruned. The mask of a leaf is a tensor of bytes under
    "jaxprune.mask/", one bit a weight in C order, the first in the lowest bit, 1 = kept:
    ``np.unpackbits(bits, count=n, bitorder="little").reshape(shape)``. The metadata hold the paths,
    shapes and types, the settings as JSON, the version of jaxprune, and checksums of all this. The
    file appears whole or not at all.

    Of types that safetensors does not know, float4, int4 and the rarer float8 are bytes, one an
    entry, and complex128 is two float64 along a last axis; `load` gives back what was saved. Where
    two leaves have one readable path ({"a": {"b": x}} beside {"a/b": x}), the second is named
    "a/b#2".

    Args:
      path: the file, by convention ``*.safetensors``; its folder must exist.
      params: any pytree of arrays of JAX or NumPy and numbers: pruned, shrunk, or neither. With
        several processes only one of them should save.
      mask: a mask of these parameters, if there is one; `None` in it may stand for a subtree.
      settings: how the network was made (method, sparsity, seed, ...): strings, finite numbers,
        booleans, None, and lists and dicts of these; tuples become lists.

    Raises:
      TypeError: if a leaf of the mask is not boolean, one of the parameters no array of numbers, or
        a setting is not JSON; the message names it.
      ValueError: if there are no parameters, the mask is of others, or a leaf has no values here:
        in compiled code, or on devices of other processes.
      FileNotFoundError: if the folder does not exist.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "network.safetensors"
      >>> params = {"dense": {"kernel": jnp.array([[1.0, -3.0]]), "bias": jnp.zeros(2)}}
      >>> params, mask = jp.prune(params, 0.5)
      >>> jp.save(path, params, mask, settings={"sparsity": 0.5})
      >>> params, mask = jp.load(path)
      >>> params["dense"]["kernel"], mask["dense"]["kernel"]
      (Array([[ 0., -3.]], dtype=float32), Array([[False,  True]], dtype=bool))
      >>> jp.read_settings(path)
      {'sparsity': 0.5}

    References:
      https://github.com/huggingface/safetensors: the file format.
    """
    write(path, params, mask, settings=settings)


def write(
    path: str | os.PathLike[str],
    params: PyTree,
    mask: PyTree | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    cuts: Mapping[tuple[str, ...], Cut] | None = None,
    program: Mapping[str, Any] | None = None,
) -> None:
    """Writes a network, see `save`; one with channels removed where there are ``cuts``.

    Its ``program`` may say what the function is that runs it.
    """
    found = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_nothing)
    if all(_is_nothing(leaf) for _, leaf in found):
        raise ValueError(f"there is no parameter to save: {params!r:.80}.")
    masks = _masks_of(mask, params, found)
    document = _safetensors.to_json(settings)
    leaves: list[Leaf] = []
    tensors: dict[str, np.ndarray] = {}
    for keys, leaf in found:
        of = Leaf(path_of(keys))
        if not _is_nothing(leaf):
            value = _on_host(of.name, leaf)
            tensor = _free(of.name or "parameters", tensors)
            number = not hasattr(leaf, "dtype")
            of = Leaf(of.path, tensor, value.dtype.name, value.shape, number=number)
            tensors[tensor] = value
        leaves.append(of)
    check_paths(leaves)
    for i, own in enumerate(masks):  # later: weights have the first choice
        if own is not None:
            name = _free(f"{_MASKS}{leaves[i].tensor}", tensors)
            tensors[name] = _safetensors.pack_bits(
                _safetensors.on_host(leaves[i].name, own, what="mask")
            )
            leaves[i] = leaves[i]._replace(mask=name)
    for i, leaf in enumerate(leaves):
        if cuts and leaf.tensor is not None and leaf.keys in cuts:
            shape, alive = cuts[leaf.keys]
            name = _free(f"{_KEPT}{leaf.tensor}", tensors)
            tensors[name] = _safetensors.pack_bits(np.concatenate([np.zeros(0, bool), *alive]))
            leaves[i] = leaf._replace(full=shape, kept=name)
    ((form, (version,)),) = (NETWORK if cuts is None else SHRUNK).items()
    metadata = {
        "format": form,
        "format_version": version,
        "settings": document,
        "leaves": json.dumps([leaf.to_json() for leaf in leaves]),
    }
    if program is not None:
        metadata["program"] = json.dumps(program)
    _safetensors.write(path, tensors, metadata)


def load(path: str | os.PathLike[str], *, like: PyTree | None = None) -> tuple[PyTree, PyTree]:
    """Reads a network that `save` wrote, or the parameters that `jaxprune.structured.save` wrote.

    Args:
      path: the file.
      like: parameters, or a tree of `jax.ShapeDtypeStruct`, that the network must fit leaf by leaf:
        paths, shapes and types. Containers may be others.

    Returns:
      The parameters and the mask; instead of a mask `None` if it was saved without one. With
      ``like`` both have its structure, and each leaf lies as that of ``like`` does: spread over the
      same devices, or in NumPy. Without it they are dicts in dicts, and lists where lists or tuples
      were: NamedTuples, dataclasses and other objects become dicts of their fields, keys of dicts
      that are neither strings nor integers become strings, empty containers `None`. Their arrays
      are JAX', but of 64 bits NumPy's while JAX has no such types (``jax_enable_x64``).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file holds no network, one of a format version that is not known, or is
        damaged; if it does not fit ``like``, listing the first differences.

    Example:
      >>> import pathlib, tempfile
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "network.safetensors"
      >>> jp.save(path, ({"w": jnp.eye(2)}, jnp.ones(2)))
      >>> params, mask = jp.load(path)
      >>> params
      [{'w': Array([[1., 0.],
             [0., 1.]], dtype=float32)}, Array([1., 1.], dtype=float32)]
      >>> like = jax.eval_shape(lambda: ({"w": jnp.zeros((2, 2))}, jnp.zeros(2)))
      >>> params, mask = jp.load(path, like=like)
      >>> type(params).__name__, mask
      ('tuple', None)
    """
    file = _safetensors.open_file(path, {**NETWORK, **SHRUNK}, what="network file")
    leaves = described(file)
    if like is not None:
        check_like(leaves, like)  # before the data are read
    raw = file.read_all()
    found, masks = values(file, raw, leaves), _masks(raw, leaves)
    if like is None:
        params = nested([(leaf.path, to_jax(found.get(leaf.keys))) for leaf in leaves])
        flags = [(leaf.path, to_jax(masks.get(leaf.keys))) for leaf in leaves]
        return params, nested(flags) if masks else None

    def flag(keys: Any, leaf: Any) -> Any:
        value = None if _tree.is_absent(leaf) else masks.get(keys_of(keys))
        return None if value is None else _placed(value, leaf)

    flags = jax.tree_util.tree_map_with_path(flag, like, is_leaf=_tree.is_absent)
    return filled(found, like), flags if masks else None


def values(
    file: _safetensors.File, raw: Mapping[str, np.ndarray], leaves: Sequence[Leaf]
) -> dict[tuple[str, ...], Any]:
    """The leaves that a file holds, by their keys: arrays of NumPy, numbers of Python."""
    return {leaf.keys: _decoded(file, raw, leaf) for leaf in leaves if leaf.tensor is not None}


def _masks(
    raw: Mapping[str, np.ndarray], leaves: Sequence[Leaf]
) -> dict[tuple[str, ...], np.ndarray]:
    return {
        leaf.keys: _safetensors.unpack_bits(raw[leaf.mask], leaf.shape)
        for leaf in leaves
        if leaf.mask is not None
    }


def filled(values: Mapping[tuple[str, ...], Any], like: PyTree) -> PyTree:
    """The values in a tree like another, each where the leaf there lies."""

    def weight(keys: Any, leaf: Any) -> Any:
        if _tree.is_absent(leaf):
            return leaf
        value = values[keys_of(keys)]
        if isinstance(leaf, np.generic):
            return value[()]
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return value
        try:
            return _placed(value, leaf)
        except ValueError as error:
            if np.shape(value) == np.shape(leaf):
                raise
            raise ValueError(
                f"{_tree.path_string(keys)!r} has shape {np.shape(value)} and cannot be spread "
                f"over devices as `like` is, which has {np.shape(leaf)}: {error} Pass a `like` "
                "without shardings (jax.eval_shape) and place the parameters afterwards."
            ) from error

    return jax.tree_util.tree_map_with_path(weight, like, is_leaf=_tree.is_absent)


def _is_nothing(x: Any) -> bool:
    """Whether a tree has no leaf here: `None`, or an empty container."""
    return _tree.is_absent(x) or (isinstance(x, dict | list | tuple) and not x)


def _masks_of(mask: PyTree | None, params: PyTree, found: list[tuple[Any, Any]]) -> list[Any]:
    """The mask of each leaf of the parameters, as they were found; `None` where it has none."""
    if mask is None:
        return [None] * len(found)
    mask = _tree.expanded(mask, params)
    _mask.check_given(mask)
    _tree.check_matches(mask, params)
    rest = iter(jax.tree.leaves(mask, is_leaf=_tree.is_absent))
    # Empty containers have no leaf in the mask either.
    of_leaves = [next(rest) if x is None or not _is_nothing(x) else None for _, x in found]
    for (keys, leaf), own in zip(found, of_leaves, strict=True):
        if _tree.is_absent(leaf) and not _tree.is_absent(own):
            raise ValueError(
                f"the mask has a leaf at {_tree.path_string(keys)!r}, but the parameters have "
                "none there. Make the mask from these very parameters."
            )
    return [None if _tree.is_absent(own) else own for own in of_leaves]


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number if another tensor has it."""
    number, free = 1, name
    while free in taken or free == _safetensors.RESERVED:
        number += 1
        free = f"{name}#{number}"
    return free


def _on_host(name: str, leaf: Any) -> np.ndarray:
    """The values of a leaf on the host, in the byte order of files."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name!r} holds random keys, which are no parameters. Save their numbers: "
            "jax.random.key_data(keys)."
        )
    value = _safetensors.on_host(name, leaf, what="parameters'")
    if value.dtype.name not in DTYPES:
        raise TypeError(
            f"{name!r} is a {type(leaf).__name__} of dtype {value.dtype}, which no file of weights "
            "can hold. Leave it out, or make it an array of numbers that JAX knows."
        )
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def _decoded(file: _safetensors.File, raw: Mapping[str, np.ndarray], leaf: Leaf) -> Any:
    assert leaf.tensor is not None
    if leaf.dtype == "bool" and raw[leaf.tensor].max(initial=0) > 1:
        file.refuse(f"{leaf.name!r} holds a byte that is no boolean")
    value = raw[leaf.tensor].view(DTYPES[leaf.dtype]).reshape(leaf.shape)
    return NUMBERS[leaf.dtype](value[()]) if leaf.number else value


def _placed(value: np.ndarray, like: Any) -> jax.Array:
    """The value as JAX array, spread as ``like`` is if that is known."""
    sharding = _safetensors.sharding_of(like)
    return _host.to_jax(value, like) if sharding is None else jax.device_put(value, sharding)


def to_jax(value: Any) -> Any:
    """The value as JAX array, if JAX has its type."""
    if isinstance(value, np.ndarray) and jax.dtypes.canonicalize_dtype(value.dtype) == value.dtype:
        return jax.device_put(value)
    return value
