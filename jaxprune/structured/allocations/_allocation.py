"""What an allocation of channels is: parts counted together, and how many channels go.

An allocation is a function ``(groups, open, sparsity) -> pools``: ``open`` are the numbers of the
parts (``groups.parts``) that may lose channels. A part is a whole group, or of a group to which a
concatenation brings the channels of several layers those of one. It returns one `Pool` for all
parts that are counted together; parts of no pool keep all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxprune._checks import check_choice
from jaxprune._count import check_sparsity, count
from jaxprune.structured._groups import ChannelGroups


class Pool(NamedTuple):
    """Parts that are counted together.

    Attributes:
      parts: their numbers in ``groups.parts``.
      removed: how many of their channels go, those with the lowest scores.
    """

    parts: tuple[int, ...]
    removed: int


Allocation: TypeAlias = Callable[[ChannelGroups, Sequence[int], Any], Sequence[Pool]]
Count: TypeAlias = Literal["round", "floor_kept"]


def counting(rule: Count) -> Callable[[float, int], int]:
    """How many of n channels go at a sparsity, by the rule of that name; see `uniform`.

    Raises:
      ValueError: if there is no such rule.
    """
    check_choice("count", rule, ("round", "floor_kept"))
    return count if rule == "round" else lambda s, n: n - int(n * (1 - s))


def needed(sparsity: Any, name: str) -> float:
    """The sparsity as a Python float, for an allocation that needs one.

    Raises:
      ValueError: if there is none, or it lies outside [0, 1).
      TypeError: if it is not a number.
    """
    if sparsity is None:
        raise ValueError(f"{name} needs a sparsity: select(groups, scores, sparsity, ...).")
    return check_sparsity(sparsity)


def refused(sparsity: Any, name: str) -> None:
    """Raises if an allocation that says itself how much goes is given a sparsity.

    Raises:
      ValueError: naming both.
    """
    if sparsity is not None:
        raise ValueError(f"{name} says how much goes; leave out the sparsity {sparsity}.")
