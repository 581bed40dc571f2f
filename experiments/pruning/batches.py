"""Examples in an order that a seed names, and batches of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data


def order(n: int, seed: int) -> np.ndarray:
    """A permutation of n examples, int64 ``[n]``."""
    return np.random.default_rng(seed).permutation(n)


def pieces(chosen: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Examples in batches of one size, the largest up to ``batch_size`` that divides them."""
    size = next(k for k in range(min(batch_size, len(chosen)), 0, -1) if len(chosen) % k == 0)
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def calibration(arrays: Any, chosen: np.ndarray, batch_size: int) -> tuple[Any, ...]:
    """The chosen examples in batches.

    Args:
      arrays: a tree of arrays ``[examples, ...]``.
      chosen: int ``[n]``: which of them.
      batch_size: examples a batch, at most.
    """
    return tuple(
        jax.tree.map(lambda x, rows=rows: x[rows], arrays) for rows in pieces(chosen, batch_size)
    )


def endless(arrays: Any, seed: int, batch_size: int) -> Callable[[Any], Any]:
    """``batch_at(step)``: examples in a new order every epoch, from (seed, step) alone."""
    n = len(jax.tree.leaves(arrays)[0])
    return jax.tree_util.Partial(
        _at,
        jax.device_put(arrays),
        jax.random.key(seed),
        jnp.arange(min(batch_size, n), dtype=jnp.int32),
    )


def _at(arrays: Any, key: jax.Array, places: jax.Array, step: Any) -> Any:
    rows = len(jax.tree.leaves(arrays)[0])  # static
    size = len(places)
    steps = rows // size
    step = jnp.asarray(step, jnp.int32)
    epoch = jax.random.fold_in(key, step // steps)
    chosen = data.permuted(step % steps * size + places, rows, epoch)
    return jax.tree.map(lambda x: x[chosen], arrays)
