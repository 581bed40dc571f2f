"""The two forms of learning-compression: selective decay, and the penalty towards a projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree
from jaxprune._mask import or_zero
from jaxprune._scoring import check_leaves
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _wrap


class LCState(NamedTuple):
    """State of `lc`. With ``weight_decay`` only the step; the rest is `None`.

    Attributes:
      step: int32 scalar, steps taken.
      mu: scalar, float32 at least, the penalty of the current L step; 0 before the first step.
      theta: the projected weights: a tree like params, `optax.MaskedNode` where a leaf is not
        selected; 0 before the first step.
      multipliers: the multipliers, a tree like ``theta``; `None` without them.
    """

    step: jax.Array
    mu: Any
    theta: PyTree
    multipliers: PyTree


def selective_decay(
    mask_of: Callable[..., PyTree],
    selected: Callable[[PyTree], PyTree],
    decay: Callable[[Any], Any],
) -> optax.GradientTransformationExtraArgs:
    """Decays, in every step, the weights that ``mask_of`` would remove."""

    def init(params: PyTree) -> LCState:
        if not _mask_state.is_placeholder(params):
            selected(params)  # for its checks
        return LCState(jnp.zeros((), jnp.int32), None, None, None)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, LCState]:
        # Extra arguments go to the scores that ask for them; `optax.chain` hands the same ones on
        # to the other members itself.
        _wrap.check_params(params, updates, name="lc")
        rate = decay(state.step)

        def decayed(kept: Any, g: Any, w: Any) -> Any:
            if kept is None:
                return g
            w = _wide(w)
            # Chosen, not multiplied: 0 * inf would put a NaN into the gradient of a kept weight.
            return _added(g, jnp.where(kept, jnp.zeros_like(w), _cast(rate, w.dtype) * w))

        mask = mask_of(params, updates, extra_args)
        updates = _tree.map_partial(decayed, mask, updates, params)
        return updates, LCState(_next(state.step), None, None, None)

    return optax.GradientTransformationExtraArgs(init, update)


def penalty(
    mask_of: Callable[..., PyTree],
    selected: Callable[[PyTree], PyTree],
    schedule: Callable[[Any], Any],
    interval: Any,
    multipliers: bool,
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of mu / 2 |w - theta|², with theta renewed every ``interval`` steps."""

    def init(params: PyTree) -> LCState:
        like = params if _mask_state.is_placeholder(params) else selected(params)
        widest = _tree.wide_dtype(*(p.dtype for p in jax.tree.leaves(like)))
        return LCState(
            step=jnp.zeros((), jnp.int32),
            mu=jnp.zeros((), widest),
            theta=jax.tree.map(lambda p: jnp.zeros_like(p, p.dtype), like),
            # A sum of many small terms: in float32 at least.
            multipliers=jax.tree.map(lambda p: jnp.zeros_like(p, _tree.wide_dtype(p.dtype)), like)
            if multipliers
            else None,
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, LCState]:
        _wrap.check_params(params, updates, name="lc")
        thetas, treedef = jax.tree.flatten(state.theta)
        weights = [jnp.asarray(w) for w in _beside(state.theta, params)]
        before = (state.mu, thetas, jax.tree.leaves(state.multipliers))

        def c_step() -> tuple[jax.Array, list[Any], list[Any]]:
            mu, _, ys = before
            shifted = [_cast(w, w.dtype) for w in weights]
            if ys:
                # mu is zero before the first step only, and so are the multipliers.
                shift = [y / _cast(jnp.where(mu > 0, mu, jnp.ones_like(mu)), y.dtype) for y in ys]
                shifted = [
                    _cast(_wide(w) - s, w.dtype) for w, s in zip(weights, shift, strict=True)
                ]
            tree = _tree.map_partial(
                lambda v, p: p if v is None else v, treedef.unflatten(shifted), params
            )
            mask = mask_of(tree, updates, extra_args)
            check_leaves(mask, state.theta, name="lc")
            kept = jax.tree.leaves(mask)
            new = [or_zero(m, v) for m, v in zip(kept, shifted, strict=True)]
            if ys:
                gaps = _gaps(mu, weights, new)
                ys = [y - gap for y, gap in zip(ys, gaps, strict=True)]
            return _cast(schedule(state.step), mu.dtype), new, ys

        due = state.step % jnp.asarray(interval, jnp.int32) == 0
        mu, thetas, ys = jax.lax.cond(due, c_step, lambda: before)
        pulls = _gaps(mu, weights, thetas)
        if ys:
            pulls = [pull - y for pull, y in zip(pulls, ys, strict=True)]
        updates = _tree.map_partial(
            lambda pull, g: g if pull is None else _added(g, pull),
            treedef.unflatten(pulls),
            updates,
        )
        return updates, LCState(
            step=_next(state.step),
            mu=mu,
            theta=treedef.unflatten(thetas),
            multipliers=treedef.unflatten(ys) if ys else None,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _gaps(mu: jax.Array, weights: list[Any], thetas: list[Any]) -> list[jax.Array]:
    """The penalty's gradient ``mu (w - theta)``, leaf by leaf."""
    pairs = [(_wide(w), _wide(t)) for w, t in zip(weights, thetas, strict=True)]
    return [_cast(mu, w.dtype) * (w - t) for w, t in pairs]


def _beside(partial: PyTree, tree: PyTree) -> list[Any]:
    """The leaves of ``tree`` where ``partial`` has one."""
    _tree.check_matches(partial, tree, what="state of lc")
    pairs = zip(
        jax.tree.leaves(partial, is_leaf=_tree.is_absent),
        jax.tree.leaves(tree, is_leaf=_tree.is_absent),
        strict=True,
    )
    return [x for p, x in pairs if not _tree.is_absent(p)]


def _next(step: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(step))


def _cast(x: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(x).astype(dtype)


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(_tree.wide_dtype(x.dtype))


def _added(g: Any, pull: jax.Array) -> jax.Array:
    """Adds to a gradient, and rounds once to its dtype."""
    wide = _tree.wide_dtype(jnp.asarray(g).dtype, pull.dtype)
    return (_cast(g, wide) + _cast(pull, wide)).astype(jnp.asarray(g).dtype)
