"""From scores to a mask."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks import _count, _groups, _keys, _nm, _pattern, _select
from jaxprune.masks._allocation import Allocation, Pools
from jaxprune.masks._globally import globally
from jaxprune.masks._info import PruneInfo
from jaxprune.masks._pattern import Pattern, PatternSpec


def make(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
) -> PyTree:
    """Makes the mask that removes the lowest scores.

    Counts are exact: ``round(sparsity * n)`` (half to even) of n weights go, at every n and for
    every dtype. With a pattern of blocks or channels n counts those. Among equal scores the lowest index (order of `jax.tree.leaves`, then C order) is
    removed first; -0.0 equals +0.0; NaN of either sign counts as the largest. With ``within`` the
    new mask is a subset of it.

    Under `jit` nothing can be raised; the mask is then still defined: NaN is kept, and a target
    below the sparsity of ``within`` returns ``within``. `make_with_info` tells what happened.

    Args:
      scores: a tree like the parameters of floating arrays, `None` where a leaf is not prunable.
      sparsity: fraction removed, in [0, 1). A Python number is counted on the host; a traced
        scalar means its exact float32 value. `None` where something else fixes it: an N:M pattern,
        or an allocation `per_leaf`.
      within: a mask that the new one must be a subset of, e.g. that of the previous cycle.
      allocation: how the total is spread over the leaves; `globally()` if omitted.
      pattern: which weights go together: `nm`, `block` or `channels`; unstructured if omitted. An
        N:M pattern fixes the counts of its leaves, so that of an allocation only the rescaling of
        scores remains for them; leaves for which the pattern is `None` are pruned by the allocation
        where a sparsity is given, and stay dense otherwise.

    Returns:
      A tree like ``scores`` of bool arrays, True = kept.

    Raises:
      ValueError: outside `jit`: if the sparsity lies outside [0, 1) or below that of ``within``,
        if scores hold NaN, if a leaf loses its last weight, if there is no prunable leaf or the
        trees differ; if an N:M pattern is given another sparsity than its own; if an allocation or
        a pattern does not fit the leaves. Messages name the leaf.
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
    mask, info = make_with_info(
        scores, sparsity, within=within, allocation=allocation, pattern=pattern
    )
    if not _tree.is_traced(info):
        nothing = within is None and (sparsity is None or sparsity == 0)
        info.check(may_remove_nothing=nothing)
    return mask


def make_with_info(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
) -> tuple[PyTree, PruneInfo]:
    """Makes a mask as `make` does, and returns what happened instead of raising it.

    Call ``info.check()`` on the host to get the errors and warnings of `make`.

    Args:
      scores: as for `make`.
      sparsity: as for `make`.
      within: as for `make`.
      allocation: as for `make`.
      pattern: as for `make`.

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
        if max(leaf.shape, default=0) >= 1 << 32:
            raise ValueError(
                f"{path!r} has an axis of {max(leaf.shape)} entries; an axis must stay below 2**32. "
                "Reshape it to two axes."
            )
    if within is not None:
        _tree.check_matches(within, scores, what="mask `within`")
        _check_same_leaves(within, scores)
    specs = _pattern.resolve(pattern, scores)
    rescaled, pools = (allocation or globally())(scores, within)
    pools, counts, limits = _counts(
        pools, sparsity, [leaf for _, leaf in named], specs, given=allocation is not None
    )
    leaves, treedef = jax.tree.flatten(rescaled)
    kept_before = None if within is None else jax.tree.leaves(within)
    masks, *fields = _make(leaves, kept_before, counts, limits, pools.leaves, specs)
    info = PruneInfo(
        *fields,
        paths=tuple(path for path, _ in named),
        sizes=tuple(_tree.size(leaf) for _, leaf in named),
        pools=pools.leaves,
        unit="groups" if any(s is not None and s.kept is None for s in specs) else "weights",
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


def _counts(
    pools: Pools,
    sparsity: Any,
    leaves: Sequence[Any],
    specs: Sequence[PatternSpec | None],
    *,
    given: bool,
) -> tuple[Pools, list[Any], tuple[Any, Any] | None]:
    """The pools without leaves of N:M, how many entries each loses, and the limits, in limbs."""
    fixed = [spec is not None and spec.kept is not None for spec in specs]
    for spec in specs:
        if spec is not None and spec.kept is not None and sparsity is not None:
            _nm.check_sparsity(spec, sparsity)
    sizes = [
        0 if fixed_ else _groups.number(leaf, spec)
        for leaf, spec, fixed_ in zip(leaves, specs, fixed, strict=True)
    ]
    if any(fixed) and sparsity is None and (not given or not any(sizes)):
        counts: Sequence[Any] = [0] * len(pools.leaves)
    else:
        counts = pools.counts(sparsity, sizes)
    members = [tuple(i for i in pool if not fixed[i]) for pool in pools.leaves]
    limbs = [_count.to_limbs(c) for c, pool in zip(counts, members, strict=True) if pool]
    limits = None
    if pools.limits is not None:
        least, most = pools.limits(sizes)
        limits = tuple(np.stack([_count.to_limbs(x) for x in limit]) for limit in (least, most))
    return pools._replace(leaves=tuple(pool for pool in members if pool)), limbs, limits


@partial(jax.jit, static_argnames=("pools", "specs"))
def _make(
    scores: list[jax.Array],
    within: list[jax.Array] | None,
    counts: list[jax.Array],
    limits: tuple[jax.Array, jax.Array] | None,
    pools: tuple[tuple[int, ...], ...],
    specs: tuple[PatternSpec | None, ...],
) -> tuple[list[jax.Array], jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    number = len(scores)
    scores = jax.lax.stop_gradient(scores)
    before: list[jax.Array | None] = [None] * number if within is None else list(within)
    pool_of = {i: p for p, members in enumerate(pools) for i in members}
    dtypes = [_keys.common_dtype([scores[i].dtype]) for i in range(number)]
    for members in pools:
        common = _keys.common_dtype([scores[i].dtype for i in members])
        dtypes = [common if i in members else dtype for i, dtype in enumerate(dtypes)]

    leaves = []
    for i, (leaf, mask, spec) in enumerate(zip(scores, before, specs, strict=True)):
        if spec is not None and spec.kept is None:
            leaf, mask = _groups.scores_of(leaf, mask, spec)
            dtypes[i] = leaf.dtype
        leaves.append(_select.Leaf(leaf, mask, pool_of.get(i, 0), dtypes[i]))

    # One pass over all: what is gone already, and what is NaN.
    noted = jnp.stack(
        [_select.count_below(leaf, (1, _keys.nan_key(leaf.dtype))) for leaf in leaves]
    )
    gone = noted[:, 0]
    entries = jnp.asarray(np.stack([_count.to_limbs(leaf.scores.size) for leaf in leaves]))
    nan = _count.less(noted[:, 1], entries)

    counted = [i for i in range(number) if i in pool_of]
    masks: list[Any] = [None] * number
    kept: list[Any] = [None] * number
    asked = gone_of_pool = jnp.zeros((0, 2), jnp.uint32)
    if counted:
        asked = jnp.stack([jnp.asarray(k) for k in counts])
        members = np.asarray([pool_of[i] for i in counted])
        gone_of_pool = _count.sum_segments(gone[np.asarray(counted)], members, len(pools))
        candidates = [leaves[i] for i in counted]
        if limits is not None:
            bounds = [limit[np.asarray(counted)] for limit in limits]
            candidates = _limited(candidates, *bounds, gone[np.asarray(counted)])
        chosen = _select.smallest(candidates, _count.maximum(asked, gone_of_pool))
        for j, i in enumerate(counted):
            spec = specs[i]
            masks[i] = ~chosen.removed[j]
            kept[i] = _count.subtract(entries[i], chosen.counts[j])
            if spec is not None:
                masks[i] = _groups.spread_over(masks[i], scores[i].shape, before[i], spec)
                kept[i] = _select.count_true(masks[i])
    for i, spec in enumerate(specs):
        if spec is not None and spec.kept is not None:
            masks[i] = _nm.keep_best(scores[i], before[i], spec, dtypes[i])
            kept[i] = _select.count_true(masks[i])

    sizes = jnp.asarray(np.stack([_count.to_limbs(leaf.size) for leaf in scores]))
    if within is None:
        kept_before = sizes
    else:
        grouped = [spec is not None and spec.kept is None for spec in specs]
        kept_before = jnp.stack(
            [
                _select.count_true(mask) if whole else _count.subtract(size, lost)
                for mask, whole, size, lost in zip(within, grouped, sizes, gone, strict=True)
            ]
        )
    return masks, asked, gone_of_pool, jnp.stack(kept), kept_before, nan


def _limited(
    leaves: list[_select.Leaf], least: jax.Array, most: jax.Array, gone: jax.Array
) -> list[_select.Leaf]:
    """Marks in each leaf what must go (its lowest) and what must stay (all but its lowest)."""
    alone = [leaf._replace(pool=i) for i, leaf in enumerate(leaves)]
    forced, allowed = (
        _select.smallest(alone, _count.maximum(limit, gone)).removed for limit in (least, most)
    )
    out = []
    for leaf, must, may in zip(leaves, forced, allowed, strict=True):
        code = jnp.where(must, jnp.uint8(_keys.FORCED), jnp.uint8(_keys.CANDIDATE))
        code = jnp.where(may, code, jnp.uint8(_keys.IMMUNE))
        if leaf.state is not None:
            code = jnp.where(leaf.state, code, jnp.uint8(_keys.GONE))
        out.append(leaf._replace(state=code))
    return out
