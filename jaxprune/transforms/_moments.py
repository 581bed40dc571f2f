"""The moments of pruned weights: found in the state of any optimizer, and set to zero.

A state holds **copies**: subtrees made like the parameters (moments, accumulated gradients,
averaged weights). `optax.tree.map_params` finds them by what ``init`` does with a placeholder, so
no optimizer is known by name here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager, _tree
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree
from jaxprune.transforms._mask_state import descend


class Copy:
    """Marks a copy of the parameters inside a state. No pytree, hence a leaf to JAX."""

    def __init__(self, tree: PyTree):
        self.tree = tree


class Marked(NamedTuple):
    state: PyTree
    by_structure: bool


def zero_pruned(inner: Any, inner_state: PyTree, mask: PyTree) -> PyTree:
    r"""Sets the moments of pruned weights to zero: $s \leftarrow m \odot s$ for every copy $s$.

    State leaves of another shape than their weight's (adafactor's factored statistics and its
    placeholders, sm3's covers) belong to no single weight and are left alone; so are bool
    leaves, which are no moments.

    Args:
      inner: the optimizer, with ``init``.
      inner_state: its state.
      mask: bool arrays (True = kept) in the very structure of the parameters, else `None`.

    Returns:
      The state, with structure, shapes and dtypes as before.
    """

    def zero(m: Any, part: Any) -> Any:
        if _tree.is_absent(m):
            return part
        return jax.tree.map(lambda leaf: _zero_leaf(m, leaf), part)

    def visit(x: Any) -> Any:
        return descend(zero, mask, x.tree) if isinstance(x, Copy) else x

    return _eager.together(or_zero, jax.tree.map(visit, mark(inner, inner_state, mask).state))


def check_state(inner: Any, inner_state: PyTree, mask: PyTree) -> None:
    """Raises for an optimizer whose state mixes weights, so that none can be cleared alone.

    Refused are states in which a copy of the parameters has an extra leading axis (a history of
    whole parameters, as in L-BFGS: its inner products run over pruned weights of older steps),
    and arrays that hold several parameters at once (`optax.flatten`).

    Raises:
      ValueError: naming the leaf of the state and its shape.
    """
    marked = mark(inner, inner_state, mask)
    for path, x in _tree.named_leaves(marked.state):
        if isinstance(x, Copy):
            _check_copy(path, mask, x.tree)
        elif marked.by_structure and np.ndim(x) > 0:
            raise ValueError(
                f"cannot tell the moments of single weights in the optimizer's state: its leaf "
                f"{path!r} of shape {np.shape(x)} is no copy of the parameters, as when "
                "optax.flatten puts them all into one vector. Leave out optax.flatten; a label "
                "function of optax.partition should be written with jax.tree.map_with_path, so "
                "that optax.tree.map_params(optimizer, ...) works."
            )


def _check_copy(path: str, mask: PyTree, tree: PyTree) -> None:
    histories: list[str] = []

    def check(m: Any, part: Any) -> None:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(part)]
        if jax.tree_util.all_leaves([m]):
            # Adafactor's placeholders of shape (1,) are no history of a scalar.
            found = [s for s in shapes if np.ndim(m) > 0 and s[1:] == np.shape(m)]
            histories.extend(f"shape {s} for a weight of shape {np.shape(m)}" for s in found)
        elif not _tree.is_absent(m) and any(shapes):
            raise ValueError(f"one array of shape {shapes[0]} stands for several parameters")

    try:
        descend(check, mask, tree)
    except ValueError as error:
        raise ValueError(
            f"the optimizer's state does not line up with the parameters at {path!r}: {error}. "
            "Use an optimizer whose moments are trees like the parameters."
        ) from error
    if histories:
        raise ValueError(
            f"the optimizer's state holds a history of whole parameters, as lbfgs does: {path!r} "
            f"has {histories[0]}. Inner products with older steps would let pruned weights move "
            "kept ones. Use a first-order optimizer such as optax.adam or optax.sgd."
        )


def mark(inner: Any, state: PyTree, mask: PyTree) -> Marked:
    """Wraps every copy of the parameters in `Copy`."""
    marked: list[PyTree] = []
    has_pair = _has_lookahead(state)

    def init(placeholder: Any) -> PyTree:
        # Of anything but its pair lookahead takes it that a user has forgotten it, and says so.
        return inner.init(optax.LookaheadParams(*[placeholder] * 2) if has_pair else placeholder)

    def by_init() -> None:
        # With everything a leaf, map_params hands over each copy as a whole.
        marked.append(optax.tree.map_params(init, Copy, state, is_leaf=lambda _: True))

    try:
        jax.eval_shape(by_init)  # map_params calls ``init``, whose outcome it drops
        return Marked(marked[0], False)
    except Exception:
        # Some optimizers fail on the placeholder alone: line searches ask for its dtype, label
        # functions of `optax.partition` for its items. Then a copy is what has the parameters'
        # containers.
        def is_copy(x: Any) -> bool:
            return _has_structure(mask, x)

        marked = jax.tree.map(lambda x: Copy(x) if is_copy(x) else x, state, is_leaf=is_copy)
        return Marked(marked, True)


def _has_lookahead(state: PyTree) -> bool:
    def is_lookahead(x: Any) -> bool:
        return isinstance(x, optax.LookaheadState)

    return any(map(is_lookahead, jax.tree.leaves(state, is_leaf=is_lookahead)))


def _has_structure(mask: PyTree, tree: PyTree) -> bool:
    ends: list[Any] = []
    if jax.tree_util.all_leaves([mask]):  # the parameters are one array: only shapes can tell
        return jax.tree_util.all_leaves([tree]) and np.shape(tree) == np.shape(mask)
    if jax.tree_util.all_leaves([tree]) or _tree.is_absent(tree):
        return False
    try:
        descend(lambda _, part: ends.append(part), mask, tree)
    except ValueError:
        return False
    return all(_tree.is_absent(end) or jax.tree_util.all_leaves([end]) for end in ends)


def is_moment(shape: tuple[int, ...], leaf: Any) -> bool:
    """Whether a leaf in a copy, beside a weight of that shape, is one that `zero_pruned` clears."""
    return np.shape(leaf) == shape and jnp.result_type(leaf) != jnp.bool_


def _zero_leaf(m: Any, leaf: Any) -> Any:
    return _eager.Row(m, leaf) if is_moment(np.shape(m), leaf) else leaf
