"""Masks on parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune import _eager, _host, _tree
from jaxprune._layers import Stacked, with_stacked
from jaxprune._mask import check_bool, or_zero
from jaxprune._tree import PyTree, Where
from jaxprune.masks._make import make_and_apply
from jaxprune.masks.allocations import Allocation
from jaxprune.masks.patterns import Pattern
from jaxprune.scores import magnitude


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    """Sets pruned weights to exactly zero.

    Args:
      params: any pytree of arrays.
      mask: a tree like ``params``, True = kept, `None` where a leaf is not prunable.

    Returns:
      The parameters, +0.0 where the mask is False, unchanged elsewhere, dtypes kept. Chosen, not
      multiplied: a pruned NaN or infinity becomes 0 as well.

    Raises:
      ValueError: if the trees differ; the message names the path.
      TypeError: if a mask leaf is not boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.apply_mask({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
      {'w': Array([1., 0.], dtype=float32)}
    """
    check_bool(mask)
    pairs: list[tuple[Any, Any]] = []

    def note(m: Any, p: Any) -> Any:
        if m is not None:
            pairs.append((m, p))
        return p

    _tree.map_partial(note, mask, params)
    masks, leaves = [m for m, _ in pairs], [p for _, p in pairs]
    chosen = iter(_kept_wide(_choose(masks, leaves), masks, leaves))
    return _tree.map_partial(lambda m, p: p if m is None else next(chosen), mask, params)


def _kept_wide(pruned: list[Any], masks: list[Any], leaves: list[Any]) -> list[Any]:
    """The pruned leaves, those of NumPy that JAX would narrow (float64) with their own dtype."""
    return [
        np.where(np.asarray(m), x, x.dtype.type(0))
        if isinstance(x, np.ndarray) and new.dtype != x.dtype and not _tree.is_traced(m)
        else new
        for new, m, x in zip(pruned, masks, leaves, strict=True)
    ]


def _choose(masks: list[Any], leaves: list[Any]) -> list[jax.Array]:
    """The leaves with zeros where their masks are False: on the host, or in one program."""
    here = _host.views([*masks, *leaves])
    if here is None:
        pairs = zip(masks, leaves, strict=True)
        return _eager.together(or_zero, [_eager.Row(m, p) for m, p in pairs])
    columns = (here[: len(masks)], here[len(masks) :], leaves)
    return [_host.to_jax(_host.where(m, p), leaf) for m, p, leaf in zip(*columns, strict=True)]


def prune(
    params: PyTree,
    sparsity: Any,
    *,
    scores: PyTree | Callable[[PyTree], PyTree] | None = None,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> tuple[PyTree, PyTree]:
    """Removes a fraction of the prunable weights: scores, a mask, and the mask applied.

    Args:
      params: any pytree of arrays. A tree has no identity: an array that it holds in two places is
        two leaves, which are counted and pruned one by one. Tied weights belong in it once. A Flax
        NNX module that ties variables is refused; the `State` of `nnx.split` has each once.
      sparsity: fraction removed of the prunable weights, in [0, 1): ``2 / n`` is exactly two of n;
        `None` where an N:M pattern or an allocation `per_leaf` fixes it.
      scores: importance, higher stays: a tree, or a function from parameters to one, which is given
        ``stacked`` as well if it asks for it by name; magnitude if omitted.
      within: a mask that the new one must be a subset of.
      allocation: how the total is spread over the leaves; `jaxprune.masks.globally()` if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
        Only used where ``scores`` is omitted: scores say themselves what is prunable.
      stacked: where leaves hold several layers, stacked along some axes: rules from paths to axes,
        such as ``{"layers/.*": 0}``; see `jaxprune.masks.make`.

    Returns:
      The pruned parameters and the mask.

    Raises:
      ValueError: as `jaxprune.masks.make`, and if a prunable weight is NaN or infinite.
      TypeError: as `jaxprune.masks.make`; if both ``scores`` and ``where`` are given.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> pruned, mask = jp.prune({"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.ones(2)}, 0.5)
      >>> pruned
      {'bias': Array([1., 1.], dtype=float32), 'kernel': Array([[ 0., -4.]], dtype=float32)}
    """
    if scores is not None and where is not None:
        raise TypeError(
            "pass `where` to the function that makes the scores, e.g. "
            "scores=jp.scores.magnitude(params, where=where), not to prune."
        )
    if scores is None:
        scores = magnitude(params, where=where)  # finite: it looks
    else:
        if _tree.is_function(scores, params):
            function: Any = scores
            scores = with_stacked(function, stacked)(params)
        scored = _tree.map_partial(
            lambda s, p: None if s is None else p, scores, params, what="score tree"
        )
        _tree.check_finite(scored)
    (found, leaves), treedef = _tree.columns_of(scores, params, what="score tree")
    weights = [p for s, p in zip(found, leaves, strict=True) if s is not None]
    if any(map(_tree.is_absent, weights)):
        extra = _tree.first_difference(scores, _tree.map_partial(lambda s, p: s, scores, params))
        raise ValueError(f"there are scores at {extra!r}, but no parameter: leave them out there.")
    mask, pruned = make_and_apply(
        weights,
        scores,
        sparsity,
        within=within,
        allocation=allocation,
        pattern=pattern,
        stacked=stacked,
    )
    rest = iter(_kept_wide(pruned, jax.tree.leaves(mask), weights))
    return treedef.unflatten(
        p if s is None else next(rest) for s, p in zip(found, leaves, strict=True)
    ), mask
