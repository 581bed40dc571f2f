"""Claims: what rules by path say of layers, as pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured._named import layers_named, numbers_by_layer
from jaxprune.structured.allocations._allocation import Pool


class Claim(NamedTuple):
    """What one rule says of one layer, or of several together.

    Attributes:
      rule: the rule.
      value: the number that it gives.
      parts: the parts of the layers.
      size: how many channels they have.
      name: of the layers, for errors.
      order: the number of the rule.
      is_path: whether the rule is a path, and no expression.
    """

    rule: str | tuple[str, ...]
    value: Any
    parts: frozenset[int]
    size: int
    name: str
    order: int
    is_path: bool


def claims(groups: ChannelGroups, rules: Mapping[Any, Any], *, what: str) -> list[Claim]:
    """What rules say, layer by layer; a tuple of paths speaks of all their layers together.

    Raises:
      ValueError: if a rule matches no layer, or two say different things of one.
    """
    order = {rule: n for n, rule in enumerate(rules)}
    alone = {rule: value for rule, value in rules.items() if isinstance(rule, str)}
    is_path = {rule: layers_named(groups, rule)[1] for rule in alone}
    found = []
    for k, (rule, value) in numbers_by_layer(groups, alone, what=what).items():
        layer = groups.layers[k]
        parts, name = frozenset(layer.parts), layer.names[0]
        found.append(Claim(rule, value, parts, layer.size, name, order[rule], is_path[rule]))
    for rule, value in rules.items():
        if isinstance(rule, str):
            continue
        layers = {k for path in rule for k in layers_named(groups, path)[0]}
        parts = frozenset(part for k in layers for part in groups.layers[k].parts)
        size = _size(groups, parts)
        found.append(Claim(rule, value, parts, size, ", ".join(rule), order[rule], True))
    return found


def agreed(groups: ChannelGroups, found: Sequence[Claim]) -> list[Claim]:
    """Claims of fractions, which agree more often than counts do.

    An expression means what no earlier rule has spoken of. Where the same fraction is asked for of
    layers that share some of their channels only, each part loses it.
    """
    claimed = []
    for claim in found:
        if not claim.is_path:
            earlier = {k for other in found if other.order < claim.order for k in other.parts}
            parts = claim.parts - earlier
            claim = claim._replace(parts=parts, size=_size(groups, parts))
        if claim.parts:
            claimed.append(claim)
    split = {
        n
        for n, claim in enumerate(claimed)
        for other in claimed
        if isinstance(claim.rule, str) and isinstance(other.rule, str)
        if claim.value == other.value and claim.parts & other.parts
        if not (claim.parts <= other.parts or other.parts <= claim.parts)
    }
    by_part = {
        (k, claimed[n].value): claimed[n]._replace(
            parts=frozenset({k}), size=groups.parts[k].size, name=groups.parts[k].name
        )
        for n in split
        for k in claimed[n].parts
    }
    return [claim for n, claim in enumerate(claimed) if n not in split] + list(by_part.values())


def _size(groups: ChannelGroups, parts: Iterable[int]) -> int:
    return sum(groups.parts[k].size for k in parts)


def pools_of(
    groups: ChannelGroups,
    found: Sequence[Claim],
    open_: Sequence[int],
    removed: Callable[[Any, int, int], int],
    *,
    fractions: bool,
    what: str,
) -> list[Pool]:
    """Pools in which every claim's count holds, also where one layer makes channels of another.

    Args:
      groups: the groups.
      found: the claims.
      open_: the parts that may lose channels.
      removed: how many channels go, of a claim's value, of how many of its channels are in open
        parts, and of how many it has.
      fractions: whether equal values agree, but for rounding.
      what: the name of the allocation, for errors.

    Raises:
      ValueError: if the counts of layers that share channels contradict each other.
    """
    if fractions:
        found = agreed(groups, found)
    done: list[tuple[Claim, frozenset[int], int]] = []
    for claim in sorted(found, key=lambda c: len(c.parts)):
        parts = claim.parts & frozenset(open_)
        inside = [entry for entry in done if entry[0].parts & claim.parts]
        for other, _, _ in inside:
            if not other.parts <= claim.parts or (
                not isinstance(claim.rule, str) and (other.parts == claim.parts)
            ):
                raise ValueError(
                    f"{what} gives {other.value} for {other.rule!r} and {claim.value} for "
                    f"{claim.rule!r}, but these make some of the same channels. Name one of them."
                )
        rest = parts - frozenset(part for _, counted, _ in inside for part in counted)
        room = _size(groups, rest)
        if fractions and inside and all(other.value == claim.value for other, _, _ in inside):
            count = removed(claim.value, room, room)
        else:
            count = removed(claim.value, _size(groups, parts), claim.size) if parts else 0
            within = sum(gone for _, _, gone in inside)
            if inside and not within <= count <= within + room:
                names = ", ".join(repr(other.name) for other, _, _ in inside)
                raise ValueError(
                    f"{what} takes {count} of {claim.size} channels of {claim.name!r}, but {names} "
                    f"make some of the same channels, of which {within} go, and {room} others may. "
                    "Name fewer of these layers."
                )
            count -= within
        if rest:
            done.append((claim, rest, count))
    return [Pool(tuple(sorted(parts)), count) for _, parts, count in done]
