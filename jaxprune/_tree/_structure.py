"""Whether two trees are of the same parameters, and what to say if they are not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune._tree._paths import PyTree, is_absent, is_floating, named_leaves, path_string


def expanded(partial: PyTree, like: PyTree) -> PyTree:
    """A partial tree with each `None` that stands for a subtree of ``like`` spelled out.

    As in optax, a prefix of the tree will do. What fits no other way stays as it is, for the caller
    to complain about.
    """
    if jax.tree.structure(partial, is_leaf=is_absent) == jax.tree.structure(
        like, is_leaf=is_absent
    ):
        return partial
    if is_absent(partial):
        return jax.tree.map(lambda _: partial, like, is_leaf=is_absent)
    if jax.tree_util.all_leaves([partial]) or jax.tree_util.all_leaves([like]) or is_absent(like):
        return partial
    ours, treedef = jax.tree.flatten(partial, is_leaf=lambda x: x is not partial)
    theirs, other = jax.tree.flatten(like, is_leaf=lambda x: x is not like)
    if treedef != other:
        return partial
    return treedef.unflatten([expanded(a, b) for a, b in zip(ours, theirs, strict=True)])


def first_difference(a: PyTree, b: PyTree) -> str | None:
    """The path of a leaf that only one of two partial trees has, or `None`.

    Containers may differ, and so may what stands for "no leaf here".
    """
    ours, theirs = (
        [path for path, leaf in named_leaves(tree) if not is_absent(leaf)] for tree in (a, b)
    )
    differing = sorted(set(ours) ^ set(theirs))
    differing += [x for x, y in itertools.zip_longest(ours, theirs) if x != y]
    return differing[0] if differing else None


def fit(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether leaves that are in both trees have the same shapes."""
    return all(
        is_absent(x) or is_absent(y) or np.shape(x) == np.shape(y)
        for x, y in zip(ours, theirs, strict=True)
    )


def check_same(a: PyTree, b: PyTree, *, names: tuple[str, str]) -> None:
    """Raises if two networks are not of one architecture.

    Raises:
      ValueError: naming the first leaf that only one has, or whose shape or dtype differs.
    """
    if (path := first_difference(a, b)) is not None:
        raise ValueError(f"{names[0]} and {names[1]} are of other trees: only one has {path!r}.")
    for (path, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True):
        one, other = (f"{getattr(v, 'dtype', type(v).__name__)}{list(np.shape(v))}" for v in (x, y))
        if one != other:
            raise ValueError(
                f"{path!r} is {one} in {names[0]} and {other} in {names[1]}, which must be of one "
                "architecture."
            )


def check_matches(partial: PyTree, params: PyTree, *, what: str = "mask") -> None:
    """Raises if the leaves of ``partial`` do not sit, with their shapes, in ``params``.

    Raises:
      ValueError: naming the first path that differs and both shapes, or of tied variables in a
        module.
    """
    check_untied(params)
    one, other = (jax.tree.flatten(tree, is_leaf=is_absent) for tree in (partial, params))
    if one[1] == other[1] and fit(one[0], other[0]):
        return  # what it is nearly always; below, path by path, to name what differs
    partial = expanded(partial, params)
    ours = jax.tree_util.tree_flatten_with_path(partial, is_leaf=is_absent)[0]
    theirs = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_absent)[0]
    ours = [(path_string(p), x) for p, x in ours]
    theirs = [(path_string(p), x) for p, x in theirs]
    repair = f"Make the {what} from these very parameters."
    for (a, x), (b, y) in zip(ours, theirs, strict=False):
        if a != b:
            raise ValueError(
                f"the {what} is of another tree: it has {a!r} where {b!r} is. {repair}"
            )
        if not is_absent(x) and not is_absent(y) and np.shape(x) != np.shape(y):
            raise ValueError(
                f"the {what} has shape {np.shape(x)} at {a!r}, the parameter {np.shape(y)}. "
                + repair
            )
    if len(ours) != len(theirs):
        longer, name = (ours, what) if len(ours) > len(theirs) else (theirs, "parameters")
        path = longer[min(len(ours), len(theirs))][0]
        raise ValueError(
            f"the {what} is of another tree: only the {name} {'have' if name != what else 'has'} "
            f"a leaf {path!r}. {repair}"
        )


def check_untied(tree: PyTree) -> None:
    """Raises if a module of Flax NNX holds one variable in two places.

    A module is a tree to JAX, but a tree has no identity: what is computed from it has two
    variables there, which come apart. The `State` of `nnx.split` has each variable once.

    Raises:
      ValueError: naming both paths, and the repair.
    """
    variable = getattr(sys.modules.get("flax.nnx"), "Variable", None)
    if variable is None:
        return  # without Flax NNX there is no such module
    seen: dict[int, str] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, variable))
    for path, x in leaves:
        # Random streams are often shared, and have no weights.
        if not isinstance(x, variable) or not any(map(is_floating, jax.tree.leaves(x))):
            continue
        name = path_string(path)
        if id(x) in seen:
            raise ValueError(
                f"{name!r} and {seen[id(x)]!r} are one variable of a Flax NNX module, but two "
                "arrays of it as a tree: they would come apart. Split the module, which keeps the "
                "variable once: graphdef, params, rest = nnx.split(model, nnx.Param, ...); then "
                "use params, and nnx.merge(graphdef, params, rest) at the end. "
                "jp.training.from_nnx does that for training."
            )
        seen[id(x)] = name


def check_unique(paths: list[str]) -> None:
    """Raises if two leaves of a tree have the same readable path.

    Raises:
      ValueError: naming the path.
    """
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(
                f"two leaves of the tree have the same readable path {path!r}, so they "
                "could not be told apart. Rename one of their keys (a '/' inside a key looks like "
                "a nested key)."
            )
        seen.add(path)


def is_function(x: Any, like: PyTree) -> bool:
    """Whether a function was passed where a tree like ``like`` may be, too.

    Told by the structure: the model of some frameworks is a tree and can be called.
    """
    if not callable(x):
        return False
    structure = jax.tree.structure(like, is_leaf=is_absent)
    return jax.tree.structure(x, is_leaf=is_absent) != structure
