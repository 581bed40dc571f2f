"""Which weights go: the k smallest keys of a pool of leaves, found by counting."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune.masks import _count


def _count_true(leaves: Sequence[jax.Array]) -> jax.Array:
    total = jnp.zeros((2,), jnp.uint32)
    for leaf in leaves:
        total = _count.add(total, _count.one_limb(jnp.sum(leaf, dtype=jnp.uint32)))
    return total


def smallest(keys: Sequence[jax.Array], k: jax.Array) -> list[jax.Array]:
    """Marks the ``k`` smallest entries of several arrays taken together.

    The k-th smallest key is fixed one bit at a time, from the highest: a bit belongs to it exactly
    when fewer than k keys lie below the number that has the bit set. Each bit costs one pass that
    only compares and counts; nothing is sorted, concatenated or gathered. Among keys equal to the
    k-th, those of lowest index (order of ``keys``, then C order) are marked first.

    Args:
      keys: unsigned arrays of one dtype, any shapes, each below 2**32 entries.
      k: how many to mark, uint32 ``[2]`` limbs.

    Returns:
      One bool array a leaf, True = among the k smallest.
    """
    dtype = keys[0].dtype
    bits = 8 * dtype.itemsize

    def fix_bit(i: jax.Array, kth: jax.Array) -> jax.Array:
        candidate = kth | (jnp.ones((), dtype) << (bits - 1 - i).astype(dtype))
        below = _count_true([key < candidate for key in keys])
        return jnp.where(_count.less(below, k), candidate, kth)

    kth = jax.lax.fori_loop(0, bits, fix_bit, jnp.zeros((), dtype))
    missing = _count.subtract(k, _count_true([key < kth for key in keys]))

    marked = []
    for key in keys:
        equal = key == kth
        found = jnp.sum(equal, dtype=jnp.uint32)
        take = jnp.where(_count.less(missing, _count.one_limb(found)), missing[1], found)
        rank = jnp.cumsum(equal.reshape(-1), dtype=jnp.uint32).reshape(key.shape)
        marked.append((key < kth) | (equal & (rank <= take)))
        missing = _count.subtract(missing, _count.one_limb(take))
    return marked
