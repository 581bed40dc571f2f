"""Partial trees, `None` where a leaf is not prunable, side by side with full ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune._tree._paths import PyTree, is_absent, named_leaves
from jaxprune._tree._structure import check_matches, check_untied, expanded


def map_partial(f: Callable[..., Any], partial: PyTree, *trees: PyTree, what: str = "mask") -> Any:
    """Maps ``f`` over a partial tree and full trees of the same parameters, side by side.

    ``f`` is called at every leaf; its first argument is `None` where ``partial`` has no leaf.

    Args:
      f: ``f(partial_leaf_or_None, *leaves)``.
      partial: a tree with `None` where a leaf is not prunable, or where a whole subtree is not.
      *trees: trees of the parameters' structure.
      what: the word for ``partial`` in errors.

    Returns:
      A tree of the structure of ``trees[0]``.

    Raises:
      ValueError: if structure or shapes differ; the message names the first differing path. If a
        tree is a Flax NNX module with tied variables.
    """
    for tree in trees:
        check_untied(tree)
    # Leaf by leaf, not by jax.tree.map: equal paths in other containers (a plain dict beside a
    # FrozenDict, after a checkpoint) are the same parameters.
    if trees:
        partial = expanded(partial, trees[0])
    own, structure = jax.tree.flatten(partial, is_leaf=is_absent)
    columns, treedef = [own], None
    for tree in trees:
        leaves, other = jax.tree.flatten(tree, is_leaf=is_absent)
        treedef = other if treedef is None else treedef
        if other != structure or not _fit(own, leaves):
            check_matches(partial, tree, what=what)  # path by path
        columns.append(leaves)
    assert treedef is not None
    return treedef.unflatten(
        leaves[0] if is_absent(leaves[0]) else f(None if is_absent(m) else m, *leaves)
        for m, *leaves in zip(*columns, strict=True)
    )


def _fit(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether leaves that are in both trees have the same shapes."""
    return all(
        x is None or y is None or is_absent(x) or is_absent(y) or np.shape(x) == np.shape(y)
        for x, y in zip(ours, theirs, strict=True)
    )


def beside(
    partial: PyTree, *trees: PyTree, what: str = "mask"
) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """The leaves of a partial tree, each with what full trees of the same parameters hold there.

    By their places: two leaves may have one readable path, such as the leaf "b" of "a" and one
    whose key is "a/b".

    Args:
      partial: a tree with `None` where a leaf is not prunable.
      *trees: trees of the parameters' structure.
      what: the word for ``partial`` in errors.

    Returns:
      Path, leaf, and the leaves of ``trees``, for each leaf that ``partial`` has.

    Raises:
      ValueError: if structure or shapes differ; the message names the first differing path.
    """
    found: list[tuple[Any, tuple[Any, ...]]] = []

    def note(leaf: Any, *others: Any) -> None:
        if leaf is not None:
            found.append((leaf, others))

    map_partial(note, partial, *trees, what=what)
    paths = (path for path, _ in named_leaves(partial))
    return [(path, leaf, others) for path, (leaf, others) in zip(paths, found, strict=True)]
