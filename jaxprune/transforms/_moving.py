"""The wrap around an optimizer whose mask moves at known steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _tree
from jaxprune._mask import check_given
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _moments, _wrap, _zeros
from jaxprune.transforms._mask_state import PruneMask
from jaxprune.transforms._watch import Watch


class MovingMaskState(NamedTuple):
    """State of every transform whose mask moves.

    Attributes:
      inner_state: the state of the wrapped optimizer.
      mask: the current mask, read by `get_mask`.
      step: int32 scalar, steps taken.
      frozen: bool scalar; once True, as `freeze` makes it, the mask moves no more.
      key: what the method draws from, or `None`.
    """

    inner_state: optax.OptState
    mask: PruneMask
    step: jax.Array
    frozen: jax.Array
    key: Any


class Move(NamedTuple):
    """What a method sees when its mask is due to move.

    Attributes:
      mask: the mask before, `None` where a leaf is not prunable.
      params: the parameters after the step of the optimizer (before it, if the method moves the
        mask instead of stepping).
      grads: the gradients given to ``update``, those of pruned weights included.
      number: int32 scalar, how many moves came before this one.
      key: a random key for this move, or `None`.
      extra_args: the extra arguments of ``update``.
    """

    mask: PyTree
    params: PyTree
    grads: PyTree
    number: jax.Array
    key: jax.Array | None
    extra_args: dict[str, Any]


def moving(
    inner: Any,
    *,
    name: str,
    steps: Sequence[int],
    first_mask: Callable[[PyTree], PyTree],
    move: Callable[[Move], PyTree],
    key: jax.Array | None = None,
    instead_of_step: bool = False,
    nested: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer with a mask that moves after given numbers of steps.

    Args:
      inner: the optimizer.
      name: the method, for errors.
      steps: numbers of steps, rising, after which the mask moves; the first step is number 1.
      first_mask: ``first_mask(params) -> mask``, called by ``init``; it also checks the arguments
        against the parameters.
      move: ``move(Move) -> mask``. Traced once; it runs only where the mask is due.
      key: what the moves draw from.
      instead_of_step: whether a move takes the place of the optimizer's step.
      nested: whether every mask is a subset of the one before.

    Returns:
      The transformation; its state is a `MovingMaskState`.
    """
    tx = _wrap.as_transformation(inner, name=name)
    zeros, watch = _zeros.examiner(tx), Watch(name)
    due_at = np.asarray(steps, np.int64)
    if len(due_at) and due_at[-1] >= np.iinfo(np.int32).max:
        raise ValueError(f"{name} counts steps in int32; {due_at[-1]} is too large.")

    def init(params: PyTree) -> MovingMaskState:
        placeholder, network = _mask_state.is_placeholder(params), _wrap.network_of(params)
        mask = params if placeholder else first_mask(network)
        node = _mask_state.store(mask, network)
        return MovingMaskState(
            inner_state=_wrap.init_inner(tx, node, params),
            mask=node,
            step=jnp.zeros((), jnp.int32),
            frozen=jnp.zeros((), jnp.bool_),
            key=None if key is None else jnp.array(key, copy=True),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, MovingMaskState]:
        _wrap.check_params(params, updates, name=name)
        before = _mask_state.align(state.mask.tree, _wrap.network_of(params))
        watch.look(state.mask, before, params)
        count = jnp.asarray(optax.safe_increment(state.step))
        known = _zeros.UNKNOWN
        if nested or not len(due_at):  # elsewhere nothing follows from it
            known = zeros(updates, state.inner_state, params, before, extra_args)
        mask_first = nested and known.elementwise and not instead_of_step

        def step(mask: PyTree, grads: PyTree, inner_state: PyTree) -> tuple[PyTree, PyTree]:
            return _wrap.step(tx, grads, inner_state, params, mask, extra_args)

        def moved(index: jax.Array, before: PyTree, grads: PyTree, inner_state: PyTree) -> PyTree:
            # The step is computed here a second time, from what is in memory anyway: handing its
            # outcome in would write all updates to memory at every step, where without it they
            # are fused into the new parameters.
            now = _wrap.masked(before, params)
            if not instead_of_step:
                stepped, _ = step(before, grads, inner_state)
                now = optax.apply_updates(now, _wrap.to_zero(before, stepped, now))
            drawn = None if state.key is None else jax.random.fold_in(state.key, count)
            return move(Move(before, _wrap.network_of(now), grads, index, drawn, extra_args))

        given = (before, updates, state.inner_state)
        mask, due = before, jnp.zeros((), jnp.bool_)
        if len(due_at):
            index = jnp.searchsorted(jnp.asarray(due_at, jnp.int32), count).astype(jnp.int32)
            index = jnp.minimum(index, len(due_at) - 1)
            due = (jnp.asarray(due_at, jnp.int32)[index] == count) & ~state.frozen
            if not _tree.is_traced(due):  # lax.cond would compile both branches at every call
                if due:
                    mask = moved(index, *given)
                elif count == 1:  # what is wrong with the scores should show now, not when due
                    jax.eval_shape(moved, index, *given)
            elif mask_first:
                # Gradients and moments go through, so that nothing reads them after the step: it
                # can write in place, where otherwise they are kept, and copied, for the branch.
                given = jax.lax.cond(
                    due,
                    lambda i, *given: (moved(i, *given), *given[1:]),
                    lambda i, *given: given,
                    index,
                    *given,
                )
                mask = given[0]
            else:
                mask = jax.lax.cond(due, moved, lambda i, before, *_: before, index, *given)
        _, grads, inner_state = given
        if mask_first:
            # Each weight for itself: those that stay move as under the mask before, and the moments
            # of those that leave are zero, as nothing but zeros went in.
            updates, inner_state = step(mask, grads, inner_state)
            updates = _wrap.to_zero(mask, updates, params)
        else:
            updates, inner_state = step(before, grads, inner_state)
            if instead_of_step:
                updates, inner_state = jax.tree.map(
                    lambda old, new: jnp.where(due, old, new),
                    (jax.tree.map(jnp.zeros_like, updates), state.inner_state),
                    (updates, inner_state),
                )
            # What left goes to zero; what comes back starts at zero, where it is, though some
            # optimizers (muon) would move it at once. Neither has moments.
            stayed = jax.tree.map(jnp.logical_and, before, mask)
            if len(due_at) or not known.kept:
                inner_state = _moments.zero_pruned(tx, inner_state, stayed)
            updates = _wrap.to_zero(stayed, updates, params)
        node = watch.left(_mask_state.replace(state.mask, mask))
        return updates, MovingMaskState(inner_state, node, count, state.frozen, state.key)

    return optax.GradientTransformationExtraArgs(init, update)


def dense_or(within: PyTree | None, shapes: PyTree, params: PyTree) -> PyTree:
    """The mask to start from: ``within``, or everything that has a score."""
    if within is not None:
        check_given(within)
        return _mask_state.align(within, params)
    # ones_like of the parameter, not of the shape: the mask lies where the weights lie.
    return _tree.map_partial(
        lambda x, p: None if x is None else jnp.ones_like(p, dtype=jnp.bool_),
        shapes,
        params,
        what="score tree",
    )
