"""From scores to a mask."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks import _count, _keys, _select
from jaxprune.masks._allocation import Allocation, globally
from jaxprune.masks._info import PruneInfo


def make(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
) -> PyTree:
    """Makes the mask that removes the lowest scores.

    Counts are exact: ``round(sparsity * n)`` (half to even) of n weights go, at every n and for
    every dtype. Among equal scores the lowest index (order of `jax.tree.leaves`, then C order) is
    removed first; -0.0 equals +0.0; NaN of either sign counts as the largest. With ``within`` the
    new mask is a subset of it.

    Under `jit` nothing can be raised; the mask is then still defined: NaN is kept, and a target
    below the sparsity of ``within`` returns ``within``. `make_with_info` tells what happened.

    Args:
      scores: a tree like the parameters of floating arrays, `None` where a leaf is not prunable.
      sparsity: fraction removed, in [0, 1). A Python number is counted on the host; a traced
        scalar means its exact float32 value.
      within: a mask that the new one must be a subset of, e.g. that of the previous cycle.
      allocation: how the total is spread over the leaves; `globally()` if omitted.

    Returns:
      A tree like ``scores`` of bool arrays, True = kept.

    Raises:
      ValueError: outside `jit`: if the sparsity lies outside [0, 1) or below that of ``within``,
        if scores hold NaN, if a leaf loses its last weight, if there is no prunable leaf or the
        trees differ. Messages name the leaf.
      TypeError: if the sparsity is not a number, or a leaf of ``scores`` is not floating.

    Warns:
      UserWarning: outside `jit`, if the prune removes nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"kernel": jnp.array([[0.3, 0.1], [0.1, 0.9]]), "bias": None}
      >>> jp.masks.make(scores, 0.25)["kernel"].tolist()
      [[True, False], [True, True]]
    """
    mask, info = make_with_info(scores, sparsity, within=within, allocation=allocation)
    if not _tree.is_traced(info):
        info.check(may_remove_nothing=within is None and sparsity == 0)
    return mask


def make_with_info(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
) -> tuple[PyTree, PruneInfo]:
    """Makes a mask as `make` does, and returns what happened instead of raising it.

    Call ``info.check()`` on the host to get the errors and warnings of `make`.

    Args:
      scores: as for `make`.
      sparsity: as for `make`.
      within: as for `make`.
      allocation: as for `make`.

    Returns:
      The mask, and a `PruneInfo`.

    Raises:
      ValueError: for what can be seen before any value: an invalid sparsity, no prunable leaf,
        trees that differ.
      TypeError: if the sparsity is not a number, or a leaf is of the wrong kind.
    """
    named = _tree.named_leaves(scores)
    if not named:
        raise ValueError("the scores have no prunable leaf; every leaf is None.")
    for path, leaf in named:
        if not _tree.is_floating(leaf):
            raise TypeError(
                f"scores are floating arrays, but {path!r} is of dtype "
                f"{getattr(leaf, 'dtype', type(leaf).__name__)}."
            )
        if _tree.size(leaf) >= 1 << 32:
            raise ValueError(
                f"{path!r} has {_tree.size(leaf)} entries; a single leaf must stay below 2**32. "
                "Split it."
            )
    if within is not None:
        _tree.check_matches(within, scores, what="mask `within`")
        _check_same_leaves(within, scores)
    rescaled, pools = (allocation or globally())(scores, within)
    leaves, treedef = jax.tree.flatten(rescaled)
    kept_before = None if within is None else jax.tree.leaves(within)
    counts = [_count.to_limbs(c) for c in pools.counts(sparsity)]
    masks, *fields = _make(leaves, kept_before, counts, pools.leaves)
    info = PruneInfo(
        *fields,
        paths=tuple(path for path, _ in named),
        sizes=tuple(_tree.size(leaf) for _, leaf in named),
        on_collapse=pools.on_collapse,
    )
    return jax.tree.unflatten(treedef, masks), info


def dense(params: PyTree, *, where: _tree.Where | None = None) -> PyTree:
    """Returns the mask that keeps every prunable weight.

    Args:
      params: any pytree of arrays.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params``: all True where a leaf is prunable, `None` elsewhere.

    Raises:
      ValueError: if no leaf is prunable.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> jp.sparsity(jp.masks.dense({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}))
      0.0
    """
    # ones_like, not ones: the mask of a sharded leaf lies where the leaf lies.
    return jax.tree.map(lambda x: jnp.ones_like(x, dtype=bool), _tree.prunable(params, where))


def _check_same_leaves(within: PyTree, scores: PyTree) -> None:
    ours, theirs = _tree.named_leaves(within), _tree.named_leaves(scores)
    for path, leaf in ours:
        if leaf.dtype != np.bool_:
            raise TypeError(f"a mask holds booleans, but `within` is {leaf.dtype} at {path!r}.")
    differing = sorted({path for path, _ in ours} ^ {path for path, _ in theirs})
    if differing:
        raise ValueError(
            f"`within` and the scores disagree on what is prunable, first at {differing[0]!r}. "
            "Use the same `where` in every cycle."
        )


@partial(jax.jit, static_argnums=3)
def _make(
    scores: list[jax.Array],
    within: list[jax.Array] | None,
    counts: list[jax.Array],
    pools: tuple[tuple[int, ...], ...],
) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    sizes = [jnp.uint32(leaf.size) for leaf in scores]
    nan = [jnp.any(jnp.isnan(leaf)) for leaf in scores]
    masks: list[jax.Array] = [jnp.ones(leaf.shape, bool) for leaf in scores]
    removed_before = []
    for members, k in zip(pools, counts, strict=True):
        dtype = _keys.common_dtype([scores[i].dtype for i in members])
        keys = [_keys.sort_keys(_keys.widen(scores[i], dtype)) for i in members]
        gone = jnp.zeros((2,), jnp.uint32)
        if within is not None:
            # Key 0 lies below every score: what is gone goes first, so the masks are nested.
            keys = [jnp.where(within[i], key, 0) for i, key in zip(members, keys, strict=True)]
            for i in members:
                gone = _count.add(gone, _count.one_limb(jnp.sum(~within[i], dtype=jnp.uint32)))
        removed_before.append(gone)
        marked = _select.smallest(keys, _count.maximum(jnp.asarray(k), gone))
        for i, removed in zip(members, marked, strict=True):
            masks[i] = ~removed
    kept = jnp.stack([jnp.sum(m, dtype=jnp.uint32) for m in masks])
    before = sizes if within is None else [jnp.sum(m, dtype=jnp.uint32) for m in within]
    asked = jnp.stack([jnp.asarray(k) for k in counts])
    return masks, asked, jnp.stack(removed_before), kept, jnp.stack(before), jnp.stack(nan)
