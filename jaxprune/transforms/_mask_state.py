"""The mask inside an optimizer state: how it is stored, read and replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager, _tree
from jaxprune._mask import check_bool, check_given
from jaxprune._tree import PyTree


class PruneMask(NamedTuple):
    """The node of an optimizer state that holds a mask.

    Attributes:
      tree: a tree like params: bool arrays (True = kept), `optax.MaskedNode` where a leaf is not
        prunable. `MaskedNode` rather than `None` is optax's own word for "no leaf here", so
        `optax.tree.map_params` with ``is_leaf=lambda x: isinstance(x, optax.MaskedNode)`` maps a
        state that holds a mask like any other.
    """

    tree: PyTree


def get_mask(opt_state: PyTree, *, copy: bool = True) -> PyTree:
    """Returns the mask that an optimizer state holds, wherever wrappers have nested it.

    Position: none; it reads the state of any optimizer with a jaxprune transform inside. Several
    partial masks, as under `optax.partition`, are merged leaf by leaf.

    Traced masks cannot be compared: where two states hold the same leaf inside `jit`, the result
    keeps what both keep.

    Args:
      opt_state: any optimizer state.
      copy: whether the arrays are copies, so that a later step may donate the state. Without, the
        mask may only be read before that step.

    Returns:
      The mask: bool arrays (True = kept), `None` where a leaf is not prunable.

    Raises:
      ValueError: if there is no mask in the state, or two masks differ at a leaf.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones((2,))}
      >>> mask = {"kernel": jnp.array([[True, False]]), "bias": None}
      >>> tx = optax.chain(optax.clip(1.0), transforms.fixed_mask(optax.adam(0.1), mask))
      >>> transforms.get_mask(tx.init(params))
      {'bias': None, 'kernel': Array([[ True, False]], dtype=bool)}
    """
    merged = None
    for node in nodes(opt_state):
        merged = _merge(merged, node.tree)
    held = jax.tree.map(
        lambda m: None if _tree.is_absent(m) else m, merged, is_leaf=_tree.is_absent
    )
    return _eager.copied(held) if copy else held


def set_mask(opt_state: PyTree, mask: PyTree) -> PyTree:
    """Returns the optimizer state with its mask replaced; nothing else changes.

    Position: none; it writes the state of any optimizer with a jaxprune transform inside. Each
    `PruneMask` takes the leaves that it holds already. With `fixed_mask`, the next update brings
    newly pruned weights to exactly zero and clears their moments; re-admitted weights start from
    zero with cleared moments. The state keeps its structure, so a compiled step is not compiled
    again.

    Args:
      opt_state: any optimizer state.
      mask: a tree like params: bool arrays (True = kept), `None` where a leaf is not prunable.

    Returns:
      The new state, holding copies of the mask's arrays.

    Raises:
      ValueError: if there is no mask in the state, or the new one has another structure, other
        shapes or other prunable leaves.
      TypeError: if a leaf of the mask is not bool.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = jnp.ones((1, 2))
      >>> tx = transforms.fixed_mask(optax.adam(0.1), jnp.array([[True, False]]))
      >>> state = transforms.set_mask(tx.init(params), jnp.array([[False, False]]))
      >>> transforms.get_mask(state)
      Array([[False, False]], dtype=bool)
    """
    held: set[str] = set()
    for node in nodes(opt_state):
        held.update(path for path, _ in _tree.named_leaves(node.tree))
    given = {path for path, _ in _tree.named_leaves(mask)}
    new = [store(mask, node.tree) for node in nodes(opt_state)]
    for path in sorted(held ^ given):
        has, lacks = ("state", "new mask") if path in held else ("new mask", "state")
        raise ValueError(
            f"the {has} holds a mask at {path!r}, the {lacks} does not. Give the mask the same "
            "prunable leaves as the one in the state (see get_mask); a leaf that is True "
            "everywhere prunes nothing."
        )
    replacements = iter(new)
    return jax.tree.map(
        lambda x: next(replacements) if isinstance(x, PruneMask) else x, opt_state, is_leaf=_is_node
    )


def store(mask: PyTree, like: PyTree) -> PruneMask:
    """Copies a mask into a state node, restricted to the leaves that ``like`` has.

    Where ``like`` holds a `MaskedNode`, also in place of a whole subtree as `optax.partition`
    leaves it, the mask is dropped leaf by leaf, so that `get_mask` can put the parts together.

    Args:
      mask: a tree like params, `None` where a leaf is not prunable.
      like: the parameters, or another stored mask.

    Returns:
      The node. For the placeholder with which `optax.tree.map_params` calls ``init`` (a tree
      without leaves) it holds that placeholder, which makes the mask count as parameter-like.

    Raises:
      ValueError: if structure or shapes differ.
      TypeError: if a leaf of the mask is not bool.
    """
    if is_placeholder(like):
        return PruneMask(like)
    leaves, treedef = jax.tree.flatten(like, is_leaf=_tree.is_absent)
    aligned = jax.tree.leaves(align(mask, like), is_leaf=_tree.is_absent)

    def copy(piece: Any, m: Any, leaf: Any) -> Any:
        if _tree.is_absent(leaf):  # `piece` may be a subtree here
            return jax.tree.map(lambda _: optax.MaskedNode(), piece, is_leaf=_tree.is_absent)
        return optax.MaskedNode() if m is None else _placed(_eager.copied(m), leaf)

    pieces = _pieces(mask, like)
    return PruneMask(treedef.unflatten(map(copy, pieces, aligned, leaves)))


def check_rule(mask: Any) -> None:
    """Raises for what is neither a mask nor a function that makes one.

    Raises:
      ValueError: if it has no leaf.
      TypeError: naming the first leaf that is not boolean.
    """
    if not _is_rule(mask):
        check_given(mask)


def given(mask: Any, params: PyTree) -> PyTree:
    """The mask that a user passed, or what the function that was passed makes of the parameters."""
    if not _is_rule(mask) or is_placeholder(params):
        return mask
    made = mask(params)
    check_given(made)
    return made


def _is_rule(mask: Any) -> bool:
    # A function is a leaf to JAX. A tree that can be called, as a model of Equinox, is none.
    return callable(mask) and jax.tree_util.all_leaves([mask])


def replace(node: PruneMask, mask: PyTree) -> PruneMask:
    """The node with the leaves of another mask of the same parameters, in the same structure."""
    return PruneMask(jax.tree.unflatten(jax.tree.structure(node.tree), jax.tree.leaves(mask)))


def align(mask: PyTree, like: PyTree) -> PyTree:
    """Returns the mask in the structure of ``like``, `None` where either has no leaf.

    Raises:
      ValueError: if structure or shapes differ.
      TypeError: if a leaf of the mask is not bool.
    """
    _tree.check_untied(like)
    leaves, treedef = jax.tree.flatten(like, is_leaf=_tree.is_absent)
    absent = _tree.is_absent
    pieces = [
        None if absent(leaf) or absent(m) else m
        for m, leaf in zip(_pieces(mask, like), leaves, strict=True)
    ]
    aligned = treedef.unflatten(pieces)
    if not _tree.fit(pieces, leaves):
        _tree.check_matches(aligned, like)
    check_bool(aligned)
    return aligned


def is_placeholder(params: PyTree) -> bool:
    """Whether ``params`` has no leaf at all, present or absent."""
    return not jax.tree.leaves(params, is_leaf=_tree.is_absent)


def descend(f: Callable[[Any, Any], Any], a: PyTree, b: PyTree) -> PyTree:
    """Maps ``f`` over two trees side by side, down to where the first of them ends.

    Unlike in `jax.tree.map`, either tree may be the shallower one, and which it is may change
    from branch to branch: a mask is deeper than the state of a partitioned optimizer here, the
    accumulators of one weight are deeper than its mask there.

    Raises:
      ValueError: if containers differ.
    """
    if _is_end(a) or _is_end(b):
        return f(a, b)
    xs, treedef = jax.tree.flatten(a, is_leaf=lambda x: x is not a)
    ys, other = jax.tree.flatten(b, is_leaf=lambda y: y is not b)
    if treedef != other:
        raise ValueError(f"containers differ: {treedef} and {other}")
    return treedef.unflatten([descend(f, x, y) for x, y in zip(xs, ys, strict=True)])


def _is_end(x: Any) -> bool:
    return _tree.is_absent(x) or jax.tree_util.all_leaves([x])


def _is_node(x: Any) -> bool:
    return isinstance(x, PruneMask)


def has_mask(opt_state: PyTree) -> bool:
    """Whether an optimizer state holds a mask, wherever wrappers have nested it.

    Position: none; it reads the state of any optimizer.

    Args:
      opt_state: any optimizer state, or its shapes.

    Returns:
      Whether `get_mask` finds one.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> transforms.has_mask(optax.adam(0.1).init(jnp.ones((2, 2))))
      False
    """
    return any(_is_node(x) for x in jax.tree.leaves(opt_state, is_leaf=_is_node))


def nodes(opt_state: PyTree) -> list[PruneMask]:
    """Every mask of an optimizer state; raises a ValueError if there is none."""
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_node) if _is_node(x)]
    if not found:
        raise ValueError(
            f"there is no mask in this optimizer state ({type(opt_state).__name__}). Wrap the "
            "optimizer: jaxprune.transforms.fixed_mask(optimizer, mask), and pass its state."
        )
    return found


def _placed(m: jax.Array, leaf: Any) -> jax.Array:
    """The mask where its weight lies, so that no step is compiled for two places."""
    if not isinstance(leaf, jax.Array):
        return m
    if _tree.is_traced(m, leaf):
        sharding = jax.typeof(leaf).sharding
        explicit = sharding.mesh.are_all_axes_explicit  # other axes are the compiler's to place
        return jax.sharding.reshard(m, sharding) if explicit else m
    if not leaf.committed or m.sharding == leaf.sharding:
        return m
    return jax.device_put(m, leaf.sharding)


def _pieces(mask: PyTree, like: PyTree) -> list[Any]:
    """The parts of ``mask`` that sit at the leaves of ``like``."""
    treedef = jax.tree.structure(like, is_leaf=_tree.is_absent)
    for whole in (lambda: mask, lambda: _tree.expanded(mask, like)):
        with contextlib.suppress(ValueError, TypeError):
            return treedef.flatten_up_to(whole())
    # Equal paths in other containers (a dict read from a file beside a FrozenDict) are fine.
    _tree.check_matches(mask, like)
    return jax.tree.leaves(mask, is_leaf=_tree.is_absent)


def _merge(a: PyTree, b: PyTree) -> PyTree:
    def join(x: Any, y: Any) -> Any:
        if _tree.is_absent(x) or _tree.is_absent(y):
            return y if _tree.is_absent(x) else x
        if x is y:
            return x
        if np.shape(x) == np.shape(y):
            if _tree.is_traced(x, y):
                return jnp.logical_and(x, y)
            if np.array_equal(x, y):
                return x
        raise ValueError(
            f"the state holds two different masks for one leaf of shape {np.shape(x)}. Bring them "
            "together with set_mask(opt_state, mask), or ask each part of the state for its own."
        )

    return descend(join, a, b)
