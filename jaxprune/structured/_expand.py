"""Expanding: a small tree in the shapes that it had, with zeros where channels went."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups
from jaxprune.structured._masks import kept_of, kept_positions


def expand(small: PyTree, groups: ChannelGroups, masks: PyTree) -> PyTree:
    """Puts small parameters back into the shapes that they had: the inverse of `cut`.

    Where channels went there are zeros, so what comes back is the masked network: scores, norms and
    files that know the dense network take it.

    Args:
      small: a tree like the parameters, of what `cut` or `shrink` left of them, or trained since.
      groups: from `channel_groups`, of the dense network.
      masks: a tree like the dense parameters, see `jaxprune.structured.masks`.

    Returns:
      A tree of the same structure, of the dense shapes.

    Raises:
      ValueError: if the tree is another one, or a leaf is not what the masks leave; if the masks
        split a channel.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
      >>> masks = jp.structured.masks(groups, [jnp.array([True, False, True])])
      >>> small = jp.structured.cut(params, groups, masks)
      >>> jp.structured.expand(small, groups, masks)["a"].tolist()
      [[1.0, 0.0, 1.0]]
    """
    stays = kept_positions(groups, kept_of(groups, masks))
    named = _tree.named_leaves(small)
    if [path for path, _ in named] != list(groups.shapes):
        differ = sorted({path for path, _ in named} ^ {*groups.shapes})
        raise ValueError(f"the small tree is not one of the parameters grouped: {differ[:3]}.")

    def leaf(key_path: tuple[Any, ...], x: Any) -> Any:
        path = _tree.path_string(key_path)
        full = groups.shapes[path]
        alive = [stays.get((path, axis), np.ones(n, bool)) for axis, n in enumerate(full)]
        wanted = tuple(int(a.sum()) for a in alive)
        if tuple(np.shape(x)) != wanted:
            raise ValueError(
                f"{path!r} has shape {np.shape(x)}, but the masks leave {wanted} of {full}."
            )
        if wanted == full:
            return x
        dense = np.zeros(full, x.dtype)
        dense[np.ix_(*map(np.flatnonzero, alive))] = np.asarray(x)
        if isinstance(x, np.ndarray):
            return dense
        return jax.device_put(dense, x.sharding if x.committed else None)

    return jax.tree_util.tree_map_with_path(leaf, small)
