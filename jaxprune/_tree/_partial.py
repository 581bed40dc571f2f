"""Partial trees, `None` where a leaf is not prunable, side by side with full ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxprune._tree._paths import PyTree, is_absent, named_leaves
from jaxprune._tree._structure import check_matches, check_untied, expanded, fit


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
    columns, treedef = columns_of(partial, *trees, what=what)
    return treedef.unflatten(
        leaves[0] if is_absent(leaves[0]) else f(m, *leaves)
        for m, *leaves in zip(*columns, strict=True)
    )


def columns_of(partial: PyTree, *trees: PyTree, what: str = "mask") -> tuple[list[list[Any]], Any]:
    """The leaves of a partial tree and of full trees of the same parameters, as lists.

    Args:
      partial: a tree with `None` where a leaf is not prunable, or where a whole subtree is not.
      *trees: trees of the parameters' structure; at least one.
      what: the word for ``partial`` in errors.

    Returns:
      One list for each tree, all of one length, the first with `None` where ``partial`` has no
      leaf; and the structure of ``trees[0]``, to unflatten a list like them.

    Raises:
      ValueError: as `map_partial`.
    """
    for tree in trees:
        check_untied(tree)
    flat = [jax.tree.flatten(tree, is_leaf=is_absent) for tree in trees]
    own, structure = jax.tree.flatten(partial, is_leaf=is_absent)
    if structure != flat[0][1]:
        own, structure = jax.tree.flatten(expanded(partial, trees[0]), is_leaf=is_absent)
    own = [None if is_absent(x) else x for x in own]
    # Leaf by leaf, not by jax.tree.map: equal paths in other containers (a plain dict beside a
    # FrozenDict, after a checkpoint) are the same parameters.
    for tree, (leaves, other) in zip(trees, flat, strict=True):
        if other != structure or not fit(own, leaves):
            check_matches(partial, tree, what=what)  # path by path
    return [own, *(leaves for leaves, _ in flat)], flat[0][1]


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
