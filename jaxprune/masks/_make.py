"""From scores to a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune import _layers, _tree
from jaxprune._checks import check_function
from jaxprune._layers import Stacked
from jaxprune._mask import check_bool
from jaxprune._selection import limbs
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _rules_of_layers, allocations, patterns
from jaxprune.masks._info import PruneInfo
from jaxprune.masks._parts import Layout
from jaxprune.masks.allocations import Allocation, Pools, globally
from jaxprune.masks.patterns import Pattern, PatternSpec, _groups, _nm


def make(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> PyTree:
    """Makes the mask that removes the lowest scores.

    Counts are exact: ``round(sparsity * n)`` (half to even) of n weights go, at every n and for
    every dtype; with a pattern of blocks or channels n counts those. Among equal scores the lowest
    index (order of `jax.tree.leaves`, then C order) is removed first; -0.0 equals +0.0; NaN of
    either sign counts as the largest. With ``within`` the new mask is a subset of it.

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
      stacked: where a leaf holds several layers, stacked along some of its axes, as
        `flax.linen.scan`, experts and ensembles have them: rules from a path, or a regular
        expression that matches a whole path, to the axis or the axes, such as
        ``{"layers/.*": 0}``. Each index along these axes is then a layer of its own for
        allocations, limits, patterns and the check for collapse, as if it were a leaf; its path is
        that of the leaf with the index behind it, ``"layers/kernel[3]"``. Rules on paths may name
        either. Axes that a pattern or an allocation names are those of a layer.

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
    mask, _ = make_and_apply(
        None,
        scores,
        sparsity,
        within=within,
        allocation=allocation,
        pattern=pattern,
        stacked=stacked,
    )
    return mask


def make_and_apply(
    weights: list[Any] | None,
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> tuple[PyTree, list[Any]]:
    """Makes a mask as `make` does, and applies it to weights, in one program where it is compiled.

    Args:
      weights: the weights that the leaves of ``scores`` are of, or `None`.
      scores: as for `make`.
      sparsity: as for `make`.
      within: as for `make`.
      allocation: as for `make`.
      pattern: as for `make`.
      stacked: as for `make`.

    Returns:
      The mask, and the weights with +0.0 where it is False.

    Raises:
      ValueError, TypeError: as `make`.
    """
    mask, pruned, info = _made(weights, scores, sparsity, within, allocation, pattern, stacked)
    if not _tree.is_traced(info):
        nothing = within is None and (sparsity is None or sparsity == 0)
        jax.device_get(info).check(may_remove_nothing=nothing)
    return mask, pruned


def make_with_info(
    scores: PyTree,
    sparsity: Any,
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> tuple[PyTree, PruneInfo]:
    """Makes a mask as `make` does, and returns what happened instead of raising it.

    Call ``info.check()`` on the host to get the errors and warnings of `make`.

    Args:
      scores: as for `make`.
      sparsity: as for `make`.
      within: as for `make`.
      allocation: as for `make`.
      pattern: as for `make`.
      stacked: as for `make`.

    Returns:
      The mask, and a `PruneInfo`.

    Raises:
      ValueError: for what can be seen before any value: an invalid sparsity, no prunable weight,
        trees that differ, an allocation that leaves out a leaf or takes it twice.
      TypeError: if the sparsity is not a number, or a leaf is of the wrong kind.
    """
    mask, _, info = _made(None, scores, sparsity, within, allocation, pattern, stacked)
    return mask, info


def _made(
    weights: list[Any] | None,
    scores: PyTree,
    sparsity: Any,
    within: PyTree | None,
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: Stacked | None,
) -> tuple[PyTree, list[Any], PruneInfo]:
    check_trees(scores, within)
    check_rules(allocation, pattern)
    axes = _layers.axes_of(stacked, scores)
    layers = _layers.named(scores, axes)
    specs = _rules_of_layers.specs_of(pattern, scores, axes)
    leaves, pools = _rules_of_layers.allocate(allocation or globally(), scores, within, axes)
    pools, counts, limits = counts_of(pools, sparsity, layers, specs)
    layout = layout_of(pools, layers, specs, axes)
    kept_before = None if within is None else jax.tree.leaves(within)
    masks, pruned, fields = _engine.masks_of(leaves, kept_before, counts, limits, layout, weights)
    info = PruneInfo(
        *fields,
        paths=tuple(path for path, _ in layers),
        sizes=tuple(_tree.size(layer) for _, layer in layers),
        pools=pools.leaves,
        unit="groups" if any(s is not None and s.kept is None for s in specs) else "weights",
        on_collapse=pools.on_collapse,
    )
    return jax.tree.unflatten(jax.tree.structure(scores), masks), pruned, info


def layout_of(
    pools: Pools, layers: Sequence[tuple[str, Any]], specs: Sequence[Any], axes: _layers.Axes
) -> Layout:
    """What the engine must know before any value.

    Raises:
      ValueError: if an allocation counts output units of what it or a pattern cannot count so.
    """
    units = pools.units or ((),) * len(layers)
    for members in pools.leaves:
        cut = [i for i in members if units[i]]
        if cut and (len(members) > 1 or pools.limits is not None or specs[cut[0]] is not None):
            raise ValueError(
                f"the allocation counts {layers[cut[0]][0]!r} by output units: such a layer is in "
                "a pool of its own, and takes neither limits nor a pattern of blocks or channels."
            )
    return Layout(pools.leaves, pools.shared, tuple(specs), axes, tuple(units))


def check_rules(allocation: Any, pattern: Any) -> None:
    """Raises if an allocation or a pattern is none, or the factory that makes one.

    Raises:
      TypeError: with the repair.
    """
    for name, rule, package in (
        ("allocation", allocation, allocations),
        ("pattern", pattern, patterns),
    ):
        check_function(name, rule)
        factory = getattr(rule, "__name__", "")
        if rule is not None and getattr(package, factory, None) is rule:
            raise TypeError(
                f"{name}={factory} is the function that makes one; call it, e.g. "
                f"{name}=jp.masks.{factory}(...)."
            )


def check_fit(
    scores: PyTree,
    sparsities: Sequence[Any],
    *,
    within: PyTree | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    stacked: Stacked | None = None,
) -> None:
    """Raises what `make` would raise for these sparsities without looking at any value.

    For drivers that prune after hours of training and should refuse at once what cannot be done.

    Args:
      scores: the scores, or their shapes (`jax.eval_shape`).
      sparsities: one or more, as for `make`.
      within: as for `make`; its structure and shapes only.
      allocation: as for `make`.
      pattern: as for `make`.
      stacked: as for `make`.

    Raises:
      ValueError: if there is no prunable weight, the trees differ, or allocation or pattern do not
        fit the leaves or a sparsity.
      TypeError: if a leaf or an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> check_fit({"w": jnp.ones((4, 4))}, [0.5], pattern=jp.masks.nm(2, 4, axis=0))
    """
    check_trees(scores, within)
    check_rules(allocation, pattern)
    axes = _layers.axes_of(stacked, scores)

    def trace(scores: PyTree, within: PyTree | None) -> None:
        specs = _rules_of_layers.specs_of(pattern, scores, axes)
        _, pools = _rules_of_layers.allocate(allocation or globally(), scores, within, axes)
        layers = _layers.named(scores, axes)
        for sparsity in sparsities:
            counts_of(pools, sparsity, layers, specs)
        layout_of(pools, layers, specs, axes)

    jax.eval_shape(trace, scores, within)


def check_trees(scores: PyTree, within: PyTree | None) -> None:
    """Raises if scores or the mask `within` are wrong, whatever their values."""
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
                f"{path!r} has an axis of {max(leaf.shape)} entries; an axis must stay below "
                "2**32. Reshape it to two axes."
            )
    if not _tree.size(scores):
        path, leaf = named[0]
        raise ValueError(
            f"the scores have no prunable weight: every leaf is empty, such as {path!r} of shape "
            f"{leaf.shape}. Let `where` take leaves that have some."
        )
    if within is not None:
        _tree.check_matches(within, scores, what="mask `within`")
        _check_same_leaves(within, scores)


def _check_same_leaves(within: PyTree, scores: PyTree) -> None:
    ours, theirs = _tree.named_leaves(within), _tree.named_leaves(scores)
    check_bool(within, what="a mask `within`")
    differing = sorted({path for path, _ in ours} ^ {path for path, _ in theirs})
    if differing:
        raise ValueError(
            f"`within` and the scores disagree on what is prunable, first at {differing[0]!r}. "
            "Use the same `where` in every cycle."
        )


def counts_of(
    pools: Pools,
    sparsity: Any,
    named: Sequence[tuple[str, Any]],
    specs: Sequence[PatternSpec | None],
) -> tuple[Pools, list[Any], tuple[Any, Any] | None]:
    """The pools without leaves of N:M, how many entries each loses, and the limits, in limbs."""
    fixed = [spec is not None and spec.kept is not None for spec in specs]
    paths = [path for path, _ in named]
    _check_pools(pools, paths, fixed)
    for spec in specs:
        if spec is not None and spec.kept is not None and sparsity is not None:
            _nm.check_sparsity(spec, sparsity)
    sizes = [
        0 if fixed_ else _groups.number(leaf, spec)
        for (_, leaf), spec, fixed_ in zip(named, specs, fixed, strict=True)
    ]
    if any(fixed) and sparsity is None and not pools.fixed:
        counts: Sequence[Any] = [0] * len(pools.leaves)  # the other leaves stay dense
    else:
        counts = pools.counts(sparsity, sizes)
    if len(counts) != len(pools.leaves):
        first = pools.leaves[len(counts)] if len(counts) < len(pools.leaves) else ()
        of = f"; the first without one holds {paths[first[0]]!r}" if first else ""
        raise ValueError(
            f"the allocation gives {len(counts)} counts for {len(pools.leaves)} pools{of}. Let "
            "`counts` give one a pool."
        )
    members = [tuple(i for i in pool if not fixed[i]) for pool in pools.leaves]
    numbers = [limbs.to_limbs(c) for c, pool in zip(counts, members, strict=True) if pool]
    limits = None
    if pools.limits is not None:
        least, most = pools.limits(sizes)
        limits = (limbs.stack_limbs(least), limbs.stack_limbs(most))
    return pools._replace(leaves=tuple(pool for pool in members if pool)), numbers, limits


def _check_pools(pools: Pools, paths: Sequence[str], fixed: Sequence[bool]) -> None:
    """Raises unless every leaf that is to be counted is in one pool."""
    places = [0] * len(paths)
    for pool in pools.leaves:
        for i in pool:
            if not 0 <= i < len(paths):
                raise ValueError(
                    f"the allocation has the leaf {i} in a pool, but the scores have "
                    f"{len(paths)}, from 0 ({paths[0]!r}) to {len(paths) - 1} ({paths[-1]!r})."
                )
            places[i] += 1
    for path, number, fixed_ in zip(paths, places, fixed, strict=True):
        if number != 1 and not fixed_:
            raise ValueError(
                f"the allocation has {path!r} in {number} pools. Put every leaf in one, by its "
                "place in jax.tree.leaves(scores); one that stays dense in a pool that loses 0."
            )
