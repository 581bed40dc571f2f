"""Masks of given counts, leaf by leaf: how many entries go is an integer, not a fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._selection import limbs
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _make
from jaxprune.masks._plan import Plan
from jaxprune.masks.allocations import globally
from jaxprune.masks.allocations._allocation import Allocation, one_each
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
) -> LeafCounts:
    """Counts on the host how many entries of each leaf `make` removes.

    Args:
      like: the scores, or their shapes; `None` where a leaf is not prunable.
      sparsity: as for `make`, a Python number or `None`.
      allocation: as for `make`; one that counts every leaf alone.
      pattern: as for `make`.

    Returns:
      The counts, as Python integers.

    Raises:
      ValueError: if the allocation counts leaves together, so that scores decide; else what `make`
        raises without looking at any score.
      TypeError: if a leaf or an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> leaf_counts({"w": jnp.ones((4, 4))}, 0.75, allocation=jp.masks.uniform())
      LeafCounts(entries=(16,), removed=(12,))
    """
    _make.check_fit(like, [sparsity], allocation=allocation, pattern=pattern)
    named = _tree.named_leaves(like)
    specs = _pattern.resolve(pattern, like)
    found: list[Any] = []

    def trace(scores: PyTree) -> None:
        # Traced, because an allocation may compute with scores; counts come from shapes alone.
        _, pools = (allocation or globally())(scores, None)
        found.append(_make.counts_of(pools, sparsity, _tree.named_leaves(scores), specs))

    jax.eval_shape(trace, like)
    ((pools, counts, _),) = found
    removed = [_removed_nm(x, spec) for (_, x), spec in zip(named, specs, strict=True)]
    for members, count in zip(pools.leaves, counts, strict=True):
        if len(members) > 1:
            paths = " and ".join(repr(named[i][0]) for i in members[:2])
            raise ValueError(
                f"the allocation counts {paths} together, so that how many weights each leaf "
                "keeps depends on scores. Pass one that counts every leaf alone, such as "
                "jp.masks.erk() or jp.masks.uniform()."
            )
        removed[members[0]] = limbs.from_limbs(count)
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
) -> int:
    """Counts on the host how many entries `make` removes of all leaves together.

    Args:
      like: as for `leaf_counts`.
      sparsity: a Python number.
      allocation: as for `make`.
      pattern: as for `make`.

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
    specs = _pattern.resolve(pattern, like)
    found: list[Any] = []

    def trace(scores: PyTree) -> None:
        _, pools = (allocation or globally())(scores, None)
        found.append(_make.counts_of(pools, sparsity, _tree.named_leaves(scores), specs)[1])

    jax.eval_shape(trace, like)
    leaves = jax.tree.leaves(like)
    fixed = sum(_removed_nm(x, spec) for x, spec in zip(leaves, specs, strict=True))
    return fixed + sum(limbs.from_limbs(count) for count in found[0])


def plan_counts(
    like: PyTree, counts: Sequence[Sequence[int]], *, pattern: Pattern | None = None
) -> Plan:
    """Prepares masks that remove given numbers of entries of each leaf.

    As `plan`, but with counts in place of sparsities, for methods that fix their own.

    Args:
      like: the scores that will come, or their shapes; `None` where a leaf is not prunable.
      counts: for each mask how many entries of each leaf it removes in all, those that ``within``
        has removed included; Python integers in `jax.tree.leaves` order. Those of a leaf with an
        N:M pattern are not looked at.
      pattern: as for `make`.

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
    named, specs = _tree.named_leaves(like), _pattern.resolve(pattern, like)
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
        specs = _pattern.resolve(pattern, scores)
        index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(targets) - 1)
        columns = [np.stack([limbs.to_limbs(each[i]) for each in targets]) for i in counted]
        leaves, treedef = jax.tree.flatten(scores)
        kept = None if within is None else jax.tree.leaves(within)
        now = [jnp.asarray(column)[index] for column in columns]
        pools = tuple(pool for pool in one_each(len(leaves)) if pool[0] in counted)
        masks, *_ = _engine.masks_of(leaves, kept, now, None, pools, False, specs)
        return jax.tree.unflatten(treedef, masks)

    return Plan(targets, make)


def _removed_nm(leaf: Any, spec: PatternSpec | None) -> int:
    """How many weights of a leaf an N:M pattern removes; 0 for other patterns."""
    if spec is None or spec.kept is None:
        return 0
    return _groups.number(leaf, spec) * (math.prod(spec.group) - spec.kept)
