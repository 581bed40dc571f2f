"""GMP with recovery as a recipe."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks, parametrizations, schedules, transforms
from jaxprune._extra_args import with_extra_args
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method


def gmp_recover(
    sparsity: float,
    *,
    total_steps: int,
    interval: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """GMP in which weights can come back: `jaxprune.parametrizations.gmp_recover`.

    At every pruning the moments of what it prunes are set to zero, as in the code of Zimmer et al.
    A parametrization does not see the optimizer's state, so a transform around the optimizer does
    that; from the same weights it makes the same mask.

    Args:
      sparsity: fraction removed in the end, in [0, 1).
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      begin_step: steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: fraction removed when the schedule begins.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together, of those that fix no sparsity; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> gmp_recover(0.9, total_steps=1000).sparsity
      0.9

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023 (their
      code's option to allow recovering).
    """
    interval = tenth(total_steps) if interval is None else interval
    times: dict[str, Any] = {"total_steps": total_steps, "interval": interval}
    times |= {"begin_step": begin_step, "end_step": end_step, "initial": initial, "power": power}
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    p = parametrizations.gmp_recover(sparsity, **times, scores=scores, **rules, where=where)
    steps, targets = schedules.gmp_targets(sparsity, **times)
    score = Scoring(scores, where, **rules)

    def mask_of(params: PyTree, index: jax.Array) -> PyTree:
        scored = score(params)
        return masks.plan(scored, targets, **rules).make(scored, index)

    return Method(
        "gmp_recover",
        sparsity,
        total_steps,
        transform=lambda inner: _without_moments(inner, steps, mask_of),
        parametrization=p,
    )


class _State(NamedTuple):
    inner_state: optax.OptState
    step: jax.Array


def _without_moments(
    inner: Any, times: tuple[int, ...], mask_of: Any
) -> optax.GradientTransformationExtraArgs:
    """Zeroes, after given numbers of steps, the moments of what a mask made there removes."""
    tx = with_extra_args(inner)

    def init(params: PyTree) -> _State:
        return _State(tx.init(params), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, _State]:
        if params is None:
            raise ValueError(
                "gmp_recover needs the parameters, got params=None. Call "
                "tx.update(grads, opt_state, params)."
            )
        updates, inner_state = tx.update(updates, state.inner_state, params, **extra_args)
        count = jnp.asarray(optax.safe_increment(state.step))
        reached = jnp.sum(count >= jnp.asarray(times, jnp.int32), dtype=jnp.int32)

        def pruned() -> PyTree:
            mask = mask_of(optax.apply_updates(params, updates), reached - 1)
            return transforms.zero_pruned(tx, inner_state, mask)

        due = jnp.any(count == jnp.asarray(times, jnp.int32))
        return updates, _State(jax.lax.cond(due, pruned, lambda: inner_state), count)

    return optax.GradientTransformationExtraArgs(init, update)
