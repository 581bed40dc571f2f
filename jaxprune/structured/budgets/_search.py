"""The search for the fraction of channels whose removal meets a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxprune.structured._groups import ChannelGroups, Part
from jaxprune.structured._masks import kept_positions
from jaxprune.structured._selection import Selection
from jaxprune.structured._shrink import cut_out
from jaxprune.structured.analysis._graph import build
from jaxprune.structured.budgets._budget import Budget, Measured, exactly

_HIT = 0.99  # of the budget: near enough
_PREDICTIONS = 64  # networks that are predicted for one proposal, about
_FINEST = 2.0**-24  # fractions nearer to each other than this are not told apart


def check_alone(budget: Budget, sparsity: Any, without: Callable[[], Any]) -> None:
    """Raises if something beside a budget says how much goes.

    Args:
      budget: the budget.
      sparsity: of `select`.
      without: selects without a sparsity, or raises if the allocation needs one.

    Raises:
      ValueError: naming it.
      TypeError: if the budget is none.
    """
    if not isinstance(budget, Budget):
        raise TypeError(
            "a budget is one of jp.structured.macs(...), parameters(...), bytes(...), "
            f"latency(...); got {budget!r}."
        )
    if sparsity is not None:
        raise ValueError(
            f"the budget of {budget.unit} says how much goes; leave out the sparsity {sparsity}."
        )
    try:
        without()
    except ValueError:
        return
    raise ValueError(
        f"the allocation says how much goes; leave out the budget of {budget.unit}, or take "
        "uniform(), globally() or isomorphic()."
    )


def met(
    budget: Budget,
    groups: ChannelGroups,
    choose: Callable[[float], Selection],
    on_limit: Literal["stop", "error"],
) -> Selection:
    """Selects the fewest channels whose removal meets a budget, by bisection.

    First over the fraction removed; then, where one step of it takes channels of several layers at
    once, over how many of these layers take it, in the order of the groups.

    Args:
      budget: the budget.
      groups: the groups.
      choose: selects for a sparsity; more for a larger one.
      on_limit: whether to raise where the budget is out of reach.

    Returns:
      What stays. Where no selection that was tried meets the budget, what comes nearest.

    Raises:
      ValueError: if groups have lost their function, or with ``on_limit="error"`` if the budget is
        out of reach.
    """
    search = _Search(budget, groups)
    if budget.table is None:
        return _bisected(search, choose, on_limit)
    return _proposed(search, choose, on_limit)


def _bisected(
    search: _Search, choose: Callable[[float], Selection], on_limit: Literal["stop", "error"]
) -> Selection:
    target = search.target
    above = search.whole
    if search.full.value <= target:
        return search.result(above)
    best = None
    low, high, fraction = 0.0, 1.0, float(np.nextafter(1.0, 0.0))
    while high - low > _FINEST and search.may_go_on(best):
        kept = choose(fraction)
        if search.is_above(kept):
            low, above = fraction, kept
        else:
            high = fraction
            best = kept if search.measured(kept) is not None else best
        fraction = (low + high) / 2
    if best is None:
        if on_limit == "error":
            raise ValueError(search.out_of_reach(above))
        return search.result(above)
    # The last step took channels of several layers at once: some of them get theirs back.
    more, less = above, best
    parts = [p for p in search.groups.parts if (more[p.group] != less[p.group])[p.units].any()]
    enough, many = 0, len(parts)
    while many - enough > 1 and search.may_go_on(best):
        number = (enough + many) // 2
        kept = _given_back(less, more, parts[:number])
        if search.is_above(kept) or search.measured(kept) is None:
            many = number
        else:
            enough, best = number, kept
    return search.result(best)


def _proposed(
    search: _Search, choose: Callable[[float], Selection], on_limit: Literal["stop", "error"]
) -> Selection:
    """By predictions: what they propose is measured, and the next ones are scaled by that."""
    if search.full.value <= search.target:
        return search.result(search.whole)
    by_prediction = search.by_prediction()
    kept, best, nearest = search.whole, None, search.whole
    while search.may_go_on(best):
        found, predicted = search.measured(kept), by_prediction.measured(kept)
        assert found is not None
        assert predicted is not None
        if not predicted.value:
            break  # nothing in it that a table knows
        by_prediction.target = search.target * predicted.value / found.value
        proposed = _bisected(by_prediction, choose, "stop")
        if search.knows(proposed):
            break
        kept = proposed
        now = search.measured(kept)
        if now is None:
            break
        if now.value <= search.target and (best is None or now.value > search.value(best)):
            best = kept
        if now.value < search.value(nearest):
            nearest = kept
    if best is None and on_limit == "error":
        raise ValueError(search.out_of_reach(nearest))
    return search.result(nearest if best is None else best)


class _Search:
    """What was measured so far, so that nothing is measured twice."""

    def __init__(self, budget: Budget, groups: ChannelGroups, graph: Any = None) -> None:
        if groups.program is None:
            raise ValueError(
                "these groups have lost their function (they were pickled), which a budget counts. "
                "Call channel_groups again."
            )
        self._budget, self.groups, self._program = budget, groups, groups.program
        if graph is None:
            graph = build(groups.program.apply, groups.program.params, groups.program.inputs)
        self._graph = graph
        self._tried: dict[bytes, Measured | None] = {}
        self.whole = Selection([np.ones(group.size, bool) for group in groups])
        full = self.measured(self.whole)
        assert full is not None  # nothing is removed, so that something is left everywhere
        self.full = full
        target = full.value * budget.amount if budget.is_fraction else budget.amount
        self.target = round(target) if isinstance(full.value, int) else target

    def measured(self, kept: Selection) -> Measured | None:
        """What is left of the shrunk function; `None` if an axis would be empty."""
        key = _key(kept)
        if key not in self._tried:
            self._tried[key] = self._measure(kept)
        return self._tried[key]

    def _measure(self, kept: Selection) -> Measured | None:
        apply, params, inputs = self._program
        try:
            stays = kept_positions(self.groups, kept)
        except ValueError:
            return None
        return self._budget.measure(*cut_out(self._graph, apply, params, stays, inputs), inputs)

    def by_prediction(self) -> _Search:
        """The same search by what the budget's table predicts, whose target is still to be set."""
        budget = self._budget

        def measure(*program: Any) -> Measured:
            return exactly(budget.table.predict(*program))

        by_prediction = budget._replace(
            measure=measure, probes=_PREDICTIONS * budget.probes, table=None
        )
        return _Search(by_prediction, self.groups, self._graph)

    def knows(self, kept: Selection) -> bool:
        """Whether a selection was measured already."""
        return _key(kept) in self._tried

    def value(self, kept: Selection) -> float:
        """What was measured of it."""
        found = self._tried[_key(kept)]
        assert found is not None
        return found.value

    def is_above(self, kept: Selection) -> bool:
        """Whether more is left than the budget allows."""
        found = self.measured(kept)
        return found is not None and found.value > self.target

    def may_go_on(self, best: Selection | None) -> bool:
        """Whether the search is to go on from the best that meets the budget so far."""
        if len(self._tried) >= self._budget.probes:
            return False
        found = None if best is None else self.measured(best)
        # Of a measurement whose interval holds the budget no better one could be told.
        return found is None or not (found.value >= _HIT * self.target or found.high > self.target)

    def result(self, kept: Selection) -> Selection:
        """What stays, with a note."""
        notes, table = [self.note(kept)], self._budget.table
        if table is not None:
            notes.append(
                f"{len(self._tried)} networks were timed; a table of {len(table.seconds)} products "
                "said which"
            )
        return Selection(kept, notes)

    def out_of_reach(self, kept: Selection) -> str:
        """Why the budget cannot be met, beside what comes nearest."""
        return (
            f"{self.note(kept)}: each parameter keeps one channel at least, max_sparsity and "
            "round_to may ask for more, and other axes are fixed. Ask for less."
        )

    def note(self, kept: Selection) -> str:
        """What is left, of how much, and what was asked for."""
        budget, found = self._budget, self.measured(kept)
        assert found is not None
        fraction = found.value / self.full.value if self.full.value else 1.0  # of nothing, all
        share = f"{fraction:.1%}".replace("%", " %")
        detail = f" ({found.detail})" if found.detail else ""
        return (
            f"{budget.shown(found.value)} {budget.unit} of {budget.shown(self.full.value)} are "
            f"left ({share}){detail}; at most {budget.shown(self.target)} were asked for"
            + (", and limits allow no less" if found.value > self.target else "")
        )


def _key(kept: Selection) -> bytes:
    return b"".join(np.packbits(stays).tobytes() for stays in kept)


def _given_back(less: Selection, more: Selection, parts: Sequence[Part]) -> Selection:
    kept = [stays.copy() for stays in less]
    for part in parts:
        kept[part.group][part.units] = more[part.group][part.units]
    return Selection(kept)
