"""What a named sweep is: a comparison of a paper, its claims, and grids that test them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.sweeps import Sweep


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement about two groups of runs that are paired by all else.

    Attributes:
      text: the claim, in words.
      better: what the runs have of which it is said that they end with the higher accuracy.
      worse: what the others have.
      kind: "above": at least as good, ``better`` minus ``worse`` is not negative; "equal": they
        differ by no more than ``margin``.
      margin: in accuracy, a fraction; for "equal".
      where: which runs it is about; a tuple is a choice.
    """

    text: str
    better: Mapping[str, Any]
    worse: Mapping[str, Any]
    kind: Literal["above", "equal"] = "above"
    margin: float = 0.005
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Paper:
    """A comparison of a paper.

    Attributes:
      name: of the module.
      source: paper, and table or figure.
      about: what is compared, a sentence or two.
      rows: columns of the results that number the rows of its table.
      columns: those that number its columns.
      sizes: the grids: "tiny" (minutes on two cores), "cpu", "full" (the paper's setting).
      notes: of each size: hardware, time, expected result.
      claims: what is decided.
    """

    name: str
    source: str
    about: str
    rows: Sequence[str]
    columns: Sequence[str]
    sizes: Mapping[str, Sweep]
    notes: Mapping[str, str]
    claims: Sequence[Claim]


def sized(
    name: str,
    shared: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    **sizes: Mapping[str, Any],
) -> dict[str, Sweep]:
    """Sweeps of several sizes, which have all but some options in common."""
    return {size: Sweep(name, {**shared, **options}, variants) for size, options in sizes.items()}
