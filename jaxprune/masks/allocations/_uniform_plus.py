"""Uniform+: uniform, but gentle with the first convolution and the last dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks.allocations import _limits
from jaxprune.masks.allocations._allocation import Allocation, OnCollapse, Pools, check_on_collapse
from jaxprune.masks.allocations._proportional import proportional
from jaxprune.masks.allocations._rules import matches


def uniform_plus(
    *,
    first: str | None = None,
    last: str | None = None,
    last_max_sparsity: float = 0.8,
    keep_at_least: Any = None,
    on_collapse: OnCollapse = "error",
) -> Allocation:
    """Removes the same fraction everywhere, except of the first and the last layer.

    The first convolution stays dense and the last dense layer loses at most 80 %; all others have
    one density, such that exactly ``round(sparsity * n)`` weights go.

    A tree of parameters has no order of layers, so these two are found by shape: the first
    convolution is the leaf of rank 3 or more with the fewest input channels (second to last axis,
    as in Flax and Haiku), the last dense layer the only leaf of rank 2. Where that is ambiguous,
    as in Equinox' layout, they must be named. So must the first convolution where one leaf has one
    input channel and another two to four: a depthwise kernel, ``[3, 3, 1, C]``, looks like the
    first convolution on grey images.

    Args:
      first: path of the first convolution, or a regular expression for it; "" if there is none.
      last: path of the last dense layer, or a regular expression for it; "" if there is none.
      last_max_sparsity: the largest fraction that the last dense layer loses.
      keep_at_least: how many weights each leaf keeps in any case; as for `globally`.
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`. It raises ValueError if a layer has to be
      named or is not found, or if the total cannot be reached.

    Raises:
      ValueError: if ``on_collapse`` is unknown or ``last_max_sparsity`` lies outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"conv": jnp.ones((3, 3, 1, 2)), "mid": jnp.ones((3, 3, 2, 4)),
      ...           "out": jnp.ones((10, 1))}
      >>> mask = jp.masks.make(scores, 0.5, allocation=uniform_plus(first="conv"))
      >>> [row.kept for row in jp.metrics.sparsity_per_leaf(mask)]  # 50 of 100
      [18, 28, 4]

    References:
      Gale et al., The State of Sparsity in Deep Neural Networks, 2019, section 4.3.
    """
    check_on_collapse(on_collapse)
    if not 0.0 <= last_max_sparsity <= 1.0:
        raise ValueError(f"last_max_sparsity lies in [0, 1]; got {last_max_sparsity!r}.")

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # densities do not depend on what is gone
        named = _tree.named_leaves(scores)
        small = _limits.LeafLimits(scores, None, None, keep_at_least)
        dense = _first(named) if first is None else _named(first, named, "first")
        spared = _last(named) if last is None else _named(last, named, "last")

        def limits(sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
            most = list(sizes)
            if spared is not None:
                most[spared] = round(last_max_sparsity * sizes[spared])
            if dense is not None:
                most[dense] = 0
            return (0,) * len(sizes), tuple(map(min, most, small.counts(sizes)[1]))

        return proportional(scores, [1.0] * len(named), limits=limits, on_collapse=on_collapse)

    return allocate


def _named(pattern: str, named: list[tuple[str, jax.Array]], what: str) -> int | None:
    if not pattern:
        return None
    hits = matches(pattern, [path for path, _ in named], f"uniform_plus(): {what}")
    if len(hits) != 1:
        paths = ", ".join(repr(named[i][0]) for i in hits) or "none"
        raise ValueError(
            f"uniform_plus(): {what}={pattern!r} must match one prunable leaf, and matches {paths} "
            f"of {[path for path, _ in named][:8]}."
        )
    return hits[0]


def _first(named: list[tuple[str, jax.Array]]) -> int | None:
    # Projections of attention, [in, heads, head_dim], have three axes as well.
    projections = ("query", "key", "value", "out")
    convolutions = [
        i for i, (p, x) in enumerate(named) if x.ndim > 2 and _tree.owner(p) not in projections
    ]
    if not convolutions:
        return None
    channels = {i: named[i][1].shape[-2] for i in convolutions}
    fewest = [i for i in convolutions if channels[i] == min(channels.values())]
    if channels[fewest[0]] == 1:
        # One input channel: of grey images, or of a depthwise kernel behind a stem that reads
        # a few (two to four: colours, with transparency, optical flow).
        fewest += [i for i in convolutions if 2 <= channels[i] <= 4]
    return _only(fewest, named, "the first convolution", "first")


def _last(named: list[tuple[str, jax.Array]]) -> int | None:
    matrices = [i for i, (_, leaf) in enumerate(named) if leaf.ndim == 2]
    return _only(matrices, named, "the last dense layer", "last") if matrices else None


def _only(
    candidates: list[int], named: list[tuple[str, jax.Array]], what: str, argument: str
) -> int:
    if len(candidates) > 1:
        raise ValueError(
            f"uniform_plus() cannot tell {what} from the shapes of "
            f"{', '.join(repr(named[i][0]) for i in candidates[:8])}. Name it: {argument}=PATH "
            f'({argument}="" if there is none).'
        )
    return candidates[0]
