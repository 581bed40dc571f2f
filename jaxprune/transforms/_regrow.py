"""Dropping weights and growing as many elsewhere: what sparse training methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree, masks, scores
from jaxprune._checks import check_number, check_steps
from jaxprune._scoring import check_leaves
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _moving
from jaxprune.transforms._first_mask import check_start, drawn_mask, split_key
from jaxprune.transforms._moving import Move


def regrowing(
    inner: Any,
    sparsity: float | None,
    *,
    name: str,
    key: jax.Array,
    within: PyTree | None,
    steps: Sequence[int],
    fractions: Sequence[float],
    drop: Callable[[Move], PyTree],
    grow: Callable[[Move], PyTree],
    allocation: Allocation | None,
    pattern: Pattern | None,
    where: Where | None,
    stacked: masks.Stacked | None,
    drop_mask: Callable[[Move], PyTree] | None = None,
    instead_of_step: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer with a mask that is random at first, then drops and grows.

    At a move every leaf drops the given fraction of its kept entries, those with the lowest
    scores of ``drop``, and grows the highest scores of ``grow`` until it has as many as at first.

    Args:
      inner: the optimizer.
      sparsity: fraction removed, or `None`.
      name: the method, for errors.
      within: the first mask, in place of a random one; each leaf then has as many as that.
      key: what the first mask is drawn from, and the moves.
      steps: numbers of steps after which the mask moves.
      fractions: the fraction dropped at each.
      drop: scores of what stays, from a `Move`.
      grow: scores of what comes back; those of kept entries do not matter.
      allocation: how the total is spread over leaves, each counted alone; `masks.erk` if omitted.
      pattern: which weights go together.
      where: what is prunable.
      stacked: where leaves hold several layers; each then has counts of its own.
      drop_mask: makes the mask after the drop in place of ``drop`` and ``fractions``.
      instead_of_step: whether a move takes the place of the optimizer's step.
    """
    first, moves = split_key(key, name=name)
    if sparsity == 0 or not any(fractions):
        steps = ()  # there is nothing to grow, or nothing is dropped
    rules: dict[str, Any] = {"pattern": pattern, "stacked": stacked}

    def random(params: PyTree) -> PyTree:
        return scores.random(first, params, where=where)

    if within is not None:
        check_start(within, sparsity, name=name, allocation=allocation, **rules)
    draw = drawn_mask(random, sparsity, allocation=allocation, **rules)

    def counts_of(shapes: PyTree) -> masks.LeafCounts:
        if within is not None:
            return masks.counts_in(within, **rules)
        return masks.leaf_counts(shapes, sparsity, allocation=allocation or masks.erk(), **rules)

    def first_mask(params: PyTree) -> PyTree:
        shapes = jax.eval_shape(random, params)
        mask = draw(params) if within is None else _moving.dense_or(within, None, params)
        check_leaves(shapes, mask, name=name)
        dropped = _dropped(counts_of(shapes), fractions)
        if steps and not any(map(any, dropped)):
            raise ValueError(
                f"{name} never moves a weight: the largest fraction that it drops is "
                f"{max(fractions):.6g}, less than half a weight of each leaf that is not dense. "
                "Raise drop_fraction or the sparsity."
            )
        return mask

    def move(now: Move) -> PyTree:
        to_grow = like_mask(grow(now), now.mask, name=name)
        counts = counts_of(to_grow)
        if drop_mask is not None:
            kept = drop_mask(now)
        else:
            to_drop = like_mask(drop(now), now.mask, name=name)
            gone = [
                [r + k for r, k in zip(counts.removed, each, strict=True)]
                for each in _dropped(counts, fractions)
            ]
            plan = masks.plan_counts(to_drop, gone, pattern=_whole_groups(pattern), stacked=stacked)
            kept = plan.make(to_drop, now.number, within=now.mask)
        ranked = jax.tree.map(_first, kept, to_grow)
        return masks.plan_counts(to_grow, [counts.removed], **rules).make(ranked, 0)

    return _moving.moving(
        inner,
        name=name,
        steps=steps,
        first_mask=first_mask,
        move=move,
        key=moves,
        instead_of_step=instead_of_step,
    )


def like_mask(scored: PyTree, mask: PyTree, *, name: str) -> PyTree:
    """Scores in the very structure of the mask, `None` where it has no leaf.

    Score functions of users may return other containers, or `optax.MaskedNode` for no leaf.

    Raises:
      ValueError: if they have other leaves, or other shapes.
    """
    check_leaves(scored, mask, name=name)
    pairs = [
        (path, m, score)
        for (path, m), (_, score) in zip(
            _tree.named_leaves(mask), _tree.named_leaves(scored), strict=True
        )
    ]
    for path, m, score in pairs:
        if score.shape != m.shape:
            raise ValueError(
                f"the scores of {name} have shape {score.shape} at {path!r}, the weight has "
                f"{m.shape}. Return one score a weight."
            )
    return jax.tree.unflatten(jax.tree.structure(mask), [score for *_, score in pairs])


def check_window(
    *,
    name: str,
    total_steps: int,
    interval: int,
    end_step: int | None,
    default_end: Callable[[int], int],
) -> tuple[int, int, int]:
    """Checks when a mask moves: every ``interval`` steps up to ``end_step``, within training.

    Returns:
      The three, with ``default_end(total_steps)`` in place of an omitted end.

    Raises:
      TypeError: if one of them is not a static integer.
      ValueError: if the window ends after training.
    """
    total = check_steps("total_steps", total_steps)
    every = check_steps("interval", interval)
    end = default_end(total) if end_step is None else check_steps("end_step", end_step)
    if end > total:
        raise ValueError(
            f"end_step={end} of {name} lies after the end of training, total_steps={total}. Let "
            "the mask come to rest before that."
        )
    return total, every, end


def never_moves(*, name: str, interval: int, end_step: int) -> ValueError:
    """The error for a window without a move."""
    return ValueError(
        f"{name} never moves its mask: interval={interval} leaves no update before the end of its "
        f"window, step {end_step}. Shorten the interval; for a mask that stays, use static."
    )


def check_drop_fraction(value: Any) -> float:
    """Returns a drop fraction, or raises.

    Raises:
      TypeError: if it is no number.
      ValueError: if it lies outside [0, 1].
    """
    number = check_number("drop_fraction", value, low=-float("inf"))
    if not 0 <= number <= 1:
        raise ValueError(
            f"drop_fraction is the fraction of the kept weights that a move drops, in [0, 1]; got "
            f"{value}."
        )
    return number


def _dropped(counts: masks.LeafCounts, fractions: Sequence[float]) -> list[list[int]]:
    """How many entries each leaf drops at each move; none of a dense leaf, as all would return."""
    sizes = list(zip(counts.entries, counts.removed, strict=True))
    return [[round(f * (n - r)) if r else 0 for n, r in sizes] for f in fractions]


def _first(kept: jax.Array, x: jax.Array) -> jax.Array:
    """Scores in which what is kept comes before everything, NaN and infinity included."""
    largest = jnp.asarray(jnp.finfo(x.dtype).max, x.dtype)
    return jnp.where(kept, jnp.asarray(jnp.inf, x.dtype), jnp.where(x < largest, x, largest))


def _whole_groups(pattern: Pattern | None) -> Pattern | None:
    """The pattern by which weights are dropped: with N:M one by one, over the whole leaf."""
    if pattern is None:
        return None
    whole = pattern

    def without(path: str, leaf: Any) -> Any:
        spec = whole(path, leaf)
        return spec if isinstance(spec, masks.PatternSpec) and spec.kept is None else None

    return without
