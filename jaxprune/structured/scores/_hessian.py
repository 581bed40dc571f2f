"""Hessian: how much the loss changes, to second order, if the weights of a channel go."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _eager, _tree
from jaxprune._checks import check_steps
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Member
from jaxprune.structured.scores._members import (
    Members,
    Normalize,
    OverMembers,
    check_combination,
    combined,
    counted,
)
from jaxprune.structured.scores._unit_rows import arrays_of, modulus, scored, unit_rows


def hessian(
    groups: ChannelGroups,
    params: PyTree,
    diagonal: PyTree,
    *,
    members: Members = "out",
    over_members: OverMembers = "sum",
    normalize: Normalize | None = None,
    skip: Sequence[str] = (),
) -> tuple[jax.Array | None, ...]:
    r"""Scores every channel by the saliency of Optimal Brain Damage of its weights.

    $$\mathrm{score}_u = \sum_{m \ni u} \sum_{s \in u} \tfrac{1}{2} h_{m,s} w_{m,s}^2$$

    over the members m that count and their entries s at the unit: the change of the loss at a
    minimum if all of them are set to zero, with a diagonal Hessian h. A channel is gone when all
    kernels that make it are zero, or all that read it; to count both counts it twice.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      diagonal: h, a tree like ``params``, `None` for leaves that do not count:
        `jaxprune.scores.diagonal_fisher` (of a log-likelihood, never negative), or
        `hessian_diagonal`.
      members: see `magnitude`.
      over_members: see `magnitude`.
      normalize: see `magnitude`.
      skip: see `magnitude`.

    Returns:
      One array a group, float32 at least, ``[size of the group]``. They compare across groups
      without more (`globally`).

    Raises:
      ValueError: if an option is unknown, if no member that counts holds some unit, if ``params``
        are not those that were grouped, or ``diagonal`` has nothing of the shape of a member;
        outside `jit`, if a weight or an entry is NaN or infinite.
      TypeError: if a member that counts is not a floating array.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "b": jnp.ones((2, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 2)))
      >>> h = {"a": jnp.array([[4.0, 1.0], [5.0, 2.0]]), "b": None}
      >>> jp.structured.hessian(groups, params, h)
      (Array([ 2., 11.], dtype=float32),)

    References:
      LeCun et al., Optimal Brain Damage, NeurIPS 1990, equation 3; Fang et al., DepGraph, CVPR
      2023, whose codes score groups so.
    """
    check_combination(members, over_members, normalize)
    arrays = arrays_of(groups, params)
    curvature = dict(_tree.named_leaves(diagonal))
    found = counted(groups, members, skip)
    counting = list(itertools.chain(*found.members))
    for member in counting:
        h = curvature.get(member.path)
        if h is None or tuple(h.shape) != groups.shapes[member.path]:
            raise ValueError(
                f"the diagonal has {'nothing' if h is None else f'shape {h.shape}'} for "
                f"{member.path!r} of shape {groups.shapes[member.path]}. Take it of the whole "
                "parameter tree that was grouped."
            )

    def scores(weights: dict[str, Any], curvature: dict[str, Any]) -> tuple[jax.Array | None, ...]:
        def one(i: int, m: Member) -> jax.Array:
            w = unit_rows(modulus(weights[m.path]), groups[i], m)
            h = unit_rows(curvature[m.path], groups[i], m)
            dtype = _tree.wide_dtype(w.dtype, h.dtype)
            return jnp.sum(0.5 * h.astype(dtype) * jnp.square(w.astype(dtype)), axis=1)

        return combined(found, one, over_members, normalize)

    return _eager.computed(
        scores,
        scored(arrays, counting),
        scored(curvature, counting, what="entries of the diagonal"),
    )


def hessian_diagonal(
    key: jax.Array,
    loss: Callable[[PyTree, Any], jax.Array],
    params: PyTree,
    batches: Iterable[Any],
    *,
    samples: int = 1,
) -> PyTree:
    r"""Estimates the diagonal of the Hessian of a loss.

    $$h = \mathbb{E}_v [v \odot \nabla^2 L \, v],$$

    with independent signs v, one product with the Hessian each. The estimate is unbiased; its
    variance at a weight is the sum of the squares of the other entries in its row, over the number
    of signs drawn. Entries may be negative, where the loss is not convex.

    Args:
      key: a JAX random key; consumed, do not use it again.
      loss: ``loss(params, batch) -> scalar``, the mean over a batch, differentiable twice.
      params: any pytree of arrays; leaves that are not floating are held.
      batches: iterable of batches; the mean over them is taken. Compiled once per shape.
      samples: signs drawn for each batch.

    Returns:
      A tree like ``params``, float32 at least, `None` where a leaf is not floating.

    Raises:
      ValueError: if there is no batch, or ``samples`` is below 1.
      TypeError: if ``samples`` is no integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> loss = lambda params, x: jnp.sum(x * params["w"] ** 2)
      >>> w = {"w": jnp.array([3.0, 1.0])}
      >>> batches = [jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0])]
      >>> jp.structured.hessian_diagonal(jax.random.key(0), loss, w, batches)
      {'w': Array([4., 4.], dtype=float32)}

    References:
      Bekas, Kokiopoulou, Saad, An Estimator for the Diagonal of a Matrix, Applied Numerical
      Mathematics 57, 2007; Hutchinson, 1990.
    """
    samples = check_steps("samples", samples)
    leaves, treedef = jax.tree.flatten(params)
    moving = [k for k, leaf in enumerate(leaves) if _tree.is_floating(leaf)]

    @jax.jit
    def estimate(floating: list[Any], key: jax.Array, batch: Any) -> list[Any]:
        def joined(floating: list[Any]) -> jax.Array:
            every = list(leaves)
            for k, leaf in zip(moving, floating, strict=True):
                every[k] = leaf
            return loss(treedef.unflatten(every), batch)

        def one(key: jax.Array) -> list[Any]:
            keys = jax.random.split(key, len(floating))
            signs = [
                jax.random.rademacher(k, x.shape, x.dtype)
                for k, x in zip(keys, floating, strict=True)
            ]
            _, bent = jax.jvp(jax.grad(joined), (floating,), (signs,))
            return [
                (v * h).astype(_tree.wide_dtype(h.dtype)) for v, h in zip(signs, bent, strict=True)
            ]

        found = jax.lax.map(one, jax.random.split(key, samples))
        return [jnp.mean(x, axis=0) for x in found]

    floating = [leaves[k] for k in moving]
    total, number = None, 0
    for n, batch in enumerate(batches):
        new = estimate(floating, jax.random.fold_in(key, n), batch)
        total = new if total is None else [a + b for a, b in zip(total, new, strict=True)]
        number = n + 1
    if total is None:
        raise ValueError(
            "`batches` is empty. Pass at least one batch (a used-up iterator has none)."
        )
    result: list[Any] = [None] * len(leaves)
    for k, x in zip(moving, total, strict=True):
        result[k] = x / number
    return treedef.unflatten(result)
