"""Masks whose sparsity grows, remade from dense weights: what `dpf` and `gmp_recover` share."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree, masks
from jaxprune._scoring import Scores
from jaxprune._targets import check_not_sparser
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations import _scoring
from jaxprune.parametrizations._parametrization import Parametrization
from jaxprune.parametrizations._ste import masked
from jaxprune.schedules import gmp_targets


class GradualState(NamedTuple):
    """State of `dpf` and `gmp_recover`.

    Attributes:
      step: int32 scalar, how often `apply` has been called.
      mask: the mask of the last forward pass: bool arrays, True = kept, `None` where a leaf is not
        prunable.
    """

    step: jax.Array
    mask: PyTree


def gradual(
    name: str,
    sparsity: float,
    *,
    total_steps: int,
    interval: int,
    begin_step: int,
    end_step: int | None,
    initial: float,
    power: float,
    refresh: int | None,
    at_targets: bool,
    backward: Literal["dense", "masked"],
    scores: Scores | None,
    allocation: Allocation | None,
    pattern: Pattern | None,
    where: Where | None,
    stacked: masks.Stacked | None,
) -> Parametrization:
    """The parametrization of a mask that follows the targets of gradual magnitude pruning.

    The mask is remade from the dense weights, unconstrained by the one before, when the target
    moves and, from the first target on, at multiples of ``refresh``.

    Args:
      name: of the method, for errors.
      sparsity: final fraction removed.
      total_steps: length of training in steps.
      interval: steps between targets.
      begin_step: as for `dpf`.
      end_step: as for `dpf`.
      initial: as for `dpf`.
      power: as for `dpf`.
      refresh: steps between masks at one target; `None` for one mask a target.
      at_targets: as for `dpf`.
      backward: which weights get a gradient.
      scores: as for `dpf`.
      allocation: as for `dpf`.
      pattern: as for `dpf`.
      where: as for `dpf`.
      stacked: as for `dpf`.

    Returns:
      The parametrization.
    """
    total_steps = _checks.check_steps("total_steps", total_steps, below=2**31)
    interval = _checks.check_steps("interval", interval, below=2**31)
    refresh = None if refresh is None else _checks.check_steps("refresh", refresh, below=2**31)
    times, targets = gmp_targets(
        _checks.check_fraction("sparsity", sparsity),
        total_steps=total_steps,
        interval=interval,
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
    )
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    score = _scoring.scorer(scores, where, **rules)

    def make(trainable: PyTree, index: Any) -> PyTree:
        scored = score(trainable)
        plan = masks.plan(scored, targets, **rules)
        return plan.make(scored, index)

    def mask_at(trainable: PyTree, state: GradualState, *, final: bool) -> PyTree:
        """The mask of the forward pass at ``state.step``; if ``final``, at the last target."""
        reached = jnp.sum(state.step >= jnp.asarray(times, jnp.int32), dtype=jnp.int32)
        due = jnp.any(state.step == jnp.asarray(times, jnp.int32)) & at_targets
        if refresh is not None:
            due = due | ((reached > 0) & (state.step % refresh == 0))
        if final:
            missed = reached < len(targets)
            if refresh is not None and not at_targets:
                # The last refresh may have come before the last target.
                missed = missed | ((state.step - 1) // refresh * refresh < times[-1])
            due, reached = due | missed, jnp.full_like(reached, len(targets))
        if not _tree.is_traced(due):
            # The same, without compiling two branches at every step.
            return make(trainable, reached - 1) if due else state.mask
        return jax.lax.cond(due, lambda: make(trainable, reached - 1), lambda: state.mask)

    def init(params: PyTree) -> tuple[PyTree, GradualState]:
        like = jax.eval_shape(score, params)
        _scoring.check_not_fixed(like, pattern, stacked, name=name)
        masks.check_fit(like, targets, **rules)
        copy = _p.copied(params)
        # ones_like of the parameter, not of the shape: the mask lies where the weight lies.
        dense = _tree.map_partial(
            lambda s, p: None if s is None else _eager.full_like(p, True, bool),
            like,
            copy,
            what="score tree",
        )
        check_not_sparser(dense, copy, targets, name=name)
        return copy, GradualState(_p.first_step(), dense)

    def apply(trainable: PyTree, state: Any) -> tuple[PyTree, GradualState]:
        mask = mask_at(jax.lax.stop_gradient(trainable), state, final=False)
        params = masked(trainable, mask, backward=backward)
        return params, GradualState(_p.next_step(state.step), mask)

    def finalize(trainable: PyTree, state: Any) -> tuple[PyTree, PyTree]:
        mask = mask_at(trainable, state, final=True)
        _p.warn_collapsed(mask, stacked)
        return masks.apply_mask(trainable, mask), mask

    return Parametrization(init, apply, _p.no_penalty, finalize)
