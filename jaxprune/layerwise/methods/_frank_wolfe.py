"""SparseFW: the mask relaxed to numbers between 0 and 1, by Frank-Wolfe."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_number, check_steps
from jaxprune._count import count
from jaxprune.layerwise._error import by_output
from jaxprune.layerwise._method import Counts, Method, Problem, Result, Rule
from jaxprune.layerwise.methods._swaps import check_start
from jaxprune.layerwise.methods._wanda import wanda
from jaxprune.masks import choice


def frank_wolfe(
    *, start: Method | None = None, fixed: float = 0.9, iterations: int = 300
) -> Method:
    """SparseFW: a relaxed mask moves towards the best vertex; weights as they were.

    ``min f(M) = tr(R^T G R)``, ``R = (1 - M) W``, over masks M in [0, 1] of the wanted sum. Each
    step goes from M towards the vertex of the most negative gradient ``-2 W (G R)``, as far as is
    best, which for a quadratic f is known; where outputs are compared for themselves (per output,
    N:M along the inputs) each goes its own way. It begins with the mask of another method, and the
    most salient weights of that mask (by Wanda's score) always stay. In the end the largest
    entries of M stay, but where that is worse than the start, the start.

    Args:
      start: the method to begin with, `wanda()` if omitted; its weights are not used.
      fixed: the share of what stays that is fixed, in [0, 1].
      iterations: how many; the authors take 2000 with steps 2 / (t + 2).

    Returns:
      A method for `solve`. It needs the Gram matrix. Add `refit`.

    Raises:
      ValueError: if an option is out of range.
      TypeError: if it is of the wrong kind.

    Example:
      >>> frank_wolfe().compares
      'output'

    References:
      Roux, Zimmer, d'Aspremont, Pokutta, Don't Be Greedy, Just Relax! Pruning LLMs via
      Frank-Wolfe, 2025 (arXiv:2510.13713).
    """
    start = wanda() if start is None else check_start(start)
    fixed = check_number("fixed", fixed, low=0.0, high=1.0)
    options = (
        ("start", start),
        ("fixed", fixed),
        ("iterations", check_steps("iterations", iterations)),
    )
    return Method("frank_wolfe", _run, options, compares=start.compares, counts=_counts)


def _counts(rule: Rule, *, start: Method, fixed: float, iterations: int) -> Counts:
    del iterations
    spec = rule.choice.spec
    if spec is not None and spec.kept is None:
        raise ValueError(
            f"frank_wolfe relaxes weights one by one; the pattern of {rule.name!r} takes them "
            f"together: {spec}. Use sparsegpt, admm or alps."
        )
    # Of the whole matrix, by saliency among what the start keeps.
    shape = rule.like.shape
    n = shape[0] * shape[1]
    own = rule.counts()
    if len(own):
        units = math.prod(shape[axis] for axis in rule.choice.units)
        kept = n - units * ((int(own[0][0]) << 32) + int(own[0][1]))
    else:
        assert spec is not None
        assert spec.kept is not None
        kept = n * spec.kept // int(np.prod(spec.group))
    free = n - (kept if fixed == 1 else count(fixed, kept))
    return start.count(rule), own, np.asarray([divmod(free, 1 << 32)], np.uint32)


def _run(problem: Problem, *, start: Method, fixed: float, iterations: int) -> Result:
    del fixed  # its count is data
    of_start, own, free = (jax.tree.map(jnp.asarray, c) for c in problem.counts)
    w, gram, rule = problem.kernel, problem.gram, problem.choice
    first = start(problem._replace(counts=of_start)).mask
    salient = jnp.abs(w) * jnp.sqrt(problem.squares)[:, None]
    salient = jnp.where(first, salient, jnp.full_like(salient, -jnp.inf))
    plain, _ = choice(jax.ShapeDtypeStruct(w.shape, w.dtype), [0.0])
    held = plain.make(salient, free) & first
    apart = rule.units == (1,) or (rule.spec is not None and rule.spec.axes == (0,))

    def best(scores: jax.Array) -> jax.Array:
        return rule.make(jnp.where(held, jnp.full_like(scores, jnp.inf), scores), own)

    def total(x: jax.Array) -> jax.Array:
        return x if apart else jnp.broadcast_to(jnp.sum(x), x.shape)

    def step(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        m, product = state  # G R
        downhill = w * product
        vertex = best(downhill) & (held | (downhill > 0))
        direction = vertex.astype(m.dtype) - m
        change = -direction * w
        moved = gram @ change
        slope, bend = (
            total(jnp.sum(change * product, axis=0)),
            total(jnp.sum(change * moved, axis=0)),
        )
        ahead = (slope < 0) & (bend > 0)
        length = jnp.where(ahead, -slope / jnp.where(ahead, bend, jnp.ones_like(bend)), 0)
        length = jnp.minimum(length, jnp.ones_like(length))[None]
        return m + length * direction, product + length * moved

    relaxed = first.astype(w.dtype)
    state = (relaxed, gram @ ((1 - relaxed) * w))
    relaxed, _ = jax.lax.fori_loop(0, iterations, step, state)
    found = best(relaxed)

    def lost(mask: jax.Array) -> jax.Array:
        return total(by_output(jnp.where(mask, jnp.zeros_like(w), w), gram))

    return Result(w, jnp.where((lost(found) < lost(first))[None], found, first))
