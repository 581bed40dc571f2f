"""Leaves with paths, put into the structure of a tree that says what they should look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree

_SHOWN = 3


def check_like(
    shapes: Mapping[str, tuple[int, ...]], like: PyTree, *, what: str, which: str = "like"
) -> None:
    """Raises if leaves of these paths and shapes are not a mask of ``like``.

    Every path must be a leaf of ``like`` of the same shape. Leaves of ``like`` without a path in
    ``shapes`` are not prunable, unless ``like`` is a mask itself (all leaves boolean): then each
    of its leaves must be there.

    Args:
      shapes: the shape of each leaf, by readable path.
      like: parameters, a mask, or a tree of `jax.ShapeDtypeStruct`.
      what: the word in errors for where ``shapes`` is from.
      which: the word in errors for ``like``.

    Raises:
      ValueError: listing the first differences.
    """
    named = _tree.named_leaves(like)
    expected = {path: tuple(np.shape(leaf)) for path, leaf in named}
    _tree.check_unique([path for path, _ in named])
    is_mask = all(getattr(leaf, "dtype", None) == np.bool_ for _, leaf in named)
    differences = []
    for path, shape in shapes.items():
        if path not in expected:
            differences.append(f"{path!r} is {shape} in {what} and absent in `{which}`")
        elif shape != expected[path]:
            differences.append(f"{path!r} is {shape} in {what}, {expected[path]} in `{which}`")
    if is_mask:
        differences += [
            f"{path!r} is absent in {what}, {shape} in `{which}`"
            for path, shape in expected.items()
            if path not in shapes
        ]
    if differences:
        more = len(differences) - _SHOWN
        raise ValueError(
            f"{what} is of another tree than `{which}`: {'; '.join(differences[:_SHOWN])}"
            + (f"; and {more} more" if more > 0 else "")
            + f". Pass as `{which}` the parameters that the mask was made from."
        )


def fill_like(values: Mapping[str, Any], like: PyTree) -> PyTree:
    """Returns a tree of the structure of ``like``: the value of each path, `None` without one."""

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        return None if _tree.is_absent(leaf) else values.get(_tree.path_string(path))

    return jax.tree_util.tree_map_with_path(pick, like, is_leaf=_tree.is_absent)
