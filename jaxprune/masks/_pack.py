"""Masks in one bit a weight."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _host, _tree
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune.masks._like import check_like, fill_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask in one bit a weight; a pytree, so it travels through `jit` and checkpoints.

    Attributes:
      bits: a tree like the mask of uint8 arrays. One axis of each leaf is shortened: eight
        neighbours along it are one byte, the first in its lowest bit.
      shapes: (readable path, shape of the mask) of each leaf, in `jax.tree.leaves` order.
    """

    bits: PyTree
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = dataclasses.field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """Bytes of all leaves (of all members, if packed under `vmap`)."""
        return _tree.size(self.bits)


def pack(mask: PyTree) -> PackedMask:
    """Packs a mask into one bit a weight, an eighth of the memory.

    The axis that is shortened follows from the shape alone, so it is the same on every device and
    in compiled code: the last one if it is divisible by 8; else the one that wastes the fewest
    bits, which is none along a divisible axis. Nothing is flattened, so a sharded leaf is packed
    where it lies: its other axes keep their sharding, and the shortened axis too if a byte never
    crosses a shard, i.e. if its length is divisible by 8 times the number of its shards.

    Works under `jit` and `vmap`. Under `vmap` the shapes are those of one member of the stack, and
    `unpack` belongs under `vmap`, too::

        packed = jax.vmap(pack)(stacked)
        stacked = jax.vmap(unpack)(packed)

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable.

    Returns:
      The packed mask; `unpack` returns the exact mask.

    Raises:
      TypeError: if a leaf is not boolean.
      ValueError: if two leaves have the same readable path.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> mask = {"kernel": jnp.ones((4, 16), bool), "bias": None}
      >>> packed = jp.masks.pack(mask)
      >>> packed.bits["kernel"].shape, packed.nbytes
      ((4, 2), 8)
      >>> bool(jnp.all(jp.masks.unpack(packed)["kernel"] == mask["kernel"]))
      True
    """
    check_bool(mask)
    named = _tree.named_leaves(mask)
    _tree.check_unique([path for path, _ in named])
    shapes = tuple((path, tuple(leaf.shape)) for path, leaf in named)
    leaves, treedef = jax.tree.flatten(mask)
    here = _host.views(leaves)
    if here is None:
        bits = _eager.together(_pack_leaf, [_eager.Row(leaf) for leaf in leaves])
    else:
        bits = [_host.to_jax(_pack_here(m), leaf) for m, leaf in zip(here, leaves, strict=True)]
    return PackedMask(treedef.unflatten(bits), shapes)


def unpack(packed: PackedMask, *, like: PyTree | None = None) -> PyTree:
    """Returns the mask that `pack` was given.

    Args:
      packed: a packed mask.
      like: parameters, a mask or a tree of `jax.ShapeDtypeStruct` that the mask must fit; the
        result then has its containers. Unchecked if omitted.

    Returns:
      The mask: bool arrays, `None` where a leaf is not prunable.

    Raises:
      ValueError: if the mask is not one of ``like``, listing the first differences; if the bits
        do not have the shapes that they should.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> packed = jp.masks.pack({"w": jnp.array([True, False, True])})
      >>> packed.bits["w"].tolist()
      [5]
      >>> jp.masks.unpack(packed)["w"].tolist()
      [True, False, True]
    """
    if like is not None:
        check_like(dict(packed.shapes), like, what="the packed mask")
    leaves, treedef = jax.tree.flatten(packed.bits)
    for (path, shape), bits in zip(packed.shapes, leaves, strict=True):
        expected = packed_shape(shape)
        if bits.shape != expected:
            raise ValueError(
                f"the bits at {path!r} have shape {bits.shape}, but a mask of shape {shape} packs "
                f"to {expected}. Unpack a stack that was packed under vmap by jax.vmap(unpack)."
            )
    here = _host.views(leaves)
    shapes = [shape for _, shape in packed.shapes]
    if here is None:
        rows = [_eager.Row(bits, _Shape(s)) for bits, s in zip(leaves, shapes, strict=True)]
        masks = _eager.together(_unpack_leaf, rows)
    else:
        columns = zip(here, shapes, leaves, strict=True)
        masks = [_host.to_jax(_unpack_here(bits, s), leaf) for bits, s, leaf in columns]
    if like is None:
        return treedef.unflatten(masks)
    paths = [path for path, _ in packed.shapes]
    return fill_like(dict(zip(paths, masks, strict=True)), like)


def _axis(shape: tuple[int, ...]) -> int:
    """The axis along which bits are packed; ``shape`` has one axis at least."""
    last = len(shape) - 1

    def cost(axis: int) -> tuple[int, bool, int]:
        n_bytes = math.prod(shape) // max(shape[axis], 1) * -(-shape[axis] // 8)
        return n_bytes, axis != last, -shape[axis]

    return min(range(len(shape)), key=cost)


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the bits of a mask of this shape; a scalar takes one byte."""
    shape = shape or (1,)
    axis = _axis(shape)
    return (*shape[:axis], -(-shape[axis] // 8), *shape[axis + 1 :])


def _shifts(rank: int, axis: int) -> jax.Array:
    """0 to 7 along an axis right after ``axis``, to be broadcast."""
    shape = [1] * (rank + 1)
    shape[axis + 1] = 8
    return jnp.arange(8, dtype=jnp.uint8).reshape(shape)


def _pack_leaf(mask: jax.Array) -> jax.Array:
    mask = jnp.asarray(mask)
    mask = mask.reshape(mask.shape or (1,))
    axis = _axis(mask.shape)
    missing = -mask.shape[axis] % 8
    if missing:
        mask = jnp.pad(mask, [(0, missing if i == axis else 0) for i in range(mask.ndim)])
    shape = mask.shape
    groups = mask.reshape(*shape[:axis], shape[axis] // 8, 8, *shape[axis + 1 :])
    shifted = jnp.left_shift(groups.astype(jnp.uint8), _shifts(mask.ndim, axis))
    # The bits are disjoint, so their sum is their union.
    return jnp.sum(shifted, axis=axis + 1, dtype=jnp.uint8)


def _pack_here(mask: np.ndarray) -> np.ndarray:
    mask = mask.reshape(mask.shape or (1,))
    return np.packbits(mask, axis=_axis(mask.shape), bitorder="little")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Shape:
    """The shape of a mask, as an argument that compiled code is made for."""

    axes: tuple[int, ...]


def _unpack_leaf(bits: jax.Array, shape: _Shape) -> jax.Array:
    bits = jnp.asarray(bits)
    padded = shape.axes or (1,)
    axis = _axis(padded)
    groups = jnp.right_shift(jnp.expand_dims(bits, axis + 1), _shifts(bits.ndim, axis)) & 1
    mask = groups.reshape(*bits.shape[:axis], 8 * bits.shape[axis], *bits.shape[axis + 1 :])
    mask = jax.lax.slice_in_dim(mask, 0, padded[axis], axis=axis)
    return mask.reshape(shape.axes).astype(bool)


def _unpack_here(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = shape or (1,)
    axis = _axis(padded)
    flags = np.unpackbits(bits, axis=axis, count=padded[axis], bitorder="little")
    return flags.reshape(shape).view(bool)
