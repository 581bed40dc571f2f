"""Masks of given counts, leaf by leaf: how many entries go is an integer, not a fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers, _tree
from jaxprune._layers import Stacked
from jaxprune._mask import check_bool
from jaxprune._selection import limbs
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _make, _rules_of_layers
from jaxprune.masks._parts import Layout
from jaxprune.masks._plan import Plan
from jaxprune.masks.allocations import Allocation, Pools, globally
from jaxprune.masks.patterns import Pattern, PatternSpec, _groups, _pattern


class LeafCounts(NamedTuple):
    """What `leaf_counts` returns, in `jax.tree.leaves` order.

    Attributes:
      entries: the number of entries of each leaf: weights, or groups that go whole.
      removed: how many of them go.
    """

    entries: tuple[int, ...]
    removed: tuple[int, ...]


def leaf_counts(
    like: PyTree,
    sparsity: Any,
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> LeafCounts:
    """Counts on the host how many entries of each leaf `make` removes.

    Args:
      like: the scores, or their shapes; `None` where a leaf is not prunable.
      sparsity: as for `make`, a Python number or `None`.
      allocation: as for `make`; one that counts every leaf alone.
      pattern: as for `make`.
      stacked: as for `make`; the counts are then those of each layer.

    Returns:
      The counts, as Python integers.

    Raises:
      ValueError: if the allocation counts leaves together, so that scores decide, or by output
        units; else what `make` raises without looking at any score.
      TypeError: if a leaf or an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> leaf_counts({"w": jnp.ones((4, 4))}, 0.75, allocation=jp.masks.uniform())
      LeafCounts(entries=(16,), removed=(12,))
    """
    rules: Any = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    _make.check_fit(like, [sparsity], **rules)
    named, specs, pools, counts = _counted(like, sparsity, **rules)
    if any(pools.units):
        raise ValueError(
            "the allocation counts output units, each for itself, and not leaves. Pass one that "
            "counts every leaf alone, such as jp.masks.uniform()."
        )
    removed: list[int] = [_removed_nm(x, s) for (_, x), s in zip(named, specs, strict=True)]
    for members, count in zip(pools.leaves, counts, strict=True):
        if len(members) > 1:
            paths = " and ".join(repr(named[i][0]) for i in members[:2])
            raise ValueError(
                f"the allocation counts {paths} together, so that how many weights each leaf "
                "keeps depends on scores. Pass one that counts every leaf alone, such as "
                "jp.masks.erk() or jp.masks.uniform()."
            )
        removed[next(iter(members))] = limbs.from_limbs(count)
    return LeafCounts(
        tuple(
            _groups.number(x, None if spec is None or spec.kept is not None else spec)
            for (_, x), spec in zip(named, specs, strict=True)
        ),
        tuple(removed),
    )


def count_removed(
    like: PyTree,
    sparsity: float,
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> int:
    """Counts on the host how many entries `make` removes of all leaves together.

    Args:
      like: as for `leaf_counts`.
      sparsity: a Python number.
      allocation: as for `make`.
      pattern: as for `make`.
      stacked: as for `make`.

    Returns:
      The count: weights and groups that go whole; of leaves with an N:M pattern the weights.

    Raises:
      ValueError: what `make` raises without looking at any score.
      TypeError: if a leaf or an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> count_removed({"w": jnp.ones((4, 4))}, 0.75, pattern=jp.masks.channels(-1))
      3
    """
    rules: Any = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    named, specs, pools, counts = _counted(like, sparsity, **rules)
    fixed = sum(_removed_nm(x, spec) for (_, x), spec in zip(named, specs, strict=True))
    units = [
        math.prod(named[members[0]][1].shape[a] for a in pools.units[members[0]])
        if pools.units
        else 1
        for members in pools.leaves
    ]
    return fixed + sum(n * limbs.from_limbs(k) for n, k in zip(units, counts, strict=True))


def _counted(
    like: PyTree,
    sparsity: Any,
    *,
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: Stacked | None,
) -> tuple[list[tuple[str, Any]], tuple[PatternSpec | None, ...], Pools, list[Any]]:
    """The layers, their specs, the pools without those of N:M, and how many entries each loses."""
    axes = _layers.axes_of(stacked, like)
    found: list[Any] = []

    def trace(scores: PyTree) -> None:
        # Traced, because an allocation may compute with scores; counts come from shapes alone.
        specs = _rules_of_layers.specs_of(pattern, scores, axes)
        _, pools = _rules_of_layers.allocate(allocation or globally(), scores, None, axes)
        layers = _layers.named(scores, axes)
        found.append((specs, *_make.counts_of(pools, sparsity, layers, specs)[:2]))

    jax.eval_shape(trace, like)
    return _layers.named(like, axes), *found[0]


def counts_in(
    mask: PyTree, *, pattern: Pattern | None = None, stacked: Stacked | None = None
) -> LeafCounts:
    """Counts on the host how many entries of each leaf a mask has removed.

    Args:
      mask: a concrete mask, True = kept, `None` where a leaf is not prunable.
      pattern: as for `make`; where groups go whole, these are what is counted.
      stacked: as for `make`; the counts are then those of each layer.

    Returns:
      The counts, as Python integers: what `leaf_counts` gives before the mask is made.

    Raises:
      ValueError: if the mask is traced, or pattern or stacked do not fit its leaves.
      TypeError: if a leaf is not bool.

    Example:
      >>> import jax.numpy as jnp
      >>> counts_in({"w": jnp.array([[True, False], [False, False]])})
      LeafCounts(entries=(4,), removed=(3,))
    """
    check_bool(mask)
    if _tree.is_traced(mask):
        raise ValueError("counts_in counts on the host: pass a concrete mask, not a traced one.")
    axes = _layers.axes_of(stacked, mask)
    specs = iter(_rules_of_layers.specs_of(pattern, mask, axes))
    entries, removed = [], []
    for leaf, own in zip(jax.tree.leaves(mask), axes, strict=True):
        whole = np.asarray(leaf)
        for kept in _layers.to_front(whole, own) if own else [whole]:
            spec = next(specs)
            if spec is not None and spec.kept is None:
                with jax.ensure_compile_time_eval():  # this is called where a step is traced
                    kept = np.asarray(_pattern.split(jnp.asarray(kept), spec)).any(-1)
            entries.append(kept.size)
            removed.append(kept.size - int(np.count_nonzero(kept)))
    return LeafCounts(tuple(entries), tuple(removed))


def plan_counts(
    like: PyTree,
    counts: Sequence[Sequence[int]],
    *,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> Plan:
    """Prepares masks that remove given numbers of entries of each leaf.

    As `plan`, but with counts in place of sparsities, for methods that fix their own.

    Args:
      like: the scores that will come, or their shapes; `None` where a leaf is not prunable.
      counts: for each mask how many entries of each leaf it removes in all, those that ``within``
        has removed included; Python integers in `jax.tree.leaves` order. Those of a leaf with an
        N:M pattern are not looked at.
      pattern: as for `make`.
      stacked: as for `make`; the counts are then those of each layer.

    Returns:
      A `Plan`, whose ``make`` takes an index into ``counts``. A count below what ``within`` has
      removed of a leaf leaves that leaf as it is.

    Raises:
      ValueError: if there is nothing to count, a count is missing or larger than its leaf, or the
        pattern does not fit.
      TypeError: if a leaf is of the wrong kind.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> scores = {"w": jnp.array([[0.3, 0.1], [0.2, 0.9]])}
      >>> jax.jit(plan_counts(scores, [[1], [3]]).make)(scores, 1)["w"].tolist()
      [[False, False], [False, True]]
    """
    targets = tuple(tuple(int(k) for k in each) for each in counts)
    if not targets:
        raise ValueError("counts is empty; give the counts of at least one mask.")
    _make.check_trees(like, None)
    axes = _layers.axes_of(stacked, like)
    named, specs = _layers.named(like, axes), _rules_of_layers.specs_of(pattern, like, axes)
    counted = [i for i, spec in enumerate(specs) if spec is None or spec.kept is None]
    for each in targets:
        if len(each) != len(named):
            raise ValueError(f"there are {len(each)} counts for {len(named)} prunable leaves.")
        for i in counted:
            path, leaf = named[i]
            if not 0 <= each[i] <= _groups.number(leaf, specs[i]):
                raise ValueError(
                    f"{each[i]} entries of {path!r} are to go, of {_groups.number(leaf, specs[i])}."
                )

    def make(scores: PyTree, index: Any, *, within: PyTree | None = None) -> PyTree:
        _make.check_trees(scores, within)
        specs = _rules_of_layers.specs_of(pattern, scores, axes)
        index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(targets) - 1)
        columns = [np.stack([limbs.to_limbs(each[i]) for each in targets]) for i in counted]
        leaves, treedef = jax.tree.flatten(scores)
        kept = None if within is None else jax.tree.leaves(within)
        now = [jnp.asarray(column)[index] for column in columns]
        layout = Layout.one_pool_each(specs, axes)
        masks, *_ = _engine.masks_of(leaves, kept, now, None, layout)
        return jax.tree.unflatten(treedef, masks)

    return Plan(targets, make)


def _removed_nm(leaf: Any, spec: PatternSpec | None) -> int:
    """How many weights of a leaf an N:M pattern removes; 0 for other patterns."""
    if spec is None or spec.kept is None:
        return 0
    sizes = _pattern.sizes_of(leaf.shape, spec)
    each = _groups.number(leaf, spec) // max(sizes.size, 1)
    return each * int(np.maximum(sizes - spec.kept, 0).sum())
