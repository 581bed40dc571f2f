"""The wrap around an optimizer whose mask moves at known steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _moments, _wrap
from jaxprune.transforms._mask_state import PruneMask


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

    Returns:
      The transformation; its state is a `MovingMaskState`.
    """
    tx = _wrap.as_transformation(inner, name=name)
    due_at = np.asarray(steps, np.int64)
    if len(due_at) and due_at[-1] >= np.iinfo(np.int32).max:
        raise ValueError(f"{name} counts steps in int32; {due_at[-1]} is too large.")

    def init(params: PyTree) -> MovingMaskState:
        placeholder = _mask_state.is_placeholder(params)
        mask = params if placeholder else first_mask(params)
        node = _mask_state.store(mask, params)
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
        _wrap.check_params(params, name=name)
        grads, before = updates, _mask_state.align(state.mask.tree, params)
        count = jnp.asarray(optax.safe_increment(state.step))

        def step() -> tuple[PyTree, PyTree]:
            return _wrap.step(tx, grads, state.inner_state, params, before, extra_args)

        def moved(index: jax.Array) -> PyTree:
            # The step is computed here a second time, from what is in memory anyway: handing its
            # outcome in would write all updates to memory at every step, where without it they
            # are fused into the new parameters.
            now = _wrap.masked(before, params)
            if not instead_of_step:
                now = optax.apply_updates(now, _wrap.to_zero(before, step()[0], now))
            drawn = None if state.key is None else jax.random.fold_in(state.key, count)
            return move(Move(before, now, grads, index, drawn, extra_args))

        updates, inner_state = step()
        mask = before
        if len(due_at):
            index = jnp.searchsorted(jnp.asarray(due_at, jnp.int32), count).astype(jnp.int32)
            index = jnp.minimum(index, len(due_at) - 1)
            due = (jnp.asarray(due_at, jnp.int32)[index] == count) & ~state.frozen
            if _tree.is_traced(due):
                mask = jax.lax.cond(due, moved, lambda _: before, index)
            elif due:  # the same, where lax.cond would compile both branches at every call
                mask = moved(index)
            elif count == 1:  # what is wrong with the scores should show now, not when it is due
                jax.eval_shape(moved, index)
            if instead_of_step:
                updates, inner_state = jax.tree.map(
                    lambda old, new: jnp.where(due, old, new),
                    (jax.tree.map(jnp.zeros_like, updates), state.inner_state),
                    (updates, inner_state),
                )
        # What left goes to zero; what comes back starts at zero, where it is, though some optimizers
        # (muon) would move it at once. Neither has moments.
        stayed = jax.tree.map(jnp.logical_and, before, mask)
        inner_state = _moments.zero_pruned(tx, inner_state, stayed)
        updates = _wrap.to_zero(stayed, updates, params)
        node = _mask_state.replace(state.mask, mask)
        return updates, MovingMaskState(inner_state, node, count, state.frozen, state.key)

    return optax.GradientTransformationExtraArgs(init, update)


def dense_or(within: PyTree | None, shapes: PyTree, params: PyTree) -> PyTree:
    """The mask to start from: ``within``, or everything that has a score."""
    if within is not None:
        _mask_state.check_mask(within)
        return _mask_state.align(within, params)
    # ones_like of the parameter, not of the shape: the mask lies where the weights lie.
    return _tree.map_partial(
        lambda x, p: None if x is None else jnp.ones_like(p, dtype=jnp.bool_),
        shapes,
        params,
        what="score tree",
    )
