"""The compiled part of a prune: masks of all leaves, and what happened."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.masks import _groups, _keys, _limbs, _nm, _passes, _select
from jaxprune.masks._pattern import PatternSpec


@partial(jax.jit, static_argnames=("pools", "shared", "specs"))
def masks_of(
    scores: list[jax.Array],
    within: list[jax.Array] | None,
    counts: list[jax.Array],
    limits: tuple[jax.Array, jax.Array] | None,
    pools: tuple[tuple[int, ...], ...],
    shared: bool,
    specs: tuple[PatternSpec | None, ...],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Makes the masks of all leaves.

    Args:
      scores: the leaves.
      within: the previous masks, or `None`.
      counts: how many entries each pool loses, uint32 ``[2]`` limbs each.
      limits: the fewest and the most entries that each leaf loses, uint32 ``[leaves, 2]`` each.
      pools: the indices of the leaves of each pool.
      shared: whether the pools, one leaf each, share a total; see `Pools`.
      specs: the pattern of each leaf.

    Returns:
      The masks, and the array fields of `PruneInfo` in their order.
    """
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
    dtypes = [_keys.common_dtype([leaf.dtype]) for leaf, _ in entries_of]
    for members in pools:
        common = _keys.common_dtype([entries_of[i][0].dtype for i in members])
        dtypes = [common if i in members else dtype for i, dtype in enumerate(dtypes)]
    leaves = [
        _passes.Leaf(leaf, mask, pool_of.get(i, 0), dtype, wide)
        for i, ((leaf, mask), dtype) in enumerate(zip(entries_of, dtypes, strict=True))
    ]

    entries = _limbs.fit(_limbs.stack_limbs([leaf.scores.size for leaf in leaves]), wide)
    gone = jnp.zeros_like(entries)
    if within is not None:
        gone = jnp.stack([_passes.count_below(leaf, (_keys.GONE + 1,))[0] for leaf in leaves])

    counted = [i for i in range(number) if i in pool_of]
    masks: list[Any] = [None] * number
    kept: list[Any] = [None] * number
    nan: list[Any] = [None] * number
    beyond = jnp.zeros((number,), bool)
    asked = gone_of_pool = jnp.zeros((0, 2 if wide else 1), jnp.uint32)
    if counted:
        asked = _limbs.fit(jnp.stack([jnp.asarray(k) for k in counts]), wide)
        members = np.asarray([pool_of[i] for i in counted])
        gone_of_pool = _limbs.sum_segments(gone[np.asarray(counted)], members, len(pools))
        candidates, found_nan = [leaves[i] for i in counted], None
        least = most = None
        if limits is not None:
            least, most = (_limbs.fit(limit[np.asarray(counted)], wide) for limit in limits)
            if not shared:
                candidates, found_nan = _limited(candidates, least, most, gone[np.asarray(counted)])
            elif within is not None:
                asked = _evened(asked, gone_of_pool, least, most)
        chosen = _select.smallest(candidates, _limbs.maximum(asked, gone_of_pool))
        found_nan = chosen.nan if found_nan is None else found_nan
        if least is not None and most is not None:
            outside = _limbs.less(chosen.counts, least) | _limbs.less(most, chosen.counts)
            beyond = beyond.at[np.asarray(counted)].set(outside)
        for j, i in enumerate(counted):
            spec = specs[i]
            nan[i] = found_nan[j]
            masks[i] = ~chosen.removed[j]
            kept[i] = _limbs.subtract(entries[i], chosen.counts[j])
            if spec is not None:
                masks[i] = _groups.spread_over(masks[i], scores[i], before[i], spec)
                kept[i] = _passes.count_true(masks[i], wide=wide)
    for i, spec in enumerate(specs):
        if spec is not None and spec.kept is not None:
            masks[i] = _nm.keep_best(scores[i], before[i], spec, dtypes[i])
            kept[i] = _passes.count_true(masks[i], wide=wide)
            (numbers,) = _passes.count_below(leaves[i], (_keys.nan_key(leaves[i].dtype),))
            nan[i] = _limbs.less(numbers, jnp.asarray(entries[i]))

    sizes = _limbs.fit(_limbs.stack_limbs([leaf.size for leaf in scores]), wide)
    if within is None:
        kept_before = jnp.asarray(sizes)
    else:
        kept_before = jnp.stack(
            [
                _passes.count_true(mask, wide=wide) if whole else _limbs.subtract(size, lost)
                for mask, whole, size, lost in zip(within, grouped, sizes, gone, strict=True)
            ]
        )
    fields = (asked, gone_of_pool, jnp.stack(kept), kept_before)
    return masks, [*map(_limbs.full, fields), jnp.stack(nan), beyond]


def _evened(asked: jax.Array, gone: jax.Array, least: jax.Array, most: jax.Array) -> jax.Array:
    """Counts of leaves that share a total, with rounding evened out where it goes below ``gone``.

    Shares rounded by largest remainder are not monotone: with a larger total a leaf can get one
    entry less. Where that is all, the first leaves with room give it back, so that masks nest and
    the total stays exact, each within its limits. A difference of more than one entry a leaf, or a
    total below what is gone, is no rounding; it is left for `PruneInfo.check` to refuse.
    """
    one = np.zeros((asked.shape[0],), np.int32)  # one segment: all leaves
    none = jnp.zeros_like(asked)
    may = ~_limbs.less(most, gone)[:, None]
    lacking = jnp.where(may, _limbs.subtract(_limbs.maximum(asked, gone), asked), none)
    end = _limbs.maximum(gone, least)
    room = _limbs.subtract(_limbs.maximum(asked, end), end)
    lack, rooms = _limbs.sum_segments(lacking, one, 1), _limbs.sum_segments(room, one, 1)
    earlier = _limbs.sum_before(room, one)
    give = _limbs.minimum(_limbs.subtract(_limbs.maximum(lack, earlier), earlier), room)
    evened = _limbs.subtract(_limbs.add(asked, lacking), give)
    few = jnp.asarray(_limbs.fit(_limbs.stack_limbs([len(one)]), asked.shape[-1] == 2))
    rounding = ~_limbs.less(few, lack) & ~_limbs.less(rooms, lack)
    return jnp.where(rounding[:, None], evened, asked)


def _limited(
    leaves: list[_passes.Leaf], least: jax.Array, most: jax.Array, gone: jax.Array
) -> tuple[list[_passes.Leaf], jax.Array]:
    """Marks in each leaf what must go (its lowest) and what must stay (all but its lowest).

    Returns:
      The leaves with these marks as their state, and which leaves hold a NaN.
    """
    alone = [leaf._replace(pool=i) for i, leaf in enumerate(leaves)]
    forced, allowed = (
        _select.smallest(alone, _limbs.maximum(limit, gone)) for limit in (least, most)
    )
    out = []
    for leaf, must, may in zip(leaves, forced.removed, allowed.removed, strict=True):
        code = jnp.where(must, jnp.uint8(_keys.FORCED), jnp.uint8(_keys.CANDIDATE))
        code = jnp.where(may, code, jnp.uint8(_keys.IMMUNE))
        if leaf.state is not None:
            code = jnp.where(leaf.state, code, jnp.uint8(_keys.GONE))
        out.append(leaf._replace(state=code))
    return out, forced.nan
