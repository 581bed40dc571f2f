"""Blocks and channels as the entries of a selection."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune.masks import _pattern
from jaxprune.masks._pattern import PatternSpec


def number(leaf: Any, spec: PatternSpec | None) -> int:
    """How many entries of a leaf an allocation counts: its weights, or its groups."""
    return math.prod(leaf.shape if spec is None else _pattern.groups_of(leaf.shape, spec))


def scores_of(
    scores: jax.Array, within: jax.Array | None, spec: PatternSpec
) -> tuple[jax.Array, jax.Array | None]:
    """One score a group, and which groups have a weight left.

    Weights that ``within`` has removed count as 0. Sums are taken in float32 at least.
    """
    values = _pattern.split(scores.astype(_tree.wide_dtype(scores.dtype)), spec)
    left = None
    if within is not None:
        still = _pattern.split(within, spec)
        values = jnp.where(still, values, jnp.zeros_like(values))
        left = jnp.any(still, axis=-1)
    if spec.norm == "l2":
        return jnp.sqrt(jnp.sum(jnp.square(values), axis=-1)), left
    reduce = {"l1": jnp.sum, "mean": jnp.mean, "max": jnp.max}[spec.norm]
    return reduce(values, axis=-1), left


def spread_over(
    kept: jax.Array, shape: tuple[int, ...], within: jax.Array | None, spec: PatternSpec
) -> jax.Array:
    """The mask of the weights from the mask of the groups, within the previous mask."""
    mask = _pattern.spread(kept, shape, spec)
    return mask if within is None else mask & within
