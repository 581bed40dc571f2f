"""Masks for a list of sparsities known beforehand: counts on the host, the choice as data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _make, _rules_of_layers
from jaxprune.masks._parts import Layout
from jaxprune.masks.allocations import Allocation, Pools, globally
from jaxprune.masks.patterns import Pattern


class Plan(NamedTuple):
    """What `plan` returns.

    Attributes:
      sparsities: the targets, as given.
      make: ``make(scores, index, *, within=None) -> mask``. ``index`` is a (traced) integer into
        ``sparsities``; past an end it means the last or the first.
    """

    sparsities: tuple[Any, ...]
    make: Callable[..., PyTree]


def plan(
    like: PyTree,
    sparsities: Sequence[Any],
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> Plan:
    """Prepares the masks of a gradual pruning, whose target of each prune is known beforehand.

    A traced sparsity could only mean its float32 value. Here every target is counted on the host,
    in Python integers, and compiled code chooses among the counts, so that a mask made inside a
    training step is the one that `make` gives outside.

    Args:
      like: the scores that will come, or their shapes; `None` where a leaf is not prunable.
      sparsities: the targets, Python numbers in [0, 1); `None` as for `make`.
      allocation: as for `make`.
      pattern: as for `make`.
      stacked: as for `make`.

    Returns:
      A `Plan`. Its ``make`` has the written result of traced code: NaN is kept, and a target below
      the sparsity of ``within`` returns ``within``.

    Raises:
      ValueError: what `make` raises for one of the sparsities, without looking at any score.
      TypeError: if a leaf or an argument is of the wrong kind.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"w": jnp.array([[0.3, 0.1], [0.2, 0.9]])}
      >>> gradual = jp.masks.plan(scores, [0.25, 0.5])
      >>> jax.jit(gradual.make)(scores, 1)["w"].tolist()
      [[True, False], [False, True]]
    """
    targets = tuple(sparsities)
    beforehand = counted(like, targets, allocation=allocation, pattern=pattern, stacked=stacked)
    shapes, axes = _shapes(like), _layers.axes_of(stacked, like)

    def make(scores: PyTree, index: Any, *, within: PyTree | None = None) -> PyTree:
        _make.check_trees(scores, within)
        specs = _rules_of_layers.specs_of(pattern, scores, axes)
        leaves, pools = _rules_of_layers.allocate(allocation or globally(), scores, within, axes)
        known = beforehand
        if (pools.leaves, pools.shared) != known.asked or _shapes(scores) != shapes:
            known = _count(targets, pools, _layers.named(scores, axes), specs, axes)
        index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(targets) - 1)
        counts = list(jnp.asarray(known.table)[index]) if known.table.size else []
        kept = None if within is None else jax.tree.leaves(within)
        masks, *_ = _engine.masks_of(leaves, kept, counts, known.limits, known.layout)
        return jax.tree.unflatten(jax.tree.structure(scores), masks)

    return Plan(targets, make)


def counted(
    like: PyTree,
    sparsities: Sequence[Any],
    *,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> Counted:
    """Counts what `plan` needs, from shapes alone.

    Raises:
      ValueError, TypeError: as `plan`.
    """
    targets = tuple(sparsities)
    if not targets:
        raise ValueError("sparsities is empty; name at least one target.")
    _make.check_trees(like, None)
    axes = _layers.axes_of(stacked, like)
    return _counted(targets, allocation, pattern, axes, _shapes(like))


class Counted(NamedTuple):
    """All that is counted beforehand.

    Attributes:
      asked: the leaves of the pools, and ``shared``, as the allocation gave them.
      layout: the pools without leaves of N:M, and what else is known.
      table: how many entries go, uint32 ``[targets, pools, 2]``, in limbs.
      limits: the fewest and the most entries that each layer may lose, in limbs, or `None`.
    """

    asked: tuple[Any, bool]
    layout: Layout
    table: np.ndarray
    limits: tuple[Any, Any] | None


def _count(
    targets: Sequence[Any], pools: Pools, layers: Any, specs: Any, axes: _layers.Axes
) -> Counted:
    chosen, rows, limits = pools, [], None
    for target in targets:
        chosen, counts, limits = _make.counts_of(pools, target, layers, specs)
        rows.append(np.reshape([np.asarray(k) for k in counts], (-1, 2)).astype(np.uint32))
    asked, layout = (pools.leaves, pools.shared), _make.layout_of(chosen, layers, specs, axes)
    return Counted(asked, layout, np.stack(rows), limits)


def _shapes(tree: PyTree) -> tuple[Any, tuple[Any, ...]]:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((tuple(x.shape), jnp.dtype(x.dtype).name) for x in leaves)


def _counted(
    targets: tuple[Any, ...],
    allocation: Allocation | None,
    pattern: Pattern | None,
    axes: _layers.Axes,
    shapes: Any,
) -> Counted:
    # Equal numbers of other types (True, a NumPy scalar) are other targets to the checks.
    typed = tuple((type(target), target) for target in targets)
    try:
        hash((typed, allocation, pattern, shapes))
    except TypeError:
        return _remembered.__wrapped__(typed, allocation, pattern, axes, shapes)
    return _remembered(typed, allocation, pattern, axes, shapes)


# A transform makes its plan at every trace of the step: of many targets and leaves counting would
# take as long as the rest of the trace. Few entries, because they hold on to the functions given.
@functools.lru_cache(maxsize=16)
def _remembered(
    typed: tuple[Any, ...],
    allocation: Allocation | None,
    pattern: Pattern | None,
    axes: _layers.Axes,
    shapes: Any,
) -> Counted:
    targets = tuple(target for _, target in typed)
    treedef, leaves = shapes
    like = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(s, jnp.dtype(d)) for s, d in leaves])
    found: list[Counted] = []

    def trace(scores: PyTree) -> None:
        # Traced, because an allocation may compute with scores; counts come from shapes alone.
        specs = _rules_of_layers.specs_of(pattern, scores, axes)
        _, pools = _rules_of_layers.allocate(allocation or globally(), scores, None, axes)
        found.append(_count(targets, pools, _layers.named(scores, axes), specs, axes))

    jax.eval_shape(trace, like)
    return found[0]
