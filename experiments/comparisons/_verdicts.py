"""Claims, decided by paired differences over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.comparisons._statistics import FEWEST_SEEDS, Interval, bootstrap
from experiments.papers import Claim


class Verdict(NamedTuple):
    """What the results say of a claim.

    Attributes:
      claim: the claim.
      interval: of the difference, better minus worse, over seeds; `None` without pairs.
      pairs: pairs of runs.
      word: "confirmed", "not confirmed", or "not decided".
      why: one short sentence.
    """

    claim: Claim
    interval: Interval | None
    pairs: int
    word: str
    why: str


def judge(results: Any, claim: Claim, columns: Sequence[str]) -> Verdict:
    """Decides a claim.

    Runs are paired that have the same seed, data and model and stand in the same column of the
    table. Their differences are averaged for each seed, so that a seed counts once; the interval is
    over seeds.

    Args:
      results: a data frame of runs.
      claim: the claim.
      columns: of the results, those that number the columns of the table.
    """
    final = results.filter(results["final"]).to_dicts()
    final = [run for run in final if _has(run, claim.where)]
    place = ("data", "model", *columns)
    worse = {_key(run, place): run["accuracy"] for run in final if _has(run, claim.worse)}
    differences: dict[Any, list[float]] = {}
    for run in final:
        key = _key(run, place)
        if _has(run, claim.better) and key in worse:
            differences.setdefault(run["seed"], []).append(run["accuracy"] - worse[key])
    if not differences:
        return Verdict(claim, None, 0, "not decided", "there are no runs to compare")
    interval = bootstrap([statistics.mean(values) for values in differences.values()])
    pairs = sum(map(len, differences.values()))
    word, why = _decided(claim, interval)
    return Verdict(claim, interval, pairs, word, why)


def _decided(claim: Claim, interval: Interval) -> tuple[str, str]:
    low, high = interval.low, interval.high
    if low is None or high is None:
        return "not decided", f"{interval.seeds} seeds; an interval takes {FEWEST_SEEDS}"
    if claim.kind == "equal":
        margin = claim.margin
        if -margin <= low and high <= margin:
            return "confirmed", f"the interval lies within ± {100 * margin:g} points"
        if low > margin or high < -margin:
            return "not confirmed", f"the interval lies outside ± {100 * margin:g} points"
        return "not decided", "the interval holds both"
    if low >= 0:
        return "confirmed", "the interval is not below zero"
    if high < 0:
        return "not confirmed", "the interval is below zero"
    return "not decided", "the interval holds zero"


def _key(run: Mapping[str, Any], place: Sequence[str]) -> tuple[Any, ...]:
    return (run["seed"], *(run[name] for name in place))


def _has(run: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        run.get(name) in value if isinstance(value, tuple) else run.get(name) == value
        for name, value in wanted.items()
    )
