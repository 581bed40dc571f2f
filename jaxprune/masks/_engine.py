"""The compiled part of a prune: masks of all leaves, and what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _host, _layers, _selection, _tree
from jaxprune._mask import or_zero
from jaxprune._selection import limbs, ordering
from jaxprune.masks import _on_host
from jaxprune.masks._parts import Layout, Parts
from jaxprune.masks.patterns import _groups, _nm


def masks_of(
    scores: list[Any],
    within: list[Any] | None,
    counts: list[Any],
    limits: tuple[Any, Any] | None,
    layout: Layout,
    weights: list[Any] | None = None,
) -> tuple[list[jax.Array], list[jax.Array], list[Any]]:
    """Makes the masks of all leaves: on the host if they are there, else in one compiled program.

    Args:
      scores: the leaves.
      within: the previous masks, or `None`.
      counts: how many entries each pool loses, uint32 ``[2]`` limbs each; of layers that are cut
        into units, how many each unit does.
      limits: the fewest and the most entries that each layer loses, uint32 ``[layers, 2]`` each.
      layout: what else is known.
      weights: what the masks are to be applied to, one array a leaf, or `None`.

    Returns:
      The masks, the weights with zeros where a mask is False (none if none are given), and the
      array fields of `PruneInfo` in their order.
    """
    arrays = [*scores, *(within or []), *(weights or [])]
    here = None if _tree.is_traced(counts, limits) else _host.views(arrays)
    if here is None:
        together = jax.device_count() == 1 or _host.on_one_device(arrays)
        return _compiled(scores, within, counts, limits, layout, weights, together)
    views = iter(here)
    of_scores = [next(views) for _ in scores]
    before = None if within is None else [next(views) for _ in within]
    masks, fields = _on_host.masks_of(of_scores, before, counts, limits, layout)
    pruned = [
        _host.to_jax(_host.where(mask, next(views)), x)
        for mask, x in zip(masks if weights else [], weights or [], strict=True)
    ]
    return [_host.to_jax(m, x) for m, x in zip(masks, scores, strict=True)], pruned, fields


@partial(jax.jit, static_argnames=("layout", "together"))
def _compiled(
    scores: list[jax.Array],
    within: list[jax.Array] | None,
    counts: list[jax.Array],
    limits: tuple[jax.Array, jax.Array] | None,
    layout: Layout,
    weights: list[jax.Array] | None,
    together: bool,
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    number = len(scores)
    scores = jax.lax.stop_gradient(scores)
    wide = sum(leaf.size for leaf in scores) >= 1 << 32
    parts = Parts([leaf.shape for leaf in scores], layout)
    cut = [bool(axes) for axes in layout.stacked]
    fronts = [_layers.to_front(x, axes) for x, axes in zip(scores, layout.stacked, strict=True)]
    before: list[jax.Array | None] = [None] * number
    if within is not None:
        pairs = zip(within, layout.stacked, strict=True)
        before = [_layers.to_front(mask, axes) for mask, axes in pairs]
    specs = [layout.specs[i] for i in parts.first_layer]
    grouped = [spec is not None and spec.kept is None for spec in specs]
    entries_of = [
        _each(partial(_groups.scores_of, spec=spec), c)(x, mask)
        if spec is not None and whole
        else (x, mask)
        for x, mask, spec, whole, c in zip(fronts, before, specs, grouped, cut, strict=True)
    ]
    dtypes = _common_dtypes([leaf.dtype for leaf, _ in entries_of], layout.pools, parts.leaf_of)
    leaves = [
        _selection.Leaf(
            parts.split(i, leaf), parts.split(i, mask), parts.pool_of_leaf(i), dtype, wide
        )
        for i, ((leaf, mask), dtype) in enumerate(zip(entries_of, dtypes, strict=True))
    ]

    sizes_of_parts = [size for leaf in leaves for size in leaf.part_sizes]
    entries = limbs.fit(limbs.stack_limbs(sizes_of_parts), wide)
    gone = jnp.zeros_like(entries)
    if within is not None:
        first = jnp.full((parts.pools, 1), ordering.GONE + 1, jnp.uint32)
        gone = _selection.count_each(_selection.arrange(leaves, together=together), first)[:, 0]

    counted = [i for i in range(number) if parts.is_counted(i)]
    masks: list[Any] = [None] * number
    beyond = jnp.zeros((len(parts.leaf_of),), bool)
    asked = gone_of_pool = jnp.zeros((0, 2 if wide else 1), jnp.uint32)
    kept, nan = [], []  # with the places of the layers that they are of
    if counted:
        place = parts.places(counted)
        asked = parts.ask_units(limbs.fit(jnp.stack([jnp.asarray(k) for k in counts]), wide))
        members = parts.pool_of[place]
        gone_of_pool = limbs.sum_segments(gone[place], members, parts.pools)
        candidates, found_nan = [leaves[i] for i in counted], None
        least = most = None
        if limits is not None:
            least, most = (limbs.fit(limit[place], wide) for limit in limits)
            if not layout.shared:
                candidates, found_nan = _limited(
                    candidates, least, most, gone[place], together=together
                )
            elif within is not None:
                asked = _evened(asked, gone_of_pool, least, most)
        chosen = _selection.smallest(
            _selection.arrange(candidates, together=together), limbs.maximum(asked, gone_of_pool)
        )
        layers = parts.layers_at(place)
        nan.append((layers, parts.any_unit(chosen.nan if found_nan is None else found_nan, place)))
        if least is not None and most is not None:
            outside = limbs.less(chosen.counts, least) | limbs.less(most, chosen.counts)
            beyond = beyond.at[np.asarray(layers)].set(outside)
        left = limbs.subtract(jnp.asarray(entries)[place], chosen.counts)
        left = parts.sum_units(left, place)
        plain = [j for j, layer in enumerate(layers) if layout.specs[layer] is None]
        if plain:
            kept.append(([layers[j] for j in plain], left[np.asarray(plain)]))
        for i, removed in zip(counted, chosen.removed, strict=True):
            masks[i] = parts.join(i, ~removed.reshape(leaves[i].scores.shape))
            spec = specs[i]
            if spec is not None:
                spread = _each(partial(_groups.spread_over, spec=spec), cut[i])
                masks[i] = spread(masks[i], fronts[i], before[i])
                own = parts.layers_at(parts.places([i]))
                kept.append((own, _count_true(masks[i], cut[i], wide=wide)))
        asked, gone_of_pool = parts.worst_units(asked, gone_of_pool)
    fixed = [i for i, spec in enumerate(specs) if spec is not None and spec.kept is not None]
    if fixed:
        alone = _numbered([leaves[i] for i in fixed])
        keys = [[ordering.nan_key(leaf.dtype)] for leaf in alone for _ in leaf.part_sizes]
        numbers = _selection.count_each(
            _selection.arrange(alone, together=together),
            jnp.asarray(np.asarray(keys, _selection.wide_dtype(alone))),
        )
        place = parts.places(fixed)
        found = limbs.less(numbers[:, 0], jnp.asarray(entries)[place])
        nan.append((parts.layers_at(place), found))
        for i in fixed:
            spec = specs[i]
            assert spec is not None
            keep = _each(partial(_nm.keep_best, spec=spec, dtype=dtypes[i]), cut[i])
            masks[i] = keep(fronts[i], before[i])
            own = parts.layers_at(parts.places([i]))
            kept.append((own, _count_true(masks[i], cut[i], wide=wide)))

    sizes = limbs.fit(limbs.stack_limbs(parts.layer_sizes), wide)
    kept_before = jnp.asarray(sizes)
    if within is not None:
        lost = parts.sum_units(gone, np.arange(len(entries)))
        kept_before = limbs.subtract(kept_before, lost)
        if any(grouped):  # there what is gone are groups
            of_groups = [i for i in range(number) if grouped[i]]
            true = jnp.concatenate([_count_true(before[i], cut[i], wide=wide) for i in of_groups])
            at = parts.layers_at(parts.places(of_groups))
            kept_before = kept_before.at[np.asarray(at)].set(true)
    fields = (asked, gone_of_pool, _in_order(kept), kept_before)
    masks = [
        _layers.from_front(mask, x.shape, axes)
        for mask, x, axes in zip(masks, scores, layout.stacked, strict=True)
    ]
    pruned = [
        or_zero(mask, x) for mask, x in zip(masks if weights else [], weights or [], strict=True)
    ]
    return masks, pruned, [*map(limbs.full, fields), _in_order(nan), beyond]


def _each(f: Callable[..., Any], cut: bool) -> Callable[..., Any]:
    """A function of a layer, for a leaf: the layer itself, or ``[layers, ...]``."""
    return jax.vmap(f) if cut else f


def _count_true(mask: Any, cut: bool, *, wide: bool) -> jax.Array:
    """Counts the True of each layer of a leaf, ``[layers, limbs]``."""
    counts = _each(partial(_selection.count_true, wide=wide), cut)(mask)
    return counts if cut else counts[None]


def _common_dtypes(
    dtypes: Sequence[Any], pools: tuple[tuple[int, ...], ...], leaf_of: np.ndarray
) -> list[Any]:
    """The dtype in which the scores of each leaf are compared: the same throughout a pool."""
    common = [ordering.common_dtype([dtype]) for dtype in dtypes]
    while True:
        before = list(common)
        for members in pools:
            leaves = set(leaf_of[list(members)].tolist())
            wide = ordering.common_dtype([common[i] for i in leaves])
            for i in leaves:
                common[i] = wide
        if common == before:  # layers of one leaf may be in several pools
            return common


def _numbered(leaves: Sequence[_selection.Leaf]) -> list[_selection.Leaf]:
    """The leaves with a pool for each part."""
    out, first = [], 0
    for leaf in leaves:
        number = len(leaf.part_sizes)
        pool = first if leaf.parts is None else np.arange(first, first + number)
        out.append(leaf._replace(pool=pool))
        first += number
    return out


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
    each = _selection.arrange(_numbered(leaves), together=together)
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
