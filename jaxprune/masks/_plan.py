"""Masks for a list of sparsities known beforehand: counts on the host, the choice as data."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks import _engine, _make, _pattern
from jaxprune.masks._allocation import Allocation
from jaxprune.masks._globally import globally
from jaxprune.masks._pattern import Pattern


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
    if not targets:
        raise ValueError("sparsities is empty; name at least one target.")
    _make.check_fit(like, targets, allocation=allocation, pattern=pattern)
    allocate = allocation or globally()

    def make(scores: PyTree, index: Any, *, within: PyTree | None = None) -> PyTree:
        _make.check_trees(scores, within)
        named = _tree.named_leaves(scores)
        specs = _pattern.resolve(pattern, scores)
        rescaled, pools = allocate(scores, within)
        chosen, tables, limits = pools, [], None
        for target in targets:
            chosen, counts, limits = _make.counts_of(pools, target, named, specs)
            tables.append(counts)
        index = jnp.clip(jnp.asarray(index, jnp.int32), 0, len(targets) - 1)
        counts = [jnp.asarray(np.stack(column))[index] for column in zip(*tables, strict=True)]
        leaves, treedef = jax.tree.flatten(rescaled)
        kept = None if within is None else jax.tree.leaves(within)
        masks, _ = _engine.masks_of(
            leaves, kept, counts, limits, chosen.leaves, chosen.shared, specs
        )
        return jax.tree.unflatten(treedef, masks)

    return Plan(targets, make)
