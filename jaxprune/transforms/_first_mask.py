"""The first mask of sparse training: drawn at random, scored, or given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree, masks
from jaxprune._checks import check_fraction
from jaxprune._mask import check_given
from jaxprune._tree import PyTree
from jaxprune.masks import Allocation, Pattern


def drawn_mask(
    score: Callable[[PyTree], PyTree],
    sparsity: float | None,
    *,
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: masks.Stacked | None,
) -> Callable[[PyTree], PyTree]:
    """A function from parameters to the mask that sparse training starts from."""
    if sparsity is not None:
        sparsity = check_fraction("sparsity", sparsity)

    def draw(params: PyTree) -> PyTree:
        return masks.make(
            score(params),
            sparsity,
            allocation=allocation or masks.erk(),
            pattern=pattern,
            stacked=stacked,
        )

    return draw


def check_start(
    within: PyTree,
    sparsity: float | None,
    *,
    name: str,
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: masks.Stacked | None,
) -> None:
    """Checks a mask to start from, as far as it can be without parameters.

    Raises:
      TypeError: if a leaf is not bool.
      ValueError: if it is traced or empty, meets another word on counts, or lacks the pattern.
    """
    if sparsity is not None or allocation is not None:
        raise ValueError(
            f"{name} keeps the counts of within=; got sparsity={sparsity} and "
            f"allocation={allocation!r:.40}. Pass sparsity=None and no allocation, or leave out "
            "within."
        )
    if _tree.is_traced(within):
        raise ValueError(
            f"the counts of {name} are static, so within= is a concrete mask; got a traced one. "
            "Make the transformation outside of jit."
        )
    check_given(within)
    if pattern is not None:
        masks.check(within, pattern, stacked=stacked)


def split_key(key: Any, *, name: str) -> tuple[jax.Array, jax.Array]:
    """Checks a random key; returns two, for the first mask and for the moves.

    Two, because a key that draws the first mask must not be the root of other keys.

    Raises:
      TypeError: if it is not a single random key.
    """
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = not typed and getattr(key, "dtype", None) == jnp.uint32
    if not (typed and key.shape == ()) and not (raw and len(key.shape) == 1):
        got = repr(key) if not hasattr(key, "dtype") else f"{key.dtype}{list(key.shape)}"
        raise TypeError(
            f"{name} draws its first mask from a JAX random key; got key={got:.60}. Pass one, "
            "e.g. key=jax.random.key(0)."
        )
    if _tree.is_traced(key):
        return _split(key)
    # A transform that is built while something is traced can be used after it.
    with jax.ensure_compile_time_eval():
        return _split(key)


@jax.jit
def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, moves = jax.random.split(key)
    return first, moves
