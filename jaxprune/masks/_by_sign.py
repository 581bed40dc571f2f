"""Removing a share of the positive weights and a share of the negative ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers, _selection
from jaxprune._layers import Stacked
from jaxprune._selection import limbs, ordering
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _make
from jaxprune.masks._parts import Layout
from jaxprune.masks.allocations import _shares


def drop_by_sign(
    values: PyTree, fraction: float, *, within: PyTree, stacked: Stacked | None = None
) -> PyTree:
    """Removes the given share of the positive and of the negative weights, those nearest to zero.

    Of the P positive weights that ``within`` keeps in a leaf the ``round(fraction * P)`` smallest
    go, of the N negative ones the ``round(fraction * N)`` largest, halves to even. Products are
    taken to 2**-20: 0.3 of 5 is a half, 1.5, though the float 0.3 is a little less. Exact zeros
    have no sign and all go. NaN stays. P and N are counted when the mask is made, so this works on
    traced weights.

    Args:
      values: the weights, floating; `None` where a leaf is not prunable.
      fraction: in (0, 1], a Python float.
      within: the mask before.
      stacked: as for `make`; shares are then those of each layer.

    Returns:
      The mask, a subset of ``within``.

    Raises:
      ValueError: if the trees differ or hold nothing.
      TypeError: if a leaf is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.array([[1.0, -2.0, 3.0, -4.0, 0.0]])
      >>> drop_by_sign(w, 0.5, within=w == w).tolist()
      [[False, False, True, True, False]]
    """
    _make.check_trees(values, within)
    leaves, treedef = jax.tree.flatten(jax.lax.stop_gradient(values))
    before, axes = jax.tree.leaves(within), _layers.axes_of(stacked, values)
    wide = 2 * sum(leaf.size for leaf in leaves) >= 1 << 32
    dtypes = [ordering.common_dtype([leaf.dtype]) for leaf in leaves]
    keys = [ordering.sort_keys(ordering.widen(x, d)) for x, d in zip(leaves, dtypes, strict=True)]
    zeros = [ordering.key_dtype(d).type(1 << (8 * d.itemsize - 1)) for d in dtypes]
    nans = [ordering.key_dtype(d).type(ordering.nan_key(d)) for d in dtypes]

    parts = [
        [m & (k > z) & (k < n) for m, k, z, n in zip(before, keys, zeros, nans, strict=True)],
        [m & (k < z) for m, k, z in zip(before, keys, zeros, strict=True)],
    ]
    flags = [*parts[0], *parts[1]]
    sizes = [jnp.abs(leaf) for leaf in leaves] * 2
    counts = []
    for there, own in zip(flags, axes * 2, strict=True):
        layers = _layers.to_front(there, own) if own else there[None]
        size = jnp.asarray(limbs.to_limbs(layers[0].size))

        def gone(layer: jax.Array, size: jax.Array = size) -> jax.Array:
            number = limbs.full(_selection.count_true(layer, wide=wide))
            return limbs.add(limbs.subtract(size, number), _share(fraction, number))

        counts += list(jax.vmap(gone)(layers)) if own else [gone(there)]
    layout = Layout.one_pool_each([None] * len(counts), axes * 2)
    kept, *_ = _engine.masks_of(sizes, flags, counts, None, layout)
    half = len(leaves)
    out = [
        plus | minus | (m & (k >= n))
        for plus, minus, m, k, n in zip(kept[:half], kept[half:], before, keys, nans, strict=True)
    ]
    return jax.tree.unflatten(treedef, out)


def _share(fraction: float, number: jax.Array) -> jax.Array:
    """``round(fraction * number)`` of a count in limbs ``[2]``, in integers."""
    # The fraction in units of 2**-52, the product rounded to 2**-20. In float32 a count past 2**24
    # would be off.
    fixed = round(fraction * (1 << 52))
    digits = np.array([(fixed >> (16 * i)) & 0xFFFF for i in range(4)], np.uint32)
    product = _shares._multiply(jnp.asarray(digits), limbs.to_digits(number))
    product = product.at[1].add(jnp.uint32(1 << 15))
    carried, carry = [], jnp.uint32(0)
    for i in range(8):
        value = product[i] + carry
        carried.append(value & 0xFFFF)
        carry = value >> 16
    y = carried[2:]
    rest = ((y[1] & 0xF) << 16) | y[0]
    quotient = [((y[i + 1] >> 4) | (y[i + 2] << 12)) & 0xFFFF for i in range(4)]
    whole = jnp.stack([quotient[2] | (quotient[3] << 16), quotient[0] | (quotient[1] << 16)])
    half = jnp.uint32(1 << 19)
    up = (rest > half) | ((rest == half) & (quotient[0] & 1 == 1))
    return limbs.add(whole, limbs.one_limb(up.astype(jnp.uint32)))
