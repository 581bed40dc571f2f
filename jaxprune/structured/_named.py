"""Numbers by path: which layers a path, or a regular expression of paths, means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxprune.structured._groups import ChannelGroups


def layers_named(groups: ChannelGroups, rule: str) -> tuple[list[int], bool]:
    """The numbers of the layers that a rule means, and whether it is a path.

    Args:
      groups: the groups.
      rule: the path of a kernel that makes channels, or a regular expression of whole such paths.

    Raises:
      ValueError: if it means none, saying why, or the layers of several groups.
    """
    known = [group.name for group in groups]
    if rule not in groups.shapes and rule not in known and (hits := _matching(groups, rule)):
        return hits, False
    hits = [k for k, layer in enumerate(groups.layers) if _is(groups, k, rule)]
    if rule in known:
        hits = [k for k in hits if groups.layers[k].group == known.index(rule)]
    if not hits or len({groups.layers[k].group for k in hits}) > 1:
        i = groups.index(rule)  # or raises, saying why there is none, or that there are several
        hits = [k for k, layer in enumerate(groups.layers) if layer.group == i]
    return hits, True


def numbers_by_layer(
    groups: ChannelGroups, rules: Mapping[str, Any], *, what: str
) -> dict[int, tuple[str, Any]]:
    """What rules say of each layer.

    Args:
      groups: the groups.
      rules: from the path of a kernel that makes channels, or a regular expression of whole such
        paths, to a value. The first that matches a layer counts.
      what: the name of the argument, for errors.

    Returns:
      ``{number of a layer: (rule, value)}``, without layers of which nothing is said.

    Raises:
      ValueError: if a rule matches no layer, or two paths of one layer say different things.
      TypeError: if ``rules`` is no mapping.
    """
    if not isinstance(rules, Mapping):
        raise TypeError(f"{what} is {{path: number}}; got {type(rules).__name__}.")
    exact: dict[int, str] = {}
    found: dict[int, tuple[str, Any]] = {}
    for rule, value in rules.items():
        hits, is_path = layers_named(groups, rule)
        for k in hits:
            if is_path:
                if k in exact and rules[exact[k]] != value:
                    raise ValueError(
                        f"{what} gives {rules[exact[k]]} for {exact[k]!r} and {value} for "
                        f"{rule!r}, but these make the same channels. Name one of them."
                    )
                exact.setdefault(k, rule)
            found.setdefault(k, (rule, value))
    return found


def parts_named(groups: ChannelGroups, paths: Iterable[str], *, what: str) -> set[int]:
    """The numbers of the parts that paths, or regular expressions of whole paths, mean.

    Raises:
      ValueError: if one matches no layer.
      TypeError: if ``paths`` is one string.
    """
    if isinstance(paths, str):
        raise TypeError(f"{what} is a sequence of paths; got the string {paths!r}.")
    layers = numbers_by_layer(groups, dict.fromkeys(paths), what=what)
    return {part for k in layers for part in groups.layers[k].parts}


def skipped_units(groups: ChannelGroups, paths: Iterable[str]) -> list[np.ndarray]:
    """Which units paths mean, one bool array ``[size]`` a group.

    Raises:
      ValueError: if one matches no layer.
      TypeError: if ``paths`` is one string.
    """
    skipped = [np.zeros(group.size, bool) for group in groups]
    for k in parts_named(groups, paths, what="skip"):
        part = groups.parts[k]
        skipped[part.group][part.units] = True
    return skipped


def layer_of(groups: ChannelGroups, group: int, unit: int) -> str:
    """A name of the smallest layer that makes a channel."""
    parts = [k for k, p in enumerate(groups.parts) if p.group == group and unit in p.units]
    layers = [layer for layer in groups.layers if parts[0] in layer.parts]
    return min(layers, key=lambda layer: layer.size).names[0]


def _is(groups: ChannelGroups, k: int, rule: str) -> bool:
    layer = groups.layers[k]
    return rule in layer.names or any(rule == f"{path}:{axis}" for path, axis in layer.kernels)


def _matching(groups: ChannelGroups, rule: str) -> list[int]:
    """The layers that a rule matches as an expression; none if it is no expression."""
    try:
        expression = re.compile(rule)
    except re.error:
        return []
    layers = enumerate(groups.layers)
    return [k for k, layer in layers if any(expression.fullmatch(name) for name in layer.names)]
