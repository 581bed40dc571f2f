"""What an allocation is: how a total is spread over the leaves.

An allocation is a function ``(scores, within) -> (scores, pools)``. It may rescale scores, and
says which leaves are counted together and how many entries each such pool loses. An entry is a
weight, or, with a pattern of blocks or channels, one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxprune._count import Count
from jaxprune._tree import PyTree

OnCollapse: TypeAlias = Literal["error", "warn", "allow"]


class Pools(NamedTuple):
    """Which leaves are counted together, and how many entries each pool loses.

    Attributes:
      leaves: for each pool the indices of its leaves, in `jax.tree.leaves` order of the scores.
      counts: ``counts(sparsity, sizes)`` gives one count a pool (see `count`); ``sizes`` are the
        numbers of entries of all leaves, and ``sparsity`` is `None` if the caller gave none.
      on_collapse: what to do when a leaf loses its last weight.
      limits: ``limits(sizes)`` gives the fewest and the most entries that each leaf may lose, or
        `None` where a pool takes them wherever scores are lowest.
      shared: whether the counts of the pools, one leaf each, add up to one total.
      fixed: whether ``counts`` has an answer without a sparsity.
      units: of each leaf the axes of its output units, where each of these loses the same number
        and ``counts`` gives that number; empty tuples, or nothing at all, where leaves are counted
        whole. Such a leaf is in a pool of its own.
    """

    leaves: tuple[tuple[int, ...], ...]
    counts: Callable[[Any, Sequence[int]], tuple[Count, ...]]
    on_collapse: OnCollapse
    limits: Callable[[Sequence[int]], tuple[tuple[int, ...], tuple[int, ...]]] | None = None
    shared: bool = False
    fixed: bool = False
    units: tuple[tuple[int, ...], ...] = ()


Allocation: TypeAlias = Callable[[PyTree, PyTree | None], tuple[PyTree, Pools]]


def check_on_collapse(on_collapse: str) -> None:
    """Raises if ``on_collapse`` is not one of the three words.

    Raises:
      ValueError: naming them.
    """
    if on_collapse not in ("error", "warn", "allow"):
        raise ValueError(f"on_collapse is 'error', 'warn' or 'allow'; got {on_collapse!r}.")


def one_each(leaves: int) -> tuple[tuple[int, ...], ...]:
    """One pool a leaf."""
    return tuple((i,) for i in range(leaves))
