"""Blocks and channels as the entries of a selection."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._selection import ordering
from jaxprune.masks.patterns import _pattern
from jaxprune.masks.patterns._pattern import PatternSpec

# Bits to which scores are rounded, relative to the largest of their leaf, before they are added.
_BITS = 30


def number(leaf: Any, spec: PatternSpec | None) -> int:
    """How many entries of a leaf an allocation counts: its weights, or its groups."""
    return math.prod(leaf.shape if spec is None else _pattern.groups_of(leaf.shape, spec))


def scores_of(
    scores: jax.Array, within: jax.Array | None, spec: PatternSpec
) -> tuple[jax.Array, jax.Array | None]:
    """One score a group, and which groups have a weight left.

    Weights that ``within`` has removed count as 0 in sums and not at all in a maximum. Results are
    float32 at least. Sums are taken in integers, so that they do not depend on the order of
    addition, which differs between devices.
    """
    wide = jnp.dtype(_tree.wide_dtype(scores.dtype))
    lowest = -jnp.inf if spec.norm == "max" else 0
    values = _pattern.split(ordering.widen(scores, wide), spec, pad=lowest)
    left = still = None
    if within is not None:
        still = _pattern.split(within, spec)
        left = jnp.any(still, axis=-1)
    if spec.norm == "max":
        if still is not None:
            values = jnp.where(still, values, jnp.full_like(values, -jnp.inf))
        return _tree.largest(values, axis=-1), left
    if still is not None:
        values = jnp.where(still, values, jnp.zeros_like(values))
    if spec.norm == "l2":
        return jnp.sqrt(_exact_sum(jnp.square(values))), left
    total = _exact_sum(values)
    if spec.norm == "mean":
        sizes = np.maximum(_pattern.sizes_of(scores.shape, spec), 1)
        total = total / jnp.asarray(sizes, total.dtype)
    return total, left


def _exact_sum(values: jax.Array) -> jax.Array:
    """Sums over the last axis, rounding each value to 30 bits of the largest of the leaf."""
    if not values.size:
        return jnp.sum(values, axis=-1)
    finite = jnp.isfinite(values)
    size = jnp.where(finite, jnp.abs(values), jnp.zeros_like(values))
    _, exponent = jnp.frexp(jnp.max(size))
    scaled = jnp.ldexp(jnp.where(finite, values, jnp.zeros_like(values)), _BITS - exponent)
    fixed = jnp.round(scaled).astype(jnp.int32)
    # In parts of so many bits that their sums stay below 2**31.
    bits = 30 - max(values.shape[-1] - 1, 1).bit_length()
    if bits < 1:
        raise ValueError(f"a group of {values.shape[-1]} weights is too large; at most 2**29.")
    total = jnp.zeros(values.shape[:-1], values.dtype)
    for shift in reversed(range(0, _BITS + 1, bits)):
        part = (fixed >> shift) & ((1 << bits) - 1) if shift + bits <= _BITS else fixed >> shift
        added = jnp.sum(part, axis=-1, dtype=jnp.int32).astype(values.dtype)
        total = total + jnp.ldexp(added, shift - _BITS + exponent)
    # Not finite: as a float sum has it, in any order.
    odd = jnp.sum(jnp.where(finite, jnp.zeros_like(values), values), axis=-1)
    return jnp.where(jnp.all(finite, axis=-1), total, odd)


def spread_over(
    kept: jax.Array, scores: jax.Array, within: jax.Array | None, spec: PatternSpec
) -> jax.Array:
    """The mask of the weights from the mask of the groups, within the previous mask."""
    mask = _pattern.spread(kept, scores.shape, spec)
    if within is not None:
        return mask & within
    # No key is 0, so this changes nothing; but it lays the mask out over devices as the scores are.
    return mask | (
        ordering.sort_keys(ordering.widen(scores, ordering.common_dtype([scores.dtype]))) == 0
    )
