"""A search for thresholds: brackets, narrowed by counting at a few points inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._selection import limbs

# Points a pass: each pass multiplies the resolution by one more than this. On a CPU three is the
# fastest (measured on 25.5 M scores). On an accelerator comparing is nearly free, but from seven
# points on XLA writes the comparisons to memory (H200, 1e9 scores, milliseconds with 3, 5, 7, 9, 15
# points: 14.1, 13.1, 23.7, 24.8, 33.2).
_POINTS_CPU, _POINTS_ACCELERATOR = 3, 5


class Bracket(NamedTuple):
    """For each pool: the threshold lies in [low, high], and ``below`` keys are less than low."""

    low: jax.Array
    high: jax.Array
    below: jax.Array


def narrow(count: Callable[[jax.Array], jax.Array], k: jax.Array, bracket: Bracket) -> Bracket:
    """Narrows brackets until each holds one key, or its lower end has exactly k keys below."""

    def step(b: Bracket) -> Bracket:
        points = inside(b)
        return keep(b, points, count(points), k, unfinished(b, k))

    return jax.lax.while_loop(lambda b: jnp.any(unfinished(b, k)), step, bracket)


def unfinished(b: Bracket, k: jax.Array) -> jax.Array:
    """Which brackets are to be narrowed further, ``[pools]``."""
    return (b.low < b.high) & jnp.any(b.below != k, axis=-1)


def inside(b: Bracket) -> jax.Array:
    """The points to count at next, ``[pools, points]``, ascending."""
    number = points_a_pass()
    stride = jnp.maximum((b.high - b.low) // (number + 1), 1)
    offsets = stride[:, None] * jnp.arange(1, number + 1, dtype=stride.dtype)[None]
    # Where the bracket is shorter than the points, the last ones repeat its upper end.
    return b.low[:, None] + jnp.minimum(offsets, (b.high - b.low)[:, None])


def points_a_pass() -> int:
    """At how many points a pass counts."""
    return _POINTS_CPU if jax.default_backend() == "cpu" else _POINTS_ACCELERATOR


def keep(
    b: Bracket, points: jax.Array, counts: jax.Array, k: jax.Array, open_: jax.Array
) -> Bracket:
    """Brackets with what was counted at ascending points ``[pools, points]`` inside them."""
    fits = ~limbs.less(k[:, None], counts)  # at most k below: the threshold is here or above
    low, below = b.low, b.below
    high = b.high
    for j in range(points.shape[1]):
        up = fits[:, j] & open_
        low = jnp.where(up, points[:, j], low)
        below = jnp.where(up[:, None], counts[:, j], below)
    for j in reversed(range(points.shape[1])):
        high = jnp.where(~fits[:, j] & open_, points[:, j] - 1, high)
    return Bracket(low, high, below)
