"""Whether an optimizer with a mask somewhere inside brings pruned weights to zero."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _wrap
from jaxprune.transforms._averaged import AveragedState
from jaxprune.transforms._dense import pruned_leaves
from jaxprune.transforms._fixed_mask import FixedMaskState
from jaxprune.transforms._freeze import freeze
from jaxprune.transforms._moving import MovingMaskState

_STEPS = 16
_WEIGHT = 3.0  # of a pruned weight before the first step; more than clipping usually lets through


def check_position(inner: Any, params: PyTree) -> None:
    """Raises if what stands around the transform that prunes keeps weights from zero.

    A member of a chain sees neither what comes behind it nor what wraps it. This sees the whole: it
    prunes every second weight and takes a few steps with gradients of one, in one compiled program.
    Pruned weights must be zero then, or not have moved at all (`optax.MultiSteps` waits).
    Where the outermost transform is the one that prunes, there is nothing to do.

    Position: none; call it once, before training. `jaxprune.training.TrainState.create` does.

    Args:
      inner: the whole optimizer.
      params: the parameters; for `optax.lookahead` the pair. Not traced.

    Warns:
      UserWarning: if `optax.MultiSteps` stands around a transform whose mask moves.

    Raises:
      TypeError: if it is no optimizer, or ``params`` are traced.
      ValueError: naming a leaf with pruned weights that do not arrive at zero; or if there is no
        mask in the optimizer's state.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.ones((2, 2))}
      >>> pruning = transforms.gmp(optax.sgd(0.1), 0.5, total_steps=4, interval=1)
      >>> transforms.check_position(optax.chain(optax.clip(1.0), pruning), params)
      >>> transforms.check_position(optax.chain(pruning, optax.scale(0.5)), params)
      Traceback (most recent call last):
      ...
      ValueError: pruned weights of 'kernel' do not arrive at zero: ...
    """
    tx = _wrap.as_transformation(inner, name="check_position")
    if _tree.is_traced(params):
        raise TypeError("check_position looks at values; call it outside of compiled functions.")
    shapes = jax.eval_shape(tx.init, params)
    _mask_state.nodes(shapes)  # raises if there is none
    if _waits(shapes):
        warnings.warn(
            "optax.MultiSteps stands around a transform whose mask moves, which sees one call in "
            "k: a schedule of total_steps calls does not end. Put MultiSteps inside of it, or "
            "divide its lengths by k; jaxprune.assert_sparse(params, state, sparsity=...) tells "
            "whether it has ended.",
            stacklevel=2,
        )
    if _is_outermost(shapes):
        return
    try:
        ends, start = jax.jit(lambda params: _astray(tx, params))(params)
    except Exception:
        # It asks for values, or for extra arguments that only a training loop has. If the trouble
        # is another, the first step meets it as well.
        return
    mask = _mask_state.align(_mask_state.get_mask(shapes, copy=False), _wrap.network_of(params))
    for (path, *_), end in zip(pruned_leaves(params, mask), np.asarray(ends), strict=True):
        if not np.isnan(end):
            raise ValueError(
                f"pruned weights of {path!r} do not arrive at zero: from {float(start):g} one came "
                f"to {end:.4g}. Something around the transform that prunes changes its updates. "
                "Put that transform outermost, or wrap all of it in "
                "jaxprune.transforms.keep_zeros."
            )


def _is_outermost(state: PyTree) -> bool:
    """Whether updates leave the optimizer as the transform that prunes returns them."""
    if isinstance(state, (FixedMaskState, MovingMaskState)):
        return True
    if isinstance(state, (optax.InjectHyperparamsState, AveragedState)):
        return _is_outermost(state.inner_state)
    return type(state) is tuple and bool(state) and _is_outermost(state[-1])  # optax.chain


def _moves(state: PyTree) -> bool:
    return any(isinstance(x, MovingMaskState) for x in _within(state, MovingMaskState))


def _waits(state: PyTree) -> bool:
    """Whether a mask moves inside of `optax.MultiSteps`."""
    found = _within(state, optax.MultiStepsState)
    return any(_moves(x.inner_opt_state) for x in found if isinstance(x, optax.MultiStepsState))


def _within(state: PyTree, kind: type) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))


def _astray(
    tx: optax.GradientTransformationExtraArgs, params: PyTree
) -> tuple[jax.Array, jax.Array]:
    """What a pruned weight of each leaf became, if neither zero nor what it was; else NaN.

    Where the mask stays and ``params`` have it already, pruned weights begin at zero. Returns
    where they begin, too.
    """
    state = tx.init(params)
    held = _mask_state.get_mask(state, copy=False)
    dense = jnp.asarray(_moves(state) or _is_dense(params, held))
    state = freeze(_mask_state.set_mask(state, jax.tree.map(_every_second, held)))
    network = _wrap.network_of(params)
    mask = _mask_state.align(_mask_state.get_mask(state, copy=False), network)
    start = jnp.where(dense, _WEIGHT, 0.0)
    grads = jax.tree.map(jnp.ones_like, network)

    def begin(tree: PyTree) -> PyTree:
        def one(m: Any, w: Any) -> Any:
            return w if m is None else jnp.where(m, w, start.astype(w.dtype))

        return _tree.map_partial(one, mask, tree)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state, ends = carry
        updates, state = tx.update(grads, state, params, value=jnp.ones((), jnp.float32))
        params = optax.apply_updates(params, updates)
        rows = pruned_leaves(params, mask)
        now = jnp.stack([_neither(m, w, start) for _, m, w in rows])
        return (params, state, jnp.where(jnp.isnan(ends), now, ends)), None

    pair = isinstance(params, optax.LookaheadParams)
    params = optax.LookaheadParams(*map(begin, params)) if pair else begin(params)
    none = jnp.full(len(pruned_leaves(params, mask)), jnp.nan, jnp.float32)
    (_, _, ends), _ = jax.lax.scan(step, (params, state, none), None, length=_STEPS)
    return ends, start


def _is_dense(params: PyTree, mask: PyTree) -> jax.Array:
    """Whether weights that the mask has already removed are not zero."""
    mask = _mask_state.align(mask, _wrap.network_of(params))
    rows = pruned_leaves(params, mask)
    return jnp.any(jnp.stack([jnp.any(~m & (w != 0)) for _, m, w in rows]))


def _every_second(m: jax.Array) -> jax.Array:
    places = (jax.lax.broadcasted_iota(jnp.int32, m.shape, axis) for axis in range(m.ndim))
    return sum(places, jnp.zeros(m.shape, jnp.int32)) % 2 == 0


def _neither(m: jax.Array, w: jax.Array, start: jax.Array) -> jax.Array:
    """A pruned weight that is neither zero nor ``start``; NaN if there is none."""
    moved = ~m & (w != 0) & (w != start.astype(w.dtype)) & ~jnp.isnan(w)
    largest = jnp.max(jnp.where(moved, w.astype(jnp.float32), -jnp.inf), initial=-jnp.inf)
    return jnp.where(jnp.any(moved), largest, jnp.nan)
