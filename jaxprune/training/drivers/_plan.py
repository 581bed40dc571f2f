"""The plan of a run: sparsities, steps and learning rates of every cycle, checked up front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import optax

from jaxprune import schedules
from jaxprune.masks import count


class Cycle(NamedTuple):
    """One cycle to come.

    Attributes:
      number: 1, 2, ...
      sparsity: fraction removed after its prune.
      retraining_steps: steps after it.
    """

    number: int
    sparsity: float
    retraining_steps: int


class Plan(NamedTuple):
    """A run to come.

    Attributes:
      steps: T, pretraining steps.
      pretraining_rates: float32 ``[T]``.
      cycles: the cycles in order.
      discounted: whether rates of retraining are multiplied by the discount of ALLR.
      undiscounted: for each cycle float32 ``[retraining steps]``, before any discount.
    """

    steps: int
    pretraining_rates: np.ndarray
    cycles: tuple[Cycle, ...]
    discounted: bool
    undiscounted: tuple[np.ndarray, ...]

    def total_steps(self, *, pretrain: bool) -> int:
        """Training steps of all phases together."""
        retraining = sum(cycle.retraining_steps for cycle in self.cycles)
        return retraining + (self.steps if pretrain else 0)


def split_steps(total: int, cycles: int) -> tuple[int, ...]:
    """Splits ``total`` steps evenly over ``cycles``; the last cycle gets the remainder.

    Example:
      >>> split_steps(100, 3)
      (33, 33, 34)
    """
    each = total // cycles
    return (each,) * (cycles - 1) + (total - each * (cycles - 1),)


def plan_cycles(
    pretraining: optax.Schedule,
    *,
    pretraining_steps: int,
    sparsity: float,
    cycles: int,
    retraining_steps: int | None,
    total_retraining_steps: int | None,
    schedule: str,
    pretraining_warmup_steps: int,
    warmup: float | None,
    peak: float | None,
    sparsities: Sequence[float] | None,
) -> Plan:
    """Works out a run and raises every error that can be known before it; see `imp`."""
    count(sparsity, 1)  # raises unless a number in [0, 1)
    targets = _targets(sparsity, cycles, sparsities)
    if (retraining_steps is None) == (total_retraining_steps is None):
        raise ValueError(
            "give either retraining_steps (of each cycle) or total_retraining_steps (to split); "
            f"got {retraining_steps} and {total_retraining_steps}."
        )
    if total_retraining_steps is not None and total_retraining_steps < len(targets):
        raise ValueError(
            f"total_retraining_steps={total_retraining_steps} leaves less than one step for each "
            f"of {len(targets)} cycles."
        )
    steps = (
        (retraining_steps,) * len(targets)
        if retraining_steps is not None
        else split_steps(total_retraining_steps or 0, len(targets))
    )
    tables = {}
    for n in dict.fromkeys(steps):
        rates = schedules.retraining(
            schedule,
            pretraining,
            pretraining_steps=pretraining_steps,
            retraining_steps=n,
            pretraining_warmup_steps=pretraining_warmup_steps,
            warmup=warmup,
            peak=peak,
            discount=1.0 if schedule == "allr" else None,
        )
        tables[n] = np.asarray(rates(np.arange(n)))
    # LRW over the whole of pretraining is pretraining itself, read once and checked.
    dense = schedules.lrw(
        pretraining, pretraining_steps=pretraining_steps, retraining_steps=pretraining_steps
    )
    return Plan(
        steps=pretraining_steps,
        pretraining_rates=np.asarray(dense(np.arange(pretraining_steps))),
        cycles=tuple(
            Cycle(i + 1, s, n) for i, (s, n) in enumerate(zip(targets, steps, strict=True))
        ),
        discounted=schedule == "allr",
        undiscounted=tuple(tables[n] for n in steps),
    )


def _targets(sparsity: float, cycles: int, sparsities: Sequence[float] | None) -> tuple[float, ...]:
    if sparsities is None:
        return tuple(schedules.imp_sparsities(sparsity, cycles))
    targets = tuple(sparsities)
    if not targets or targets[-1] != sparsity:
        raise ValueError(
            f"sparsities must end at sparsity={sparsity}; got {list(targets)}. Pass "
            "sparsity=sparsities[-1]."
        )
    for s in targets:
        count(s, 1)
    if any(b <= a for a, b in itertools.pairwise(targets)):
        raise ValueError(f"sparsities must rise from cycle to cycle; got {list(targets)}.")
    return targets
