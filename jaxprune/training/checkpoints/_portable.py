"""A state as named arrays that can be stored: keys as numbers, masks in bits, nothing empty."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune import _eager, _host, _tree, masks
from jaxprune._tree import PyTree

# One odd multiplier each for where an entry stands and for what it holds (Knuth; Steele).
_PLACE, _CONTENT = 0x9E3779B1, 0x85EBCA77
_CHUNK = 2**18  # entries that stay in a processor's cache


def to_arrays(tree: PyTree) -> dict[str, jax.Array]:
    """The arrays of a tree by readable path, as a file can hold them.

    Random keys become their numbers, boolean arrays one bit an entry (`jaxprune.masks.pack`).
    Empty arrays are left out: their shape says all.

    Args:
      tree: any pytree of arrays.

    Returns:
      Arrays by path; they lie where those of the tree do, and share no buffer with packed ones.
    """
    out = {}
    for name, leaf in _named(tree):
        if _is_key(leaf):
            out[name] = jax.random.key_data(leaf)
        elif _is_mask(leaf):
            out[name] = _eager.Row(leaf)
        elif leaf.size:
            out[name] = leaf
    return dict(zip(out, _eager.together(_packed, [*out.values()]), strict=True))


def _packed(mask: jax.Array) -> jax.Array:
    return masks.pack({"mask": mask}).bits["mask"]


def shapes_of(like: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    """What `to_arrays` gives for a tree: shapes, types, and where the arrays are to lie."""
    shapes = jax.eval_shape(lambda: to_arrays(_blank(like)))
    leaves = dict(_named(like))
    return {
        name: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=_fitting(leaves[name].sharding, shape.shape)
        )
        for name, shape in shapes.items()
    }


def from_arrays(arrays: Mapping[str, jax.Array], like: PyTree) -> PyTree:
    """The tree that `to_arrays` was given; ``like`` has its structure, shapes and types."""

    def one(name: str, leaf: jax.Array) -> jax.Array:
        if not leaf.size:
            return leaf
        if _is_key(leaf):
            return jax.random.wrap_key_data(arrays[name], impl=jax.random.key_impl(leaf))
        if _is_mask(leaf):
            shape = jax.eval_shape(masks.pack, {"mask": jax.ShapeDtypeStruct(leaf.shape, bool)})
            packed = jax.tree.unflatten(jax.tree.structure(shape), [arrays[name]])
            return jax.device_put(masks.unpack(packed)["mask"], leaf.sharding)
        return arrays[name]

    leaves = [one(name, leaf) for name, leaf in _named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def digests(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
    """A checksum of each array, the same however it is spread over devices.

    The sum modulo 2**32 of a hash of place and content of each entry: it sees lost, changed and
    exchanged entries, and needs no array in one place.
    """
    views = [_host.view(x) for x in arrays.values()]
    if all(view is not None for view in views):
        values = map(_digest_on_host, views)
    else:
        values = map(int, jax.device_get(_digests(list(arrays.values()))))
    return dict(zip(arrays, values, strict=True))


# One program for all: many small ones with collectives in flight can deadlock on simulated devices.
@jax.jit
def _digests(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_digest(x) for x in arrays]


def _digest(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, width)  # of 8 bytes: two words along a new axis
    words = words.astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        place = place * jnp.uint32(words.shape[axis] % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = (words + place * jnp.uint32(_PLACE)) * jnp.uint32(_CONTENT)
    mixed ^= mixed >> 15
    return jnp.sum(mixed * jnp.uint32(_PLACE), dtype=jnp.uint32)


def _digest_on_host(x: Any) -> int:
    """The same by NumPy, which has nothing to compile."""
    words = x.reshape(-1).view(f"uint{8 * min(x.dtype.itemsize, 4)}")
    total = 0
    for start in range(0, len(words), _CHUNK):
        mixed = words[start : start + _CHUNK].astype(np.uint32)
        place = np.arange(start, start + len(mixed), dtype=np.uint64).astype(np.uint32)
        mixed += place * np.uint32(_PLACE)
        mixed *= np.uint32(_CONTENT)
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(_PLACE)
        total += int(mixed.sum(dtype=np.uint64))
    return total % 2**32


def host_digest(x: Any) -> int:
    """A checksum of an array or text of the host."""
    data = x.encode() if isinstance(x, str) else np.ascontiguousarray(x).tobytes()
    return zlib.crc32(data)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    """Leaves by path; a path that another leaf has too gets a number."""
    seen: dict[str, int] = {}
    out = []
    for path, leaf in _tree.named_leaves(tree):
        seen[path] = seen.get(path, 0) + 1
        out.append((path if seen[path] == 1 else f"{path}#{seen[path]}", leaf))
    return out


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_mask(leaf: Any) -> bool:
    return leaf.dtype == bool and leaf.ndim > 0 and leaf.size > 0


def _blank(like: PyTree) -> PyTree:
    def blank(leaf: Any) -> jax.Array:
        if _is_key(leaf):
            data = jnp.zeros_like(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(blank, like)


def _fitting(sharding: Any, shape: tuple[int, ...]) -> Any:
    """A sharding for a shape that is shorter along one axis: whole there if it does not divide."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec: list[Any] = [None] * len(shape)
    for i, names in enumerate(sharding.spec[: len(shape)]):
        axes = () if names is None else names if isinstance(names, tuple) else (names,)
        parts = int(np.prod([sharding.mesh.shape[axis] for axis in axes], dtype=int))
        spec[i] = names if shape[i] % parts == 0 else None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))
