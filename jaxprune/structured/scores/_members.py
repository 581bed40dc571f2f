"""Members: which parameters count for a channel, and how their numbers become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._checks import check_choice
from jaxprune.structured._groups import ChannelGroups, Group, Member
from jaxprune.structured._named import layer_of, skipped_units
from jaxprune.structured.scores._unit_rows import holds

Members: TypeAlias = Literal["first", "out", "kernels"] | Callable[[Member], bool]
OverMembers: TypeAlias = Literal["sum", "mean", "max", "product", "l2"]
Normalize: TypeAlias = Literal["sum", "mean", "max", "standardised"]


class Counted(NamedTuple):
    """The members that count.

    Attributes:
      members: of each group; none of one that is skipped whole.
      present: for each group which of them count for which units, bool ``[members, size]``;
        `None` for one that is skipped whole.
      skipped: which units are skipped, bool ``[size]``.
      parts: for each group the units of each of its parts.
    """

    members: list[list[Member]]
    present: list[np.ndarray | None]
    skipped: list[np.ndarray]
    parts: list[list[np.ndarray]]


def check_combination(members: Members, over_members: str, normalize: str | None) -> None:
    """Raises if an option of `counted` or `combined` is unknown.

    Raises:
      ValueError: naming it.
    """
    check_choice("over_members", over_members, ("sum", "mean", "max", "product", "l2"))
    check_choice("normalize", normalize, (None, "sum", "mean", "max", "standardised"))
    if not callable(members):
        check_choice("members", members, ("first", "out", "kernels"), hint="or pass a function")


def counted(groups: ChannelGroups, members: Members, skip: Sequence[str]) -> Counted:
    """Finds the members that count.

    Raises:
      ValueError: if a function chooses members and none of them holds some unit that is not
        skipped, or if a path of ``skip`` makes no unit.
    """
    skipped = skipped_units(groups, skip)
    chosen: list[list[Member]] = []
    present: list[np.ndarray | None] = []
    for i, (group, out) in enumerate(zip(groups, skipped, strict=True)):
        ours, table = _chosen(group, members)
        if not out.all():
            _check_present(groups, i, table, out)
        chosen.append([] if out.all() else ours)
        present.append(None if out.all() else table)
    parts: list[list[np.ndarray]] = [[] for _ in groups]
    for part in groups.parts:
        parts[part.group].append(part.units)
    return Counted(chosen, present, skipped, parts)


def combined(
    found: Counted,
    one: Callable[[int, Member], jax.Array],
    over_members: str,
    normalize: str | None,
) -> tuple[jax.Array | None, ...]:
    """One number a unit.

    Args:
      found: the members that count.
      one: the numbers of one member of the group of a number, ``[size of the group]``.
      over_members: how those of several members become one.
      normalize: how layers are made to compare.

    Returns:
      ``[size]`` for each group, infinity for skipped units; `None` where all of them are.
    """
    scores: list[jax.Array | None] = []
    for i, (ours, there, out, parts) in enumerate(zip(*found, strict=True)):
        if there is None:
            scores.append(None)
            continue
        score = normalized(_over([one(i, m) for m in ours], there, over_members), normalize, parts)
        scores.append(jnp.where(out, jnp.inf, score) if out.any() else score)
    return tuple(scores)


def normalized(scores: jax.Array, how: str | None, parts: Sequence[np.ndarray]) -> jax.Array:
    """Scores of a group that compare with those of other groups; zeros stay zeros.

    Args:
      scores: ``[size of the group]``.
      how: "sum", "mean" or "max" divides by that; "standardised" takes the mean away and divides by
        the standard deviation; `None` does nothing.
      parts: the units of each part; each is compared by itself, as layers are that a concatenation
        puts side by side.
    """
    if how is None:
        return scores
    if len(parts) > 1:
        ours = [normalized(scores[units], how, [units]) for units in parts]
        return jnp.concatenate(ours)[np.argsort(np.concatenate(parts))]
    if how == "standardised":
        scores, unit = scores - jnp.mean(scores), jnp.std(scores)
    else:
        unit = {"sum": jnp.sum, "mean": jnp.mean, "max": _tree.largest}[how](scores)
    return scores / jnp.where(unit > 0, unit, jnp.ones_like(unit))


def _over(numbers: list[jax.Array], present: np.ndarray, how: str) -> jax.Array:
    dtype = _tree.wide_dtype(*(x.dtype for x in numbers))
    stacked = jnp.stack([x.astype(dtype) for x in numbers])
    table = jnp.where(present, stacked, 0)
    if how == "max":
        return _tree.largest(jnp.where(present, stacked, -jnp.inf), axis=0)
    if how == "product":
        return jnp.prod(jnp.where(present, stacked, 1), axis=0)
    if how == "l2":
        return jnp.sqrt(jnp.sum(jnp.square(table), axis=0))
    total = jnp.sum(table, axis=0)
    if how == "sum":
        return total
    # Hidden from XLA, which would multiply by the rounded reciprocal of a constant.
    number: Any = jnp.asarray(np.maximum(present.sum(0), 1), dtype)
    return total / jax.lax.optimization_barrier(number)


def _chosen(group: Group, members: Members) -> tuple[list[Member], np.ndarray]:
    """The members that count, and for which units, bool ``[members, size]``.

    Where no kernel makes a unit (positions as features, learned tokens, constants), those that read
    it count, and where there are none, what else holds it.
    """
    if callable(members):
        chosen = [member for member in group.members if members(member)]
        return chosen, _table(group, chosen)
    first = ("out", "in") if members == "kernels" else ("out",)
    chosen, table = [], np.zeros((0, group.size), bool)
    for roles in (first, ("in",), ("along",)):
        missing = ~table.any(0)
        if chosen and not missing.any():
            break
        more = [m for m in group.members if m.role in roles and not any(m is c for c in chosen)]
        rows = _table(group, more) & missing
        chosen += [m for m, row in zip(more, rows, strict=True) if row.any()]
        table = np.concatenate([table, rows[rows.any(1)]])
    return chosen, table & (table.cumsum(0) == 1) if members == "first" else table


def _table(group: Group, members: Sequence[Member]) -> np.ndarray:
    return np.array([holds(group, m) for m in members], bool).reshape(-1, group.size)


def _check_present(groups: ChannelGroups, i: int, table: np.ndarray, skipped: np.ndarray) -> None:
    group = groups[i]
    if (table.any(0) | skipped).all():
        return
    unit = int(np.flatnonzero(~table.any(0) & ~skipped)[0])
    there = [(m.path, m.role) for m in group.members if holds(group, m)[unit]]
    raise ValueError(
        f"no member that counts holds channel {unit} of {group.name!r}; those that hold it are "
        f"{there}. Leave the layer out, skip=[{layer_of(groups, i, unit)!r}], or take other "
        "members."
    )
