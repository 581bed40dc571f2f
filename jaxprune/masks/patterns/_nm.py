"""N:M: n of every m consecutive weights stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _count, _tree
from jaxprune._selection import ordering
from jaxprune.masks.patterns import _pattern as _p
from jaxprune.masks.patterns._pattern import Pattern, PatternSpec, Remainder


def nm(
    n: int,
    m: int,
    *,
    axis: int | Callable[[str, Any], int] | None = None,
    layout: Literal["flax", "haiku", "equinox"] | None = None,
    remainder: Remainder = "error",
) -> Pattern:
    """Keeps n of every m consecutive weights along an axis, the ones with the highest scores.

    Hardware wants the groups along the axis that the product sums over. Name it (``axis``), or
    name the framework (``layout``):

    * "flax" and "haiku": the second to last axis (dense ``[in, out]``, convolution
      ``[..., in, out]``); for the ``query``, ``key`` and ``value`` kernels of Flax's attention,
      ``[in, heads, head_dim]``, the third to last;
    * "equinox", as PyTorch: the second axis (dense ``[out, in]``, convolution
      ``[out, in, ...]``).

    Layers stacked along a leading axis (`flax.linen.scan`) are covered by "flax" and "haiku".
    An N:M pattern fixes the sparsity, ``1 - n / m``: pass ``sparsity=None`` to `make`. A group of
    which ``within`` has removed more than m - n keeps what it has.

    Args:
      n: weights kept of each group.
      m: weights of a group.
      axis: the axis along which groups lie, negative from the last, or a function
        ``(path, leaf) -> axis``.
      layout: the framework whose reduction axis is meant. Exactly one of ``axis`` and ``layout``.
      remainder: if m does not divide the axis: "error"; "dense" to keep what is left over; "pad" to
        keep n of it too, as if the axis went on with weights that are pruned already.

    Returns:
      A pattern, to be passed to `make` or `prune`.

    Raises:
      ValueError: unless 0 < n <= m; if not exactly one of ``axis`` and ``layout`` is given; if a
        word is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[4.0], [1.0], [2.0], [3.0]])}
      >>> jp.masks.make(scores, None, pattern=nm(2, 4, layout="flax"))["kernel"][:, 0].tolist()
      [True, False, False, True]

    References:
      Mishra et al., Accelerating Sparse Deep Neural Networks, 2021 (2:4); Zhou et al., Learning
      N:M Fine-grained Structured Sparse Neural Networks From Scratch, ICLR 2021.
    """
    if not 0 < n <= m:
        raise ValueError(f"n:m keeps n of m with 0 < n <= m; got {n}:{m}.")
    if (axis is None) == (layout is None):
        raise ValueError(
            "pass either axis=, the axis the product sums over, or layout=, the framework."
        )
    if layout not in (None, "flax", "haiku", "equinox"):
        raise ValueError(f"layout is 'flax', 'haiku' or 'equinox'; got {layout!r}.")
    _p.check_words("l1", remainder)

    def along(path: str, leaf: Any) -> int:
        if callable(axis):
            return axis(path, leaf)
        if axis is not None:
            return axis
        if layout == "equinox":
            return 1
        attention = leaf.ndim > 2 and _tree.owner(path) in ("query", "key", "value")
        return -3 if attention else -2

    def pattern(path: str, leaf: Any) -> PatternSpec:
        return PatternSpec((along(path, leaf),), (m,), kept=n, remainder=remainder)

    return pattern


def check_sparsity(spec: PatternSpec, sparsity: Any) -> None:
    """Raises if a sparsity is not the one that an N:M pattern fixes.

    Raises:
      ValueError: naming the one it fixes.
      TypeError: if it is not a number.
    """
    assert spec.kept is not None
    size = math.prod(spec.group)
    own = 1 - spec.kept / size
    traced = _tree.is_traced(sparsity)
    # 2/3 and 1 - 1/3 differ in the last bit.
    if traced or abs(_count.check_sparsity(sparsity) - own) > 1e-9:
        given = "a traced one" if traced else repr(sparsity)
        raise ValueError(
            f"a {spec.kept}:{size} pattern fixes the sparsity, {own:g}; got {given}. Pass "
            "sparsity=None."
        )


def keep_best(
    scores: jax.Array, within: jax.Array | None, spec: PatternSpec, dtype: jnp.dtype
) -> jax.Array:
    """The mask that keeps the ``kept`` highest scores of each group, as `make` orders them."""
    assert spec.kept is not None
    keys = _p.split(ordering.sort_keys(ordering.widen(scores, dtype), within), spec)
    size = keys.shape[-1]
    index = jnp.arange(size, dtype=jnp.uint32).reshape((1,) * (keys.ndim - 1) + (size,))
    # How many of the group come before each entry: m comparisons, no sort.
    rank = jnp.zeros(keys.shape, jnp.uint32)
    for j in range(size):
        other = jax.lax.slice_in_dim(keys, j, j + 1, axis=-1)
        rank = rank + ((other < keys) | ((other == keys) & (j < index))).astype(jnp.uint32)
    mask = _p.merge(rank >= size - spec.kept, scores.shape, spec)
    return mask if within is None else mask & within


def keep_best_on_host(
    scores: np.ndarray, within: np.ndarray | None, spec: PatternSpec, dtype: jnp.dtype
) -> np.ndarray:
    """As `keep_best`, of NumPy arrays."""
    assert spec.kept is not None
    keys = ordering.sort_keys_on_host(scores.astype(dtype, copy=False))
    if within is not None:
        keys[~within] = ordering.GONE
    keys = _p.split(keys, spec)
    size = keys.shape[-1]
    rank = np.zeros(keys.shape, np.int32)
    for j in range(size):
        other = keys[..., j : j + 1]
        rank += other < keys
        rank[..., j + 1 :] += other == keys[..., j + 1 :]
    mask = _p.merge(rank >= size - spec.kept, scores.shape, spec)
    return mask if within is None else mask & within
