"""How a total is spread over the leaves.

An allocation is a function ``(scores, within) -> (scores, pools)``. It may rescale scores, and
says which leaves are counted together and how many weights each such pool loses.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks._count import Count, count

OnCollapse: TypeAlias = Literal["error", "warn", "allow"]


class Pools(NamedTuple):
    """Which leaves are counted together, and how many weights each pool loses.

    Attributes:
      leaves: for each pool the indices of its leaves, in `jax.tree.leaves` order of the scores.
      counts: ``counts(sparsity)`` gives one count a pool (see `count`).
      on_collapse: what to do when a leaf loses its last weight.
    """

    leaves: tuple[tuple[int, ...], ...]
    counts: Callable[[Any], tuple[Count, ...]]
    on_collapse: OnCollapse


Allocation: TypeAlias = Callable[[PyTree, PyTree | None], tuple[PyTree, Pools]]


def _check_on_collapse(on_collapse: str) -> None:
    if on_collapse not in ("error", "warn", "allow"):
        raise ValueError(f"on_collapse is 'error', 'warn' or 'allow'; got {on_collapse!r}.")


def globally(*, on_collapse: OnCollapse = "error") -> Allocation:
    """Counts all prunable weights together: one threshold for the whole network.

    Exactly ``round(sparsity * n)`` of the n prunable weights go, wherever their scores are lowest.

    Args:
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`.

    Raises:
      ValueError: if ``on_collapse`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
      >>> mask = jp.masks.make(scores, 0.25, allocation=globally())
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [True, True])

    References:
      Zimmer et al., ICLR 2023, section 2: global magnitude pruning is the default of IMP.
    """
    _check_on_collapse(on_collapse)

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # the pool's count does not depend on what is gone already
        n = _tree.size(scores)
        everything = tuple(range(len(jax.tree.leaves(scores))))
        return scores, Pools((everything,), lambda sparsity: (count(sparsity, n),), on_collapse)

    return allocate


def uniform(*, on_collapse: OnCollapse = "error") -> Allocation:
    """Removes the same fraction of every prunable leaf.

    Exactly ``round(sparsity * n_i)`` of the n_i weights of leaf i go. The total follows from
    these and can differ from ``round(sparsity * n)`` by rounding.

    Args:
      on_collapse: what to do when a leaf loses its last weight: "error", "warn" or "allow".

    Returns:
      An allocation, to be passed to `make` or `prune`.

    Raises:
      ValueError: if ``on_collapse`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
      >>> mask = jp.masks.make(scores, 0.5, allocation=uniform())
      >>> mask["a"].tolist(), mask["b"].tolist()
      ([False, True], [False, True])

    References:
      Han et al., 2015, prune layer by layer; Zhu & Gupta, To prune, or not to prune, 2017.
    """
    _check_on_collapse(on_collapse)

    def allocate(scores: PyTree, within: PyTree | None) -> tuple[PyTree, Pools]:
        del within  # the leaf's count does not depend on what is gone already
        sizes = [_tree.size(leaf) for leaf in jax.tree.leaves(scores)]
        each = tuple((i,) for i in range(len(sizes)))
        return scores, Pools(each, lambda s: tuple(count(s, n) for n in sizes), on_collapse)

    return allocate
