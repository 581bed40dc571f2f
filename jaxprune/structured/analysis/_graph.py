"""From a function to the groups of its channels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, FixedAxis, Group, Member
from jaxprune.structured.analysis._control import CONTROL
from jaxprune.structured.analysis._hints import hints, meets, reaches
from jaxprune.structured.analysis._pure import check_same_program
from jaxprune.structured.analysis._trace import Trace, Walk
from jaxprune.structured.analysis._tracked import Tracked, fixed, fresh
from jaxprune.structured.analysis._units import Units

_MOST_TRIES = 3


@dataclass(frozen=True)
class Graph:
    """A function, followed.

    Attributes:
      trace: every value of it.
      units: what vanishes together.
      out_tree: the structure of its results.
      groups: the groups of channels.
      atoms: for each group the node of each of its units.
      leaves: what is known of each parameter, by path.
    """

    trace: Trace
    units: Units
    out_tree: Any
    groups: ChannelGroups
    atoms: Sequence[np.ndarray]
    leaves: dict[str, Tracked]


def channel_groups(apply: Callable[..., Any], params: PyTree, *inputs: Any) -> ChannelGroups:
    """Finds which channels of a network can be removed, and what each takes with it.

    ``apply(params, *inputs)`` is traced with abstract values, and every axis of every value is
    followed position by position through the jaxpr: products and convolutions (grouped ones, too),
    reshapes, concatenations, slices, pads, reductions, lookups, calls, custom derivatives, loops.
    No layer has to be known, and no name.

    Positions that must vanish together form a **unit**: the filter of a convolution, the bias, the
    scale and the statistics of the norm behind it, the weights of the next layer that read it. A
    unit can vanish if the network gives exactly the same without it as with all its parameters
    zero. Where that does not hold, or a primitive is not known, positions are *fixed*, and the
    result says why. Parameters that divide something (the eigenvalues of a state space, weights
    over their norm) need not be zero where others make the channel zero: they go with it, and masks
    leave them as they are, see `Member`.

    Statistics and other state belong in ``params``, beside the weights: a result of ``apply`` that
    has the path and shape of a leaf there (new running statistics) may change its size with it. All
    other results, and the inputs, keep theirs.

    Args:
      apply: a pure function of JAX operations. Bind static arguments first (`functools.partial`).
      params: any pytree of arrays or `jax.ShapeDtypeStruct`.
      *inputs: example inputs: pytrees of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The groups, and what is fixed. Printed, it is a report.

    Raises:
      ValueError: if ``apply`` has side effects, closes over a traced value, gives another program
        when it is traced again, or cannot be traced with these inputs; if ``params`` is a Flax NNX
        module with tied variables.
      TypeError: if a leaf of the parameters is no array.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def apply(params, x):
      ...     h = jax.nn.relu(x @ params["a"]["w"] + params["a"]["b"][None])
      ...     return h @ params["z"]["w"]
      >>> layer = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
      >>> params = {"a": layer, "z": {"w": jnp.ones((8, 2))}}
      >>> groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 4)))
      >>> print(groups)
      1 group, 8 channels
      a/w: 8 channels
        out   a/w axis 1, 8 positions
        along a/b axis 0, 8 positions
        in    z/w axis 0, 8 positions
      fixed:
        a/w axis 0, 4 positions: it meets axis 1 of input 0, in dot_general
        z/w axis 1, 2 positions: it reaches axis 1 of the result

    References:
      Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, for the notion of groups;
      there, dependencies come from layers that are known.
    """
    graph = build(apply, params, inputs)
    check_same_program(graph.trace.jaxpr, graph.trace.consts, _traced(apply, params, inputs)[0])
    return graph.groups


def build(apply: Callable[..., Any], params: PyTree, inputs: Sequence[Any]) -> Graph:
    """Traces and follows a function; see `channel_groups`."""
    _tree.check_untied(params)
    closed, out_shape = _traced(apply, params, inputs)
    named = _tree.named_leaves(params)
    _tree.check_unique([path for path, _ in named])  # groups name parameters by their paths
    best = graph = _followed(closed, out_shape, params, inputs, frozenset())
    spared: frozenset[tuple[int, int]] = frozenset()
    for _ in range(_MOST_TRIES):
        # What is divided by zero may vanish yet, with its parameters as they are, where others
        # make it zero.
        if graph.units.singular <= spared:
            break
        spared |= graph.units.singular
        graph = _followed(closed, out_shape, params, inputs, spared)
        if _n_fixed(graph) < _n_fixed(best):
            best = graph
    return best


def _n_fixed(graph: Graph) -> int:
    return sum(entry.positions for entry in graph.groups.fixed)


def _followed(
    closed: Any,
    out_shape: Any,
    params: PyTree,
    inputs: Sequence[Any],
    spared: frozenset[tuple[int, int]],
) -> Graph:
    """Follows a traced function; zeros along the spared (leaf, axis) are not relied on."""
    units = Units()
    walk = Walk(units, CONTROL)
    named = _tree.named_leaves(params)
    leaves = {path: _leaf(units, i, leaf, spared) for i, (path, leaf) in enumerate(named)}
    data = _tree.named_leaves(tuple(inputs))
    entering = [_input(units, path, leaf) for path, leaf in data]
    trace = walk.run(closed, [*leaves.values(), *entering])
    units.now(None)
    outputs = [(*pair, x) for pair, x in
               zip(_tree.named_leaves(out_shape), trace.results, strict=True)]  # fmt: skip
    advice = hints(units, data, outputs)
    replaced, places = [], _places(named)
    for path, leaf, value in outputs:
        state = _state_of(path, leaf, places)
        if state is not None:
            replaced.append((path, state))
        for axis, nodes in enumerate(value.nodes):
            if state is not None:
                units.join_all(nodes, leaves[state].nodes[axis])
                continue
            units.use(nodes)
            units.fix_all(nodes, reaches(axis, path))
    axes = [nodes for value in leaves.values() for nodes in value.nodes]
    nodes = np.concatenate([np.zeros(0, np.int64), *axes])
    units.fix_all(nodes[units.unused(nodes)], "no result depends on it")
    treedef = jax.tree.structure(params)
    _fix_unzeroed(units, leaves, spared)
    found, atoms = _grouped(units, leaves, walk.roles.found(), spared)
    entries = tuple(_fixed(units, leaves, advice))
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in named}
    groups = ChannelGroups(tuple(found), entries, tuple(replaced), shapes, treedef)
    return Graph(trace, units, jax.tree.structure(out_shape), groups, atoms, leaves)


def struct(x: Any) -> Any:
    """The abstract value of an array; others stay."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


def _traced(apply: Callable[..., Any], params: PyTree, inputs: Sequence[Any]) -> tuple[Any, Any]:
    _check_arrays(params, inputs)
    abstract = jax.tree.map(struct, (params, *inputs))
    # A function of our own, so that no earlier trace is reused.
    trace = jax.make_jaxpr(lambda *args: apply(*args), return_shape=True)
    try:
        closed, out_shape = trace(*abstract)
    except Exception as error:
        named = _tree.named_leaves(abstract[1:])
        shapes = [f"{path}: {leaf.shape}" for path, leaf in named]
        repair = "Check that it takes (params, *inputs), and their shapes."
        if isinstance(error, jax.errors.ConcretizationTypeError):
            repair = "Bind static arguments first (functools.partial)."
        raise ValueError(
            f"apply(params, *inputs) cannot be traced with inputs of shapes [{', '.join(shapes)}]. "
            f"{repair} {type(error).__name__}: {error}"
        ) from error
    if closed.effects:
        raise ValueError(
            f"apply has side effects ({', '.join(map(str, closed.effects))}); it must be a pure "
            "function of its arguments. Remove prints and callbacks."
        )
    for value in closed.consts:
        if _tree.is_traced(value):
            raise ValueError(
                "apply closes over a traced value; it must be a pure function of its arguments. "
                "Group and shrink outside of jit, grad and vmap, or pass the value in."
            )
    return closed, out_shape


def _check_arrays(params: PyTree, inputs: Sequence[Any]) -> None:
    for what, tree in (("parameter", params), ("input", tuple(inputs))):
        for path, leaf in _tree.named_leaves(tree):
            if what == "input" and isinstance(leaf, bool | int | float | complex):
                continue
            if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
                raise TypeError(
                    f"{what} {path!r} is a {type(leaf).__name__}, not an array. Bind what is "
                    "static (functools.partial), or split it off (equinox.partition, nnx.split)."
                )
            if not all(isinstance(n, int | np.integer) for n in leaf.shape):
                raise ValueError(
                    f"{what} {path!r} has the symbolic shape {leaf.shape}: which channels hang "
                    "together is found for one shape. Export once for each shape that is needed."
                )


def _leaf(units: Units, i: int, leaf: Any, spared: frozenset[tuple[int, int]]) -> Tracked:
    if not jax.numpy.issubdtype(leaf.dtype, np.generic):
        return fixed(units, np.shape(leaf), "it is an axis of random keys")
    axes = [fresh(units, n, zero=(i, a) not in spared) for a, n in enumerate(np.shape(leaf))]
    source = tuple(frozenset({(i, axis)}) for axis in range(len(axes)))
    return Tracked(tuple(n for n, _ in axes), tuple(z for _, z in axes), None, source)


def _input(units: Units, path: str, leaf: Any) -> Tracked:
    nodes = tuple(units.new_fixed(n, meets(axis, path)) for axis, n in enumerate(np.shape(leaf)))
    return Tracked(nodes, tuple(np.ones(len(axis), bool) for axis in nodes))


def _places(named: Sequence[tuple[str, Any]]) -> dict[tuple[str, ...], list[tuple[str, Any]]]:
    """The leaves of the parameters by the ends of their paths."""
    places: dict[tuple[str, ...], list[tuple[str, Any]]] = defaultdict(list)
    for name, leaf in named:
        # The third leaf of some list and the third result have nothing to do with each other.
        if not name.replace("/", "").isdigit():
            parts = _parts(name)
            for start in range(max(len(parts), 1)):
                places[parts[start:]].append((name, leaf))
    return places


def _state_of(
    path: str, leaf: Any, places: dict[tuple[str, ...], list[tuple[str, Any]]]
) -> str | None:
    """The leaf of the parameters that a result replaces: new running statistics."""
    parts = _parts(path)
    found = {name: x for name, x in places.get(parts, ()) if _parts(name) == parts}
    if len(parts) > 1:
        # Of a result's path the first part may be another, and of a parameter's missing, too.
        found |= {
            name: x
            for name, x in places.get(parts[1:], ())
            if len(parts) > 2 or _parts(name) == parts[1:]
        }
    if len(found) != 1:
        return None
    ((name, x),) = found.items()
    return name if (np.shape(x), x.dtype) == (leaf.shape, leaf.dtype) else None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def _fix_unzeroed(
    units: Units, leaves: dict[str, Tracked], spared: frozenset[tuple[int, int]]
) -> None:
    """Something must be zeroed of every unit: else no mask could say that it is gone."""
    zeroed, others = set(), []
    for i, value in enumerate(leaves.values()):
        for axis, nodes in enumerate(value.nodes):
            if (i, axis) in spared:
                others.append(nodes)
            elif spared:
                zeroed.update(atom for atoms in units.parts(nodes) for atom in atoms)
    for nodes in others:
        atoms = {atom for atoms in units.parts(nodes) for atom in atoms} - zeroed
        units.fix_all(np.array(sorted(atoms), np.int64), "it is not finite where it is masked")


def _grouped(
    units: Units,
    leaves: dict[str, Tracked],
    roles: dict[tuple[int, int], str],
    spared: frozenset[tuple[int, int]],
) -> tuple[list[Group], list[np.ndarray]]:
    """Units that share an axis, or the same part of one, are one group."""
    columns = []  # (path, axis, role, whether it is zeroed, atom of each position or -1)
    for i, (path, value) in enumerate(leaves.items()):
        for axis, nodes in enumerate(value.nodes):
            parts = units.parts(nodes)
            role = roles.get((i, axis), "along")
            for part in range(max(map(len, parts), default=0)):
                atoms = np.array([p[part] if part < len(p) else -1 for p in parts], np.int64)
                columns.append((path, axis, role, (i, axis) not in spared, atoms))
    parent: dict[int, int] = {}

    def root(atom: int) -> int:
        while parent.setdefault(atom, atom) != atom:
            atom = parent[atom]
        return atom

    for *_, atoms in columns:
        present = dict.fromkeys(atoms[atoms >= 0].tolist())
        first = next(iter(present))
        for atom in present:
            parent[root(atom)] = root(first)
    by_group: dict[int, list[Any]] = defaultdict(list)
    for column in columns:
        by_group[root(int(column[4].max()))].append(column)
    groups, all_atoms = [], []
    for members in by_group.values():
        made = sorted(members, key=lambda column: _rank(column[2], leaves[column[0]]))
        order = dict.fromkeys(a for *_, atoms in made for a in atoms.tolist() if a >= 0)
        number = {atom: k for k, atom in enumerate(order)} | {-1: -1}
        if len(order) == 1:
            (atom,) = order
            units.fix_all(np.array([atom]), "it is the only channel of its group")
            continue
        groups.append(
            Group(
                made[0][0],
                len(order),
                tuple(
                    Member(path, axis, role, np.array([number[a] for a in atoms.tolist()]), zeroed)
                    for path, axis, role, zeroed, atoms in made
                ),
            )
        )
        all_atoms.append(np.array(list(order), np.int64))
    return _with_names(groups), all_atoms


def _rank(role: str, value: Tracked) -> tuple[int, bool]:
    """Where a member stands in its group: what makes the channels first, kernels before scales."""
    vector = sum(n > 1 for n in value.shape) < 2
    return ("out", "along", "in").index(role), role == "out" and vector


def _with_names(groups: Sequence[Group]) -> list[Group]:
    """Where several have one name, it goes on with the axis, and then with a number."""
    times, seen, named = Counter(group.name for group in groups), Counter(), []
    for group in groups:
        name = group.name
        if times[name] > 1:
            name = f"{name}:{group.members[0].axis}"
            seen[name] += 1
            name += f"#{seen[name]}" if seen[name] > 1 else ""
        named.append(group._replace(name=name))
    return named


def _fixed(units: Units, leaves: dict[str, Tracked], advice: dict[str, str]) -> list[FixedAxis]:
    entries = []
    for path, value in leaves.items():
        for axis, nodes in enumerate(value.nodes):
            if len(nodes) == 1:
                continue
            stuck = units.is_fixed(nodes)
            for reason, n in Counter(units.reasons(nodes[stuck])).items():
                repair = advice.get(reason.text, "")
                entries.append(FixedAxis(path, axis, n, str(reason), reason.line, repair))
    return entries
