"""What all transforms that keep weights at zero do with the optimizer they wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager, _tree
from jaxprune._extra_args import with_extra_args
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree
from jaxprune.transforms import _mask_state, _moments
from jaxprune.transforms._mask_state import PruneMask


def init_inner(
    tx: optax.GradientTransformationExtraArgs, node: PruneMask, params: PyTree
) -> optax.OptState:
    """The state of the wrapped optimizer, for parameters masked by ``node``.

    Raises:
      ValueError: if that state mixes weights, so that none can be cleared alone.
    """
    if _mask_state.is_placeholder(params):
        return tx.init(params)
    aligned = _mask_state.align(node.tree, network_of(params))
    inner_state = _eager.computed(lambda m, p: tx.init(masked(m, p)), aligned, params)
    # Some optimizers keep the very parameters, which a step donates beside the state.
    inner_state = _eager.unshared(inner_state, params)
    _moments.check_state(tx, inner_state, aligned)
    return inner_state


def step(
    tx: optax.GradientTransformationExtraArgs,
    grads: PyTree,
    inner_state: optax.OptState,
    params: PyTree,
    mask: PyTree,
    extra_args: dict[str, Any],
) -> tuple[PyTree, optax.OptState]:
    """One step of the wrapped optimizer in the sparse network.

    Gradients and parameters are masked, and so are the moments, for a mask set since the last
    step. Afterwards the caller clears them again with `_moments.zero_pruned`, for optimizers whose
    moments leave zero by themselves, as adafactor's second moments do by its epsilon, and if the
    mask has moved; `_zeros` tells where that is not needed.

    Args:
      tx: the wrapped optimizer.
      grads: the gradients.
      inner_state: its state.
      params: the parameters.
      mask: bool arrays in the very structure of ``params``, `None` where a leaf is not prunable.
      extra_args: handed on.

    Returns:
      The updates, whose entries at pruned weights mean nothing yet, and the state.
    """
    inner_state = _moments.zero_pruned(tx, inner_state, mask)
    return tx.update(masked(mask, grads), inner_state, masked(mask, params), **extra_args)


def network_of(params: PyTree) -> PyTree:
    """The parameters that gradients are taken at: of lookahead's pair the fast ones."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def _in_each(f: Callable[..., PyTree], mask: PyTree, *trees: PyTree) -> PyTree:
    """``f(mask, *trees)``; of lookahead's pairs for the fast and for the slow parameters."""
    if isinstance(trees[0], optax.LookaheadParams):
        pairs = zip(*trees, strict=True)
        return optax.LookaheadParams(*(f(mask, *some) for some in pairs))
    return f(mask, *trees)


def masked(mask: PyTree, tree: PyTree) -> PyTree:
    """``tree`` with zeros where the mask is False."""
    return _in_each(_masked, mask, tree)


def _masked(mask: PyTree, tree: PyTree) -> PyTree:
    rows = _tree.map_partial(lambda m, x: x if m is None else _eager.Row(m, x), mask, tree)
    return _eager.together(or_zero, rows)


def to_zero(mask: PyTree, updates: PyTree, params: PyTree) -> PyTree:
    """``updates`` with minus the weight where the mask is False: it then becomes exactly zero."""
    return _in_each(_all_to_zero, mask, updates, params)


def _all_to_zero(mask: PyTree, updates: PyTree, params: PyTree) -> PyTree:
    rows = _tree.map_partial(
        lambda m, *pair: pair[0] if m is None else _eager.Row(m, *pair), mask, updates, params
    )
    return _eager.together(_to_zero, rows)


def _to_zero(m: jax.Array, update: jax.Array, param: jax.Array) -> jax.Array:
    # In a narrower dtype than the weight's, -w would be rounded and w + (-w) not zero. The wider
    # dtype is asked for on purpose, so a strict rule of promotion has nothing to object to.
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(update.dtype, param.dtype)
    return jnp.where(m, update.astype(dtype), -param.astype(dtype))


def check_params(params: PyTree | None, grads: PyTree, *, name: str) -> None:
    """Raises if ``update`` was called without parameters, or with gradients of other shapes."""
    if params is None:
        raise ValueError(
            f"{name} needs the parameters, got params=None. Call "
            "tx.update(grads, opt_state, params)."
        )
    network = network_of(params)
    theirs, ours = (jax.tree.leaves(x, is_leaf=_tree.is_absent) for x in (grads, network))
    if len(theirs) == len(ours):  # else the trees differ, which shows where they are compared
        for i, (g, p) in enumerate(zip(theirs, ours, strict=True)):
            if not _tree.is_absent(g) and not _tree.is_absent(p) and np.shape(g) != np.shape(p):
                raise ValueError(_other_shape(g, p, i, network, name))


def _other_shape(g: Any, p: Any, index: int, params: PyTree, name: str) -> str:
    named = jax.tree_util.tree_flatten_with_path(params, is_leaf=_tree.is_absent)[0]
    path, per_example = _tree.path_string(named[index][0]), np.shape(g)[1:] == np.shape(p)
    repair = (
        "That looks like one gradient an example. Aggregate them first: optax.chain("
        f"optax.contrib.differentially_private_aggregate(...), {name}(optax.sgd(...)))."
        if per_example
        else "Take the gradients at these very parameters."
    )
    return (
        f"{name} got a gradient of shape {np.shape(g)} for {path!r}, a parameter of shape "
        f"{np.shape(p)}. {repair}"
    )


def as_transformation(inner: Any, *, name: str) -> optax.GradientTransformationExtraArgs:
    """The optimizer to wrap, made to take extra arguments.

    Raises:
      TypeError: if it is no optimizer.
    """
    init, update = getattr(inner, "init", None), getattr(inner, "update", None)
    if init is None or update is None:
        got = getattr(inner, "__name__", type(inner).__name__)
        raise TypeError(
            f"{name} wraps an optimizer, an object with init and update, but got {got!r}. "
            "Pass an instance, e.g. optax.adam(learning_rate)."
        )
    return with_extra_args(inner)
