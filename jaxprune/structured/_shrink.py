"""Shrinking: a network without its masked channels, as a function of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.masks import apply_mask
from jaxprune.structured._cut import take, taken
from jaxprune.structured._masks import kept_of, kept_positions
from jaxprune.structured.analysis._graph import Graph, build, struct
from jaxprune.structured.analysis._rule import Kept
from jaxprune.structured.analysis._trace import evaluate

Stays = dict[tuple[str, int], np.ndarray]


def shrink(
    apply: Callable[..., Any], params: PyTree, masks: PyTree, *inputs: Any
) -> tuple[Callable[..., Any], PyTree]:
    """Removes masked channels for good: a smaller function with smaller parameters.

    Parameters are cut, and ``apply``'s jaxpr is evaluated anew with the shapes that are left:
    reshapes, broadcasts, grouped convolutions and captured constants shrink along. The results
    equal those of the masked network to rounding, in training and in inference, and so do the
    derivatives by what is left. Numbers that ``apply`` computed from its shapes stay what they
    were (a mean over 64 features of which 16 went still divides by 64), for that is what the masked
    network computes. Norms in two passes, maxima and softmax see removed channels that are not
    zero, but all hold one value (minus the mean; the score of zero): it is counted as often as in
    the masked network. Only where a removed zero ties with the largest entry may derivatives be
    split differently. All values are taken to be finite: where the masked network multiplies the
    zeros of a removed channel by infinity, it gets NaN, and the small one has no such channel.

    The small function can be compiled, differentiated, mapped, exported (`jax.export`) and trained
    like any other. It is traced anew from ``apply`` for every new shape of inputs, such as another
    batch size; symbolic shapes are not followed. Compile it (`jax.jit`): called as it is, it runs
    one operation at a time. It can be copied, and pickled if ``apply`` can be: what was found is
    left out, and found anew. `jaxprune.structured.save` writes a network to a file without pickle.

    Args:
      apply: a pure function of JAX operations.
      params: any pytree of arrays, state such as running statistics included; of
        `jax.ShapeDtypeStruct` to get shapes only.
      masks: a tree like ``params``, bool arrays or `None`, that keep or remove whole units; see
        `jaxprune.structured.masks`. Other zeros in them are applied and stay in the arrays.
      *inputs: example inputs: pytrees of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      ``(small_apply, small_params)`` with ``small_apply(small_params, *inputs)``.

    Raises:
      ValueError: if masks split a unit or leave nothing of a group, are of another tree, or
        ``apply`` has side effects or cannot be traced with these inputs.
      TypeError: if masks are not bool, or traced.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> x = jnp.ones((1, 1))
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> masks = jp.structured.masks(groups, [jnp.array([True, False, True])])
      >>> small_apply, small_params = jp.structured.shrink(apply, params, masks, x)
      >>> small_params["a"].shape, small_apply(small_params, jnp.ones((5, 1))).shape
      ((1, 2), (5, 1))
    """
    _tree.check_matches(masks, params)  # first: the arguments may have been swapped
    graph = build(apply, params, inputs)
    stays = kept_positions(graph.groups, kept_of(graph.groups, masks))
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
    return cut_out(graph, apply, params if abstract else apply_mask(params, masks), stays, inputs)


def cut_out(
    graph: Graph, apply: Callable[..., Any], masked: PyTree, stays: Stays, inputs: Any
) -> tuple[Callable[..., Any], PyTree]:
    """The small function and its parameters, of a function that was followed already."""
    small = taken(
        jax.tree_util.tree_map_with_path(
            lambda path, x: take(x, _tree.path_string(path), stays), masked
        )
    )
    function = SmallApply(apply, masked, stays)
    function.remember(inputs, small, graph)
    return function, small


class Origin(NamedTuple):
    """What a small function was made from.

    Attributes:
      apply: the function of the dense network.
      params: its parameters, abstract.
      inputs: inputs that the small function was followed with, abstract.
      alive: which positions are left of each axis that lost any, bool, by (path, axis).
    """

    apply: Callable[..., Any]
    params: PyTree
    inputs: tuple[Any, ...] | None
    alive: Stays


class SmallApply:
    """The small function. It keeps what it found for each shape of inputs."""

    def __init__(self, apply: Callable[..., Any], params: PyTree, stays: Stays) -> None:
        self._apply = apply
        self._stays = stays
        self._full = jax.tree.map(_bare, params)
        self._found: dict[Any, tuple[Graph, Kept]] = {}
        self._example: tuple[Any, ...] | None = None  # inputs that it was followed with, abstract

    def __getstate__(self) -> dict[str, Any]:
        # Programs of JAX do not pickle, and belong to the release of JAX that traced them.
        return {**self.__dict__, "_found": {}}

    def __call__(self, params: PyTree, *inputs: Any) -> Any:
        key = _key(params, inputs)
        if key not in self._found:
            self.check(params)
            full = jax.tree.map(
                lambda x, now: jax.ShapeDtypeStruct(x.shape, now.dtype), self._full, params
            )
            self.remember(inputs, params, build(self._apply, full, inputs))
        graph, kept = self._found[key]
        arrays = [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))]
        return graph.out_tree.unflatten(evaluate(graph.trace, kept, arrays))

    def remember(self, inputs: Any, small: PyTree, graph: Graph) -> None:
        atoms = []
        for group, nodes in zip(graph.groups, graph.atoms, strict=True):
            atoms += nodes[_gone(group.size, group.members, self._stays)].tolist()
        kept = Kept(graph.units.gone(atoms))
        for (path, leaf), value in zip(
            _tree.named_leaves(small), graph.leaves.values(), strict=True
        ):
            if kept.shape(value) != tuple(np.shape(leaf)):
                raise ValueError(
                    f"with inputs of shapes {[np.shape(x) for x in jax.tree.leaves(inputs)]} other "
                    f"channels hang together than with the example inputs: {path!r} would have to "
                    f"be of shape {kept.shape(value)}, and is {np.shape(leaf)}. Shrink with inputs "
                    "of these shapes."
                )
        self._found[_key(small, inputs)] = (graph, kept)
        if self._example is None:
            self._example = jax.tree.map(_bare, tuple(inputs))

    def origin(self) -> Origin:
        """The function that was shrunk first, and what all shrinking since has left of it."""
        if not isinstance(self._apply, SmallApply):
            alive = {key: np.asarray(left) for key, left in self._stays.items()}
            return Origin(self._apply, self._full, self._example, alive)
        first = self._apply.origin()
        alive = dict(first.alive)
        for key, left in self._stays.items():
            before = alive.get(key, np.ones(len(left), bool))
            after = np.zeros(len(before), bool)
            after[np.flatnonzero(before)[left]] = True
            alive[key] = after
        return Origin(first.apply, first.params, self._example, alive)

    def check(self, params: PyTree) -> None:
        """Raises unless these are parameters of this function, by tree and shapes."""
        if jax.tree.structure(params) != jax.tree.structure(self._full):
            ours, theirs = (
                [path for path, _ in _tree.named_leaves(tree)] for tree in (params, self._full)
            )
            differ = sorted({*ours} ^ {*theirs})
            where = f", which differs at {differ[0]!r}" if differ else ""
            raise ValueError(f"the parameters are of another tree{where}. Pass the small ones.")
        for (path, full), leaf in zip(
            _tree.named_leaves(self._full), jax.tree.leaves(params), strict=True
        ):
            wanted = np.shape(take(full, path, self._stays))
            if tuple(np.shape(leaf)) != tuple(wanted):
                raise ValueError(
                    f"{path!r} has shape {np.shape(leaf)}, but what is left of it has {wanted}. "
                    "Pass the small parameters."
                )


def _bare(x: Any) -> Any:
    """The abstract value of an array without its place, which no other process has."""
    kind = struct(x)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


def _key(params: PyTree, inputs: Any) -> Any:
    leaves, treedef = jax.tree.flatten((params, inputs))
    kinds = tuple(struct(x) for x in leaves)
    return treedef, tuple((x.shape, x.dtype, x.weak_type) for x in kinds)


def _gone(size: int, members: Any, stays: Stays) -> np.ndarray:
    """Which units of a group have positions, and have lost them all."""
    present, left = np.zeros(size, bool), np.zeros(size, bool)
    for member in members:
        alive = stays.get((member.path, member.axis))
        if alive is not None:
            present[member.owners[member.owners >= 0]] = True
            left[member.owners[(member.owners >= 0) & alive]] = True
    return present & ~left
