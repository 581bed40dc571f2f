"""Numbers by path: which group a path, or a regular expression of paths, means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxprune.structured._groups import ChannelGroups, Group


def numbers_by_group(
    groups: ChannelGroups, rules: Mapping[str, Any], *, what: str
) -> dict[int, Any]:
    """What rules say of each group.

    Args:
      groups: the groups.
      rules: from the path of a kernel that makes a group's channels, or a regular expression of
        whole such paths, to a value. The first that matches a group counts.
      what: the name of the argument, for errors.

    Returns:
      ``{number of a group: value}``, without groups of which nothing is said.

    Raises:
      ValueError: if a rule matches no group, or two paths of one group say different things.
      TypeError: if ``rules`` is no mapping.
    """
    if not isinstance(rules, Mapping):
        raise TypeError(f"{what} is {{path: number}}; got {type(rules).__name__}.")
    exact: dict[int, str] = {}
    found: dict[int, Any] = {}
    for rule, value in rules.items():
        hits = _matching(groups, rule)
        if not hits:
            i = groups.index(rule)  # or raises, saying why there is none
            if i in exact and rules[exact[i]] != value:
                raise ValueError(
                    f"{what} gives {rules[exact[i]]} for {exact[i]!r} and {value} for {rule!r}, "
                    "but these make the same channels. Name one of them."
                )
            exact.setdefault(i, rule)
            hits = [i]
        for i in hits:
            found.setdefault(i, value)
    return found


def group_numbers(groups: ChannelGroups, paths: Iterable[str], *, what: str) -> set[int]:
    """The groups that paths, or regular expressions of whole paths, mean.

    Raises:
      ValueError: if one matches no group.
      TypeError: if ``paths`` is one string.
    """
    if isinstance(paths, str):
        raise TypeError(f"{what} is a sequence of paths; got the string {paths!r}.")
    return set(numbers_by_group(groups, dict.fromkeys(paths), what=what))


def _matching(groups: ChannelGroups, rule: str) -> list[int]:
    """The groups that a rule matches as an expression; none if it is a path, or no expression."""
    if rule in groups.shapes or any(rule == group.name for group in groups):
        return []
    try:
        expression = re.compile(rule)
    except re.error:
        return []
    # A path that makes the channels of several groups (heads and their features) names none.
    makers = Counter(path for group in groups for path in {m.path for m in group.role("out")})

    def names(group: Group) -> Iterator[str]:
        yield group.name
        for m in group.role("out"):
            yield m.path if makers[m.path] == 1 else f"{m.path}:{m.axis}"

    return [i for i, g in enumerate(groups) if any(expression.fullmatch(x) for x in names(g))]
