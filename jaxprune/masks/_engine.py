"""The compiled part of a prune: masks of all leaves, and what happened."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _host, _selection, _tree
from jaxprune._mask import or_zero
from jaxprune._selection import limbs, ordering
from jaxprune.masks import _on_host
from jaxprune.masks.patterns import PatternSpec, _groups, _nm


def masks_of(
    scores: list[Any],
    within: list[Any] | None,
    counts: list[Any],
    limits: tuple[Any, Any] | None,
    pools: tuple[tuple[int, ...], ...],
    shared: bool,
    specs: tuple[PatternSpec | None, ...],
    weights: list[Any] | None = None,
) -> tuple[list[jax.Array], list[jax.Array], list[Any]]:
    """Makes the masks of all leaves: on the host if they are there, else in one compiled program.

    Args:
      scores: the leaves.
      within: the previous masks, or `None`.
      counts: how many entries each pool loses, uint32 ``[2]`` limbs each.
      limits: the fewest and the most entries that each leaf loses, uint32 ``[leaves, 2]`` each.
      pools: the indices of the leaves of each pool.
      shared: whether the pools, one leaf each, share a total; see `Pools`.
      specs: the pattern of each leaf.
      weights: what the masks are to be applied to, one array a leaf, or `None`.

    Returns:
      The masks, the weights with zeros where a mask is False (none if none are given), and the
      array fields of `PruneInfo` in their order.
    """
    arrays = [*scores, *(within or []), *(weights or [])]
    here = None if _tree.is_traced(counts, limits) else _host.views(arrays)
    if here is None:
        together = jax.device_count() == 1 or _host.on_one_device(arrays)
        return _compiled(scores, within, counts, limits, pools, shared, specs, weights, together)
    views = iter(here)
    of_scores = [next(views) for _ in scores]
    before = None if within is None else [next(views) for _ in within]
    masks, fields = _on_host.masks_of(of_scores, before, counts, limits, pools, shared, specs)
    pruned = [
        _host.to_jax(_host.where(mask, next(views)), x)
        for mask, x in zip(masks if weights else [], weights or [], strict=True)
    ]
    return [_host.to_jax(m, x) for m, x in zip(masks, scores, strict=True)], pruned, fields


@partial(jax.jit, static_argnames=("pools", "shared", "specs", "together"))
def _compiled(
    scores: list[jax.Array],
    within: list[jax.Array] | None,
    counts: list[jax.Array],
    limits: tuple[jax.Array, jax.Array] | None,
    pools: tuple[tuple[int, ...], ...],
    shared: bool,
    specs: tuple[PatternSpec | None, ...],
    weights: list[jax.Array] | None,
    together: bool,
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    number = len(scores)
    scores = jax.lax.stop_gradient(scores)
    before: list[jax.Array | None] = [None] * number if within is None else list(within)
    pool_of = {i: p for p, members in enumerate(pools) for i in members}
    wide = sum(leaf.size for leaf in scores) >= 1 << 32
    grouped = [spec is not None and spec.kept is None for spec in specs]
    entries_of = [
        _groups.scores_of(leaf, mask, spec) if spec is not None and whole else (leaf, mask)
        for leaf, mask, spec, whole in zip(scores, before, specs, grouped, strict=True)
    ]
    dtypes = [ordering.common_dtype([leaf.dtype]) for leaf, _ in entries_of]
    for members in pools:
        common = ordering.common_dtype([entries_of[i][0].dtype for i in members])
        for i in members:
            dtypes[i] = common
    leaves = [
        _selection.Leaf(leaf, mask, pool_of.get(i, 0), dtype, wide)
        for i, ((leaf, mask), dtype) in enumerate(zip(entries_of, dtypes, strict=True))
    ]

    entries = limbs.fit(limbs.stack_limbs([leaf.scores.size for leaf in leaves]), wide)
    gone = jnp.zeros_like(entries)
    if within is not None:
        first = jnp.full((max(len(pools), 1), 1), ordering.GONE + 1, jnp.uint32)
        gone = _selection.count_each(_selection.arrange(leaves, together=together), first)[:, 0]

    counted = [i for i in range(number) if i in pool_of]
    masks: list[Any] = [None] * number
    beyond = jnp.zeros((number,), bool)
    asked = gone_of_pool = jnp.zeros((0, 2 if wide else 1), jnp.uint32)
    kept, nan = [], []  # with the places of the leaves that they are of
    if counted:
        place = np.asarray(counted)
        asked = limbs.fit(jnp.stack([jnp.asarray(k) for k in counts]), wide)
        members = np.asarray([pool_of[i] for i in counted])
        gone_of_pool = limbs.sum_segments(gone[place], members, len(pools))
        candidates, found_nan = [leaves[i] for i in counted], None
        least = most = None
        if limits is not None:
            least, most = (limbs.fit(limit[place], wide) for limit in limits)
            if not shared:
                candidates, found_nan = _limited(
                    candidates, least, most, gone[place], together=together
                )
            elif within is not None:
                asked = _evened(asked, gone_of_pool, least, most)
        chosen = _selection.smallest(
            _selection.arrange(candidates, together=together), limbs.maximum(asked, gone_of_pool)
        )
        nan.append((counted, chosen.nan if found_nan is None else found_nan))
        if least is not None and most is not None:
            outside = limbs.less(chosen.counts, least) | limbs.less(most, chosen.counts)
            beyond = beyond.at[place].set(outside)
        left = limbs.subtract(jnp.asarray(entries)[place], chosen.counts)
        plain = [j for j, i in enumerate(counted) if specs[i] is None]
        if plain:
            kept.append(([counted[j] for j in plain], left[np.asarray(plain)]))
        for i, removed in zip(counted, chosen.removed, strict=True):
            masks[i], spec = ~removed.reshape(leaves[i].scores.shape), specs[i]
            if spec is not None:
                masks[i] = _groups.spread_over(masks[i], scores[i], before[i], spec)
                kept.append(([i], _selection.count_true(masks[i], wide=wide)[None]))
    fixed = [i for i, spec in enumerate(specs) if spec is not None and spec.kept is not None]
    if fixed:
        own = [leaves[i]._replace(pool=j) for j, i in enumerate(fixed)]
        keys = np.asarray(
            [[ordering.nan_key(leaf.dtype)] for leaf in own], _selection.wide_dtype(own)
        )
        numbers = _selection.count_each(
            _selection.arrange(own, together=together), jnp.asarray(keys)
        )
        nan.append((fixed, limbs.less(numbers[:, 0], jnp.asarray(entries)[np.asarray(fixed)])))
        for i in fixed:
            spec = specs[i]
            assert spec is not None
            masks[i] = _nm.keep_best(scores[i], before[i], spec, dtypes[i])
            kept.append(([i], _selection.count_true(masks[i], wide=wide)[None]))

    sizes = limbs.fit(limbs.stack_limbs([leaf.size for leaf in scores]), wide)
    kept_before = jnp.asarray(sizes)
    if within is not None:
        kept_before = limbs.subtract(kept_before, gone)
        if any(grouped):  # there what is gone are groups
            of_groups = [i for i in range(number) if grouped[i]]
            true = [_selection.count_true(within[i], wide=wide) for i in of_groups]
            kept_before = kept_before.at[np.asarray(of_groups)].set(jnp.stack(true))
    fields = (asked, gone_of_pool, _in_order(kept), kept_before)
    pruned = [
        or_zero(mask, x) for mask, x in zip(masks if weights else [], weights or [], strict=True)
    ]
    return masks, pruned, [*map(limbs.full, fields), _in_order(nan), beyond]


def _in_order(parts: list[tuple[list[int], jax.Array]]) -> jax.Array:
    """Puts parts that hold the numbers of some leaves each in the order of all leaves."""
    order = np.argsort([i for places, _ in parts for i in places])
    return jnp.concatenate([numbers for _, numbers in parts])[order]


def _evened(asked: jax.Array, gone: jax.Array, least: jax.Array, most: jax.Array) -> jax.Array:
    """Counts of leaves that share a total, with rounding evened out where it goes below ``gone``.

    Shares rounded by largest remainder are not monotone: with a larger total a leaf can get one
    entry less. Where that is all, the first leaves with room give it back, so that masks nest and
    the total stays exact, each within its limits. A difference of more than one entry a leaf, or a
    total below what is gone, is no rounding; it is left for `PruneInfo.check` to refuse.
    """
    one = np.zeros((asked.shape[0],), np.int32)  # one segment: all leaves
    none = jnp.zeros_like(asked)
    may = ~limbs.less(most, gone)[:, None]
    lacking = jnp.where(may, limbs.subtract(limbs.maximum(asked, gone), asked), none)
    end = limbs.maximum(gone, least)
    room = limbs.subtract(limbs.maximum(asked, end), end)
    lack, rooms = limbs.sum_segments(lacking, one, 1), limbs.sum_segments(room, one, 1)
    earlier = limbs.sum_before(room, one)
    give = limbs.minimum(limbs.subtract(limbs.maximum(lack, earlier), earlier), room)
    evened = limbs.subtract(limbs.add(asked, lacking), give)
    few = jnp.asarray(limbs.fit(limbs.stack_limbs([len(one)]), asked.shape[-1] == 2))
    rounding = ~limbs.less(few, lack) & ~limbs.less(rooms, lack)
    return jnp.where(rounding[:, None], evened, asked)


def _limited(
    leaves: list[_selection.Leaf],
    least: jax.Array,
    most: jax.Array,
    gone: jax.Array,
    *,
    together: bool,
) -> tuple[list[_selection.Leaf], jax.Array]:
    """Marks in each leaf what must go (its lowest) and what must stay (all but its lowest).

    Returns:
      The leaves with these marks as their state, and which leaves hold a NaN.
    """
    each = _selection.arrange(
        [leaf._replace(pool=i) for i, leaf in enumerate(leaves)], together=together
    )
    forced, allowed = (
        _selection.smallest(each, limbs.maximum(limit, gone)) for limit in (least, most)
    )
    out = []
    for leaf, must, may in zip(leaves, forced.removed, allowed.removed, strict=True):
        must, may = (flags.reshape(leaf.scores.shape) for flags in (must, may))
        code = jnp.where(must, jnp.uint8(ordering.FORCED), jnp.uint8(ordering.CANDIDATE))
        code = jnp.where(may, code, jnp.uint8(ordering.IMMUNE))
        if leaf.state is not None:
            code = jnp.where(leaf.state, code, jnp.uint8(ordering.GONE))
        out.append(leaf._replace(state=code))
    return out, forced.nan
