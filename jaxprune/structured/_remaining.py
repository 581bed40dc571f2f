"""What remains after channels went: groups renumbered, functions of the small parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, check_kept
from jaxprune.structured._masks import kept_positions
from jaxprune.structured._shrink import SmallApply


def remaining(groups: ChannelGroups, kept: Sequence[Any]) -> ChannelGroups:
    """The groups of the network that is left, without following it anew.

    To cut once more what was cut already, an optimizer's state, say.

    Args:
      groups: from `channel_groups`.
      kept: for each group which channels stay, bool ``[size of the group]``.

    Returns:
      The same groups with the channels, positions and shapes that are left. They know no function,
      which budgets would need.

    Raises:
      ValueError: if an array has another size than its group, or keeps nothing.
      TypeError: if it is not bool.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> left = jp.structured.remaining(groups, [jnp.array([True, False, True])])
      >>> left[0].size, left.shapes
      (2, {'a': (1, 2), 'b': (2, 1)})
    """
    arrays = check_kept(groups, kept)
    stays = kept_positions(groups, arrays)
    found = []
    for group, there in zip(groups, arrays, strict=True):
        number = np.append(np.where(there, np.cumsum(there) - 1, -1), -1)
        members = [
            m._replace(owners=number[m.owners][stays[m.path, m.axis]]) for m in group.members
        ]
        found.append(group._replace(size=int(there.sum()), members=tuple(members)))
    shapes = {
        path: tuple(
            int(stays[path, axis].sum()) if (path, axis) in stays else n
            for axis, n in enumerate(shape)
        )
        for path, shape in groups.shapes.items()
    }
    return dataclasses.replace(groups, groups=tuple(found), fixed=(), shapes=shapes, program=None)


def small_function(
    apply: Callable[..., Any], params: PyTree, groups: ChannelGroups, kept: Sequence[Any]
) -> Callable[..., Any]:
    """The function of `shrink`, before any inputs are known.

    For several functions of the same parameters (a loss, an evaluation): each is followed when it
    is called first, with inputs of those shapes.

    Args:
      apply: any function of the dense parameters and inputs, pure.
      params: the dense parameters, or their `jax.ShapeDtypeStruct`.
      groups: from `channel_groups`, of a function of these parameters.
      kept: for each group which channels stay, bool ``[size of the group]``.

    Returns:
      ``small_apply(small_params, *inputs)``, see `shrink` and `cut`.

    Raises:
      ValueError: if an array has another size than its group, or keeps nothing; at the first call,
        if in ``apply`` other channels hang together than in the function that was grouped.
      TypeError: if it is not bool.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> kept = [jnp.array([True, False, True])]
      >>> small_apply = jp.structured.small_function(apply, params, groups, kept)
      >>> small = jp.structured.cut(params, groups, jp.structured.masks(groups, kept))
      >>> small_apply(small, jnp.ones((5, 1))).shape
      (5, 1)
    """
    return SmallApply(apply, params, kept_positions(groups, check_kept(groups, kept)))
