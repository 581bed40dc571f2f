"""Where pruned weights are not zero."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxprune import _eager, _tree
from jaxprune._mask import count_true
from jaxprune._tree import PyTree


def pruned_leaves(params: PyTree, mask: PyTree) -> list[tuple[str, Any, Any]]:
    """The leaves that a mask has: path, mask, weights.

    Of `optax.LookaheadParams` those of both copies, one after the other.

    Raises:
      ValueError: if the mask is of another tree.
    """
    pair = isinstance(params, optax.LookaheadParams)
    copies = zip(("fast/", "slow/"), params, strict=True) if pair else [("", params)]
    return [
        (name + path, m, w) for name, copy in copies for path, m, (w,) in _tree.beside(mask, copy)
    ]


def not_zero(params: PyTree, mask: PyTree) -> list[tuple[str, Any, int]]:
    """How many pruned weights of each leaf are not zero: path, mask, number."""
    rows = pruned_leaves(params, mask)
    dense = _eager.together(_is_dense, [_eager.Row(m, w) for _, m, w in rows])
    return [(path, m, n) for (path, m, _), n in zip(rows, count_true(dense), strict=True)]


def _is_dense(m: jax.Array, w: jax.Array) -> jax.Array:
    return ~m & (w != 0)
