"""Taylor: how much the loss changes, to first order, if a gate behind a channel closes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, Group
from jaxprune.structured.scores._unit_rows import arrays_of, holds, real_view, scored, unit_rows


def taylor(groups: ChannelGroups, params: PyTree, grads: PyTree) -> tuple[jax.Array, ...]:
    r"""Scores every channel by the squared gradient of a gate behind it.

    A gate $z_u = 1$ multiplies channel u wherever a product sums over channels. Nothing has to be
    inserted for its gradient: a product reads $\sum_u w[u]\, z_u x_u$, in which gate and weights
    stand only as $z_u w[u]$. With $g = \partial L / \partial w$,

    $$\mathrm{score}_u = \Bigl(\frac{\partial L}{\partial z_u}\Bigr)^2
      = \Bigl(\sum_m \sum_{s \in u} w_{m,s}\, g_{m,s}\Bigr)^2,$$

    over the members m that read the channel (role "in") and their entries s at the unit. That is
    exact if the products use their kernels as they are, or as a linear function of them.

    Channels that no kernel reads, such as the features of queries and keys, which meet
    each other, have the gate directly behind the kernels that make them (role "out"), by the same
    identity.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      grads: gradients of the loss, a tree like ``params``; leaves other than kernels may be `None`.
        The paper squares the gradient of each batch and averages the squares: call this for every
        batch, and see `average`.

    Returns:
      One array a group, float32 at least, ``[size of the group]``. They compare across groups
      without more (`globally`).

    Raises:
      ValueError: if ``params`` are not those that were grouped, ``grads`` are of other paths or
        shapes, or no kernel reads or makes a channel; outside `jit`, if a weight or a gradient is
        NaN or infinite.
      TypeError: if a kernel or its gradient is not a floating array.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.sum(x @ params["a"] @ params["b"])
      >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0], [-4.0]])}
      >>> x = jnp.ones((1, 1))
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> jp.structured.taylor(groups, params, jax.grad(apply)(params, x))
      (Array([ 9., 64.], dtype=float32),)

    References:
      Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, section 3.1
      (importance of a gate).
    """
    arrays = arrays_of(groups, params)
    gradients = dict(_tree.named_leaves(grads))
    read = [_held(group, "in") for group in groups]
    members = []
    for group, held in zip(groups, read, strict=True):
        members += group.role("in")
        if not held.all():
            members += group.role("out")
            made = _held(group, "out")
            if not (held | made).all():
                unit = int(np.flatnonzero(~(held | made))[0])
                raise ValueError(f"no kernel reads or makes channel {unit} of {group.name!r}.")
    for member in members:
        g = gradients.get(member.path)
        if g is None or tuple(g.shape) != groups.shapes[member.path]:
            raise ValueError(
                f"the gradients have {'nothing' if g is None else f'shape {g.shape}'} for "
                f"{member.path!r} of shape {groups.shapes[member.path]}. Differentiate with "
                "respect to the whole parameter tree that was grouped."
            )

    def scores(weights: dict[str, Any], slopes: dict[str, Any]) -> tuple[jax.Array, ...]:
        found = []
        for group, held in zip(groups, read, strict=True):
            slope = _slope(weights, slopes, group, "in")
            if not held.all():
                behind = _slope(weights, slopes, group, "out")
                dtype = _tree.wide_dtype(slope.dtype, behind.dtype)
                slope = jnp.where(held, slope.astype(dtype), behind.astype(dtype))
            found.append(jnp.square(slope))
        return tuple(found)

    return _eager.computed(
        scores, scored(arrays, members), scored(gradients, members, what="gradients")
    )


def _held(group: Group, role: str) -> np.ndarray:
    held = np.zeros(group.size, bool)
    for member in group.role(role):
        held |= holds(group, member)
    return held


def _slope(weights: dict[str, Any], slopes: dict[str, Any], group: Group, role: str) -> jax.Array:
    """The derivative by the gates behind the members of a role."""
    total = jnp.zeros(group.size)
    for member in group.role(role):
        w = unit_rows(real_view(weights[member.path]), group, member)
        # JAX's gradient of a complex weight a + bi is dL/da - i dL/db.
        g = unit_rows(real_view(slopes[member.path], conjugate=True), group, member)
        part = jnp.sum(w * g.astype(w.dtype), 1)
        dtype = _tree.wide_dtype(total.dtype, part.dtype)
        total = total.astype(dtype) + part.astype(dtype)
    return total
