"""Reading a network that channels were removed from, and what it was before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _safetensors, _tree
from jaxprune._network._file import SHRUNK, filled, to_jax, values
from jaxprune._network._leaves import (
    DTYPES,
    Cut,
    Leaf,
    check_like,
    described,
    fits,
    keys_of,
    nested,
)
from jaxprune._tree import PyTree


class Shrunk(NamedTuple):
    """A network with channels removed, as read.

    Attributes:
      params: its parameters.
      full: a tree like them of the shapes and types before.
      cuts: of the leaves that had channels removed, by their place in `jax.tree.leaves`.
      program: what the file says of the function that runs it; `None` if nothing.
    """

    params: PyTree
    full: PyTree
    cuts: dict[int, Cut]
    program: dict[str, Any] | None


def read_shrunk(path: str | os.PathLike[str], *, like: PyTree | None = None) -> Shrunk:
    """Reads a network that `write` wrote with ``cuts``.

    Args:
      path: the file.
      like: see `load`; the shapes are those of the network before channels were removed, or after.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: as `load`; if a leaf has a type that JAX has only with 64 bits, or cannot be
        spread as that of ``like`` is.
    """
    file = _safetensors.open_file(path, SHRUNK, what="file of a shrunk network")
    leaves = described(file)
    before = [x if x.full is None else x._replace(shape=x.full) for x in leaves]
    if like is not None and not fits(leaves, like):
        check_like(before, like)
    for leaf in leaves:
        dtype = DTYPES.get(leaf.dtype) if not leaf.number else None
        if dtype is not None and jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(
                f"{leaf.name!r} in {file.path!r} is {leaf.dtype}, which JAX has only with "
                "jax.config.update('jax_enable_x64', True). Set it first."
            )
    raw = file.read_all()
    found = values(file, raw, leaves)
    cuts = {leaf.keys: _cut(file, raw, leaf) for leaf in leaves if leaf.kept is not None}
    shapes = {
        leaf.keys: jax.ShapeDtypeStruct(leaf.shape, DTYPES[leaf.dtype])
        for leaf in before
        if leaf.tensor is not None and not leaf.number
    }
    full = {keys: shapes.get(keys, value) for keys, value in found.items()}
    if like is None:
        params = nested([(leaf.path, to_jax(found.get(leaf.keys))) for leaf in leaves])
        whole = nested([(leaf.path, full.get(leaf.keys)) for leaf in leaves])
    else:
        params = filled(found, like)
        whole = jax.tree_util.tree_map_with_path(
            lambda keys, x: x if _tree.is_absent(x) else full[keys_of(keys)],
            like,
            is_leaf=_tree.is_absent,
        )
    places = jax.tree_util.tree_leaves_with_path(whole)
    by_place = {i: cuts.get(keys_of(keys)) for i, (keys, _) in enumerate(places)}
    program = json.loads(file.metadata["program"]) if "program" in file.metadata else None
    return Shrunk(
        params, whole, {i: cut for i, cut in by_place.items() if cut is not None}, program
    )


def _cut(file: _safetensors.File, raw: Mapping[str, np.ndarray], leaf: Leaf) -> Cut:
    assert leaf.kept is not None
    assert leaf.full is not None
    bits = _safetensors.unpack_bits(raw[leaf.kept], (sum(leaf.full),))
    alive = tuple(np.split(bits, np.cumsum(leaf.full)[:-1])) if leaf.full else ()
    if any(int(a.sum()) > n for a, n in zip(alive, leaf.shape, strict=True)):
        file.refuse(f"{leaf.name!r} is smaller than what is left of it")
    return Cut(leaf.full, alive)
