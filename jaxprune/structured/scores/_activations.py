"""Scores by what kernels read: Minitron's activations, FLAP's fluctuations, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune import _tree
from jaxprune._jaxpr import CALLS, bind
from jaxprune._tree import PyTree
from jaxprune.structured._groups import ChannelGroups, check_params
from jaxprune.structured._masks import kept_of, kept_positions
from jaxprune.structured._named import layer_of, skipped_units
from jaxprune.structured.analysis._graph import build
from jaxprune.structured.analysis._trace import Trace
from jaxprune.structured.scores._members import normalized

Axis = tuple[str, int]


class Read(NamedTuple):
    """What a kernel reads along one of its axes, over all batches.

    Attributes:
      mean: of each feature over examples and positions, float64 ``[features]``.
      variance: likewise, of all values.
      activation: the root of the sum over examples of (mean over positions of the modulus) squared.
    """

    mean: np.ndarray
    variance: np.ndarray
    activation: np.ndarray


def reads(
    groups: ChannelGroups,
    apply: Callable[..., Any],
    params: PyTree,
    batches: Iterable[Any],
) -> dict[Axis, Read]:
    """Statistics of what kernels read in matrix products: forward passes alone.

    Of a product of data with a parameter, along the axis that is summed over; calls are looked
    into, loops and branches not. The first axis of the data that stays is that of examples, all
    others are positions. A kernel that is used twice counts both uses.

    Args:
      groups: from `channel_groups`.
      apply: the function that was grouped.
      params: the parameters.
      batches: inputs of ``apply``, tuples where it takes several; compiled once a shape.

    Returns:
      ``{(path of a kernel, its axis): statistics}``.

    Raises:
      ValueError: if ``batches`` is empty, or ``params`` are not those that were grouped.
    """
    check_params(groups, params)
    totals: dict[Axis, list[Any]] = {}
    known: dict[Any, Callable[..., Any]] = {}
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        leaves, treedef = jax.tree.flatten(inputs)
        kind = treedef, tuple((np.shape(x), str(jnp.result_type(x))) for x in leaves)
        if kind not in known:
            known[kind] = _recording(apply, params, inputs)
        for key, (number, total, square, modulus) in known[kind](params, inputs):
            new = [np.asarray(x, np.float64) for x in (total, square, modulus)]
            old = totals.setdefault(key, [0, 0.0, 0.0, 0.0])
            totals[key] = [old[0] + number, *(a + b for a, b in zip(old[1:], new, strict=True))]
    if not known:
        raise ValueError("`batches` is empty. Pass at least one batch.")
    return {
        key: Read(total / n, np.maximum(square / n - (total / n) ** 2, 0), np.sqrt(modulus))
        for key, (n, total, square, modulus) in totals.items()
    }


def activation(
    groups: ChannelGroups, read: Mapping[Axis, Read], *, skip: Sequence[str] = ()
) -> tuple[Any, ...]:
    r"""Scores every channel by how large it is where kernels read it (Minitron).

    $$\mathrm{score}_c = \sqrt{\sum_b \bigl(\operatorname{mean}_t |a_{b,t,c}|\bigr)^2}$$

    over examples b and positions t; of a head, of several features, their root of the sum of
    squares; of several readers the sum.

    Args:
      groups: from `channel_groups`.
      read: from `reads`.
      skip: paths, as in `ratios`, of layers without a reader (features in which queries and keys
        meet): infinite scores, `None` for a whole group.

    Returns:
      One array a group, float32 ``[size of the group]``.

    Raises:
      ValueError: if no product reads a channel.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return (x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, -1.0]]), "b": jnp.ones((2, 1))}
      >>> x = jnp.array([[1.0], [0.0]])
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> read = jp.structured.reads(groups, apply, params, [x])
      >>> [score.tolist() for score in jp.structured.activation(groups, read)]
      [[3.0, 1.0]]

    References:
      Muralidharan et al., Compact Language Models via Pruning and Knowledge Distillation, NeurIPS
      2024, section 2.2.
    """
    scores = _scored(groups, {key: r.activation**2 for key, r in read.items()}, skip, np.sqrt)
    return tuple(None if s is None else jax.device_put(s.astype(np.float32)) for s in scores)


def fluctuation(
    groups: ChannelGroups,
    params: PyTree,
    read: Mapping[Axis, Read],
    *,
    standardise: bool = True,
    skip: Sequence[str] = (),
) -> tuple[Any, ...]:
    r"""Scores every channel by how much of it a bias could not replace (FLAP).

    $$\mathrm{score}_j = \operatorname{Var}(x_j)\, \textstyle\sum_i w_{ji}^2$$

    where a kernel w reads feature j; the mean over the features of a unit (a head). What the mean
    of removed features contributes, `lost_output` gives back.

    Args:
      groups: from `channel_groups`.
      params: the parameters that were grouped.
      read: from `reads`.
      standardise: whether scores of a group get mean 0 and deviation 1, to compare (`globally`).
      skip: as for `activation`.

    Returns:
      One array a group, float32 ``[size of the group]``.

    Raises:
      ValueError: as `activation`.

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for LLMs, AAAI 2024, equations 3, 4.
    """
    check_params(groups, params)
    arrays = dict(_tree.named_leaves(params))
    weighed = {}
    for (path, axis), r in read.items():
        w = np.asarray(arrays[path], np.float64)
        others = tuple(a for a in range(w.ndim) if a != axis)
        weighed[path, axis] = r.variance * (w**2).sum(others)
    found: list[Any] = []
    out = skipped_units(groups, skip)
    for i, (units, s) in enumerate(zip(out, _scored(groups, weighed, skip, None), strict=True)):
        score = None if s is None else jnp.asarray(s.astype(np.float32))
        if score is not None and standardise:
            score = jnp.where(units, jnp.inf, normalized(score, "standardised", _parts(groups, i)))
        found.append(score)
    return tuple(found)


def _parts(groups: ChannelGroups, i: int) -> list[np.ndarray]:
    return [part.units for part in groups.parts if part.group == i]


def lost_output(
    groups: ChannelGroups, params: PyTree, masks: PyTree, read: Mapping[Axis, Read]
) -> dict[str, np.ndarray]:
    """What removed channels contributed on average to each product that read them.

    Added to the bias behind the kernel it keeps the mean of the outputs (FLAP's compensation): a
    model without biases needs one, and the small one takes it where its outputs stay.

    Args:
      groups: from `channel_groups`.
      params: the parameters before the prune.
      masks: from `jaxprune.structured.masks`.
      read: from `reads`, of the parameters before the prune.

    Returns:
      ``{path of a kernel: the mean output that is lost}``, of the kernel's shape without the axis
      that it reads, for kernels that lose something.

    Raises:
      ValueError: if ``params`` or ``masks`` are of other parameters.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return (x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, -1.0]]), "b": jnp.array([[1.0], [2.0]])}
      >>> x = jnp.array([[1.0], [2.0]])
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> masks = jp.structured.masks(groups, [jnp.array([True, False])])
      >>> read = jp.structured.reads(groups, apply, params, [x])
      >>> jp.structured.lost_output(groups, params, masks, read)["b"].tolist()
      [-3.0]

    References:
      An et al., Fluctuation-based Adaptive Structured Pruning for LLMs, AAAI 2024, equation 6.
    """
    check_params(groups, params)
    arrays = dict(_tree.named_leaves(params))
    stays = kept_positions(groups, kept_of(groups, masks))
    lost = {}
    for (path, axis), r in read.items():
        alive = stays.get((path, axis))
        if alive is not None and not alive.all():
            w = np.asarray(arrays[path], np.float64)
            lost[path] = np.tensordot(r.mean * ~alive, w, axes=(0, axis))
    return lost


def _scored(
    groups: ChannelGroups, numbers: Mapping[Axis, np.ndarray], skip: Sequence[str], root: Any
) -> list[np.ndarray | None]:
    """Numbers of features as numbers of units; sums under a root, or means without one."""
    scores: list[np.ndarray | None] = []
    for i, (group, out) in enumerate(zip(groups, skipped_units(groups, skip), strict=True)):
        if out.all():
            scores.append(None)
            continue
        total, seen = np.zeros(group.size), np.zeros(group.size, bool)
        for member in group.role("in"):
            values = numbers.get((member.path, member.axis))
            if values is None:
                continue
            inside = member.owners >= 0
            units = member.owners[inside]
            number = np.bincount(units, minlength=group.size)
            there = np.bincount(units, values[inside], minlength=group.size)
            total += root(there) if root is not None else there / np.maximum(number, 1)
            seen |= number > 0
        if not (seen | out).all():
            unit = int(np.flatnonzero(~seen & ~out)[0])
            raise ValueError(
                f"no product with a kernel reads channel {unit} of {group.name!r}. Leave the layer "
                f"out: skip=[{layer_of(groups, i, unit)!r}]."
            )
        scores.append(np.where(out, np.inf, total))
    return scores


def _recording(
    apply: Callable[..., Any], params: PyTree, inputs: Sequence[Any]
) -> Callable[[PyTree, Any], list[tuple[Axis, Any]]]:
    """A compiled forward pass that returns the sums of what kernels read."""
    graph = build(apply, params, inputs)
    shapes = [(path, value.shape) for path, value in graph.leaves.items()]
    keys: list[tuple[Axis, int]] = []

    def product(step: Any, operands: Sequence[Any], sums: list[Any]) -> None:
        contracted, _ = step.eqn.params["dimension_numbers"]
        for data, weight in ((0, 1), (1, 0)):
            source = step.operands[weight].source
            if step.operands[data].source is not None or source is None:
                continue
            for a, b in zip(contracted[data], contracted[weight], strict=True):
                for leaf, axis in source[b]:
                    path, shape = shapes[leaf]
                    x = operands[data]
                    if shape[axis] != x.shape[a] or x.ndim < 2:
                        continue
                    x = jnp.moveaxis(x.astype(_tree.wide_dtype(x.dtype)), a, -1)
                    rows = x.reshape(x.shape[0], -1, x.shape[-1])
                    modulus = jnp.mean(jnp.abs(rows), axis=1)
                    keys.append(((path, axis), rows.shape[0] * rows.shape[1]))
                    square = jnp.sum(jnp.square(rows), axis=(0, 1))
                    total = jnp.sum(rows, axis=(0, 1))
                    sums.append((total, square, jnp.sum(jnp.square(modulus), axis=0)))

    def run(trace: Trace, arrays: Sequence[Any], sums: list[Any]) -> list[Any]:
        env: dict[Any, Any] = dict(zip(trace.jaxpr.constvars, trace.consts, strict=True))
        env.update(zip(trace.jaxpr.invars, arrays, strict=True))

        def value(atom: Any) -> Any:
            if isinstance(atom, Literal):
                kind: Any = atom.aval
                return np.asarray(atom.val, kind.dtype)
            return env[atom]

        for step in trace.steps:
            operands = [value(atom) for atom in step.eqn.invars]
            if step.eqn.primitive.name in CALLS:
                results = run(step.inner[0], operands, sums)
            else:
                if step.eqn.primitive.name == "dot_general":
                    product(step, operands, sums)
                results = bind(step.eqn, operands)
            env.update(zip(step.eqn.outvars, results, strict=True))
        return [value(atom) for atom in trace.jaxpr.outvars]

    @jax.jit
    def all_sums(params: PyTree, inputs: Any) -> list[Any]:
        keys.clear()
        sums: list[Any] = []
        run(graph.trace, jax.tree.leaves((params, inputs)), sums)
        return sums

    def recorded(params: PyTree, inputs: Any) -> list[tuple[Axis, Any]]:
        sums = jax.device_get(all_sums(params, inputs))
        return [(key, (n, *found)) for (key, n), found in zip(keys, sums, strict=True)]

    return recorded
