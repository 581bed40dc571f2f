"""The products with weights that can be pruned, and which entries of a leaf each uses."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import source_info_util

from jaxprune.layerwise.program._flatten import Program, Step

# Operations after which an array has the same numbers, in the same order or in another.
_SAME = frozenset({"convert_element_type", "copy", "copy_p", "sharding_constraint", "device_put"})


class Site(NamedTuple):
    """A product with a weight.

    Attributes:
      name: the path of the leaf; with ``[k]`` if several products use parts of it.
      leaf: its number.
      at: the number of the step.
      weight: which operand is the weight, 0 or 1.
      other: the value of the other operand.
      entries: which entries of the flattened leaf are the kernel's, ``[..., in, out]``. Leading
        axes are products that are made side by side: experts, heads, groups of a convolution.
    """

    name: str
    leaf: int
    at: int
    weight: int
    other: int
    entries: np.ndarray


def sites_of(program: Program, paths: Sequence[str]) -> list[Site]:
    """Finds the products that use watched leaves, in program order.

    Args:
      program: from `flatten`.
      paths: of all leaves.

    Returns:
      The sites.

    Raises:
      ValueError: if a watched leaf is used in another way, twice, or never. The message says how.
    """
    places = _Places(program)
    found: list[Site] = []
    problems: dict[int, str] = {}
    for at, step in enumerate(program.steps):
        if not any(program.has_data[v] for v in step.operands):
            continue
        for k, v in enumerate(step.operands):
            if program.has_data[v] or not program.roots[v]:
                continue
            site = _site(program, places, at, step, k)
            if site is None:
                for leaf in program.roots[v]:
                    problems.setdefault(leaf, _use(step))
            else:
                found.append(site)
    watched = sorted(frozenset().union(*(program.roots[v] for v in program.leaves)))
    used = collections.Counter(site.leaf for site in found)
    _check_twice(program, paths, found)
    if problems:
        leaf, use = min(problems.items())
        more = " as well" if used[leaf] else ""
        raise ValueError(
            f"{paths[leaf]!r} is used by {use}{more}, where its inputs cannot be followed. Leave "
            "it out: where=lambda path, leaf: jp.default_where(path, leaf) and path != "
            f"{paths[leaf]!r}."
        )
    if missing := [paths[leaf] for leaf in watched if not used[leaf]]:
        seen = sorted({step.eqn.primitive.name for step in program.steps if step.eqn is not None})
        what = "no product uses a prunable leaf" if not found else "no product uses"
        raise ValueError(
            f"{what}: {missing}. The function was seen to call {', '.join(seen)}. Pass one that "
            "computes with these parameters and the batch, or leave them out with where=."
        )
    numbers: collections.Counter[int] = collections.Counter()
    sites = []
    for site in found:
        name = paths[site.leaf]
        if used[site.leaf] > 1:
            name += f"[{numbers[site.leaf]}]"
            numbers[site.leaf] += 1
        sites.append(site._replace(name=name))
    return sites


def _use(step: Step) -> str:
    if step.eqn is None:
        return "a scan"
    name = step.eqn.primitive.name
    why = " (a loop whose rounds depend on data)" if name == "while" else ""
    return f"{name}{why} at {source_info_util.summarize(step.eqn.source_info)}"


def _check_twice(program: Program, paths: Sequence[str], found: Sequence[Site]) -> None:
    """Raises if two products use the same entry of a leaf."""
    by_leaf: dict[int, list[Site]] = {}
    for site in found:
        by_leaf.setdefault(site.leaf, []).append(site)
    for leaf, sites in by_leaf.items():
        if len(sites) == 1:
            continue
        times = np.zeros(math.prod(program.shapes[program.leaves[leaf]].shape), np.uint8)
        for site in sites:
            own = site.entries.reshape(-1)
            times[own] += 1
            if (times[own] > 1).any():
                raise ValueError(
                    f"{paths[leaf]!r} is used by {len(sites)} products, which have other inputs: "
                    "it is tied, or a loop uses it in every round. Leave it out with where=, or "
                    "prune it with jp.prune and scores."
                )


def _site(program: Program, places: _Places, at: int, step: Step, k: int) -> Site | None:
    """The site of a step whose operand k depends on a watched leaf, if it can be followed."""
    roots = program.roots[step.operands[k]]
    if step.eqn is None or step.eqn.primitive.name not in _LAYOUTS or len(roots) != 1 or k > 1:
        return None
    where = places.of(step.operands[k])
    layout = None if where is None else _LAYOUTS[step.eqn.primitive.name](step.eqn.params, k, where)
    if layout is None:
        return None
    (leaf,) = roots
    return Site("", leaf, at, k, step.operands[1 - k], layout)


def _of_dot(params: Any, k: int, where: np.ndarray) -> np.ndarray | None:
    contracted, batch = params["dimension_numbers"]
    inner, outer = contracted[k], batch[k]
    free = [axis for axis in range(where.ndim) if axis not in {*inner, *outer}]
    sizes = [where.shape[axis] for axis in outer]
    n = math.prod(where.shape[axis] for axis in inner)
    return where.transpose([*outer, *inner, *free]).reshape(*sizes, n, -1)


def _of_convolution(params: Any, k: int, where: np.ndarray) -> np.ndarray | None:
    if k == 0 or params["batch_group_count"] != 1:
        return None
    groups, spec = params["feature_group_count"], params["dimension_numbers"].rhs_spec
    out, into, *window = spec
    kernel = where.transpose([out, into, *window])
    kernel = kernel.reshape(groups, kernel.shape[0] // groups, -1).swapaxes(1, 2)
    return kernel[0] if groups == 1 else kernel


_LAYOUTS: dict[str, Callable[[Any, int, np.ndarray], np.ndarray | None]] = {
    "dot_general": _of_dot,
    "conv_general_dilated": _of_convolution,
}


class _Places:
    """For values that hold entries of one leaf: which ones."""

    def __init__(self, program: Program):
        self._program, self._known = program, dict[int, np.ndarray | None]()

    def of(self, value: int) -> np.ndarray | None:
        """The places in the flattened leaf, of the value's shape; `None` if it holds others."""
        if value not in self._known:
            self._known[value] = self._made(value)
        return self._known[value]

    def _made(self, value: int) -> np.ndarray | None:
        program = self._program
        if value not in program.maker:
            shape = program.shapes[value].shape
            dtype = np.int64 if math.prod(shape) > np.iinfo(np.int32).max else np.int32
            return np.arange(math.prod(shape), dtype=dtype).reshape(shape)
        step = program.steps[program.maker[value]]
        whole = self.of(step.operands[0]) if program.roots[step.operands[0]] else None
        if whole is None:
            return None
        if step.kind == "take":
            return whole[int(program.constants[step.operands[1]])]
        if step.eqn is None or len(step.results) != 1:
            return None
        return _moved(step.eqn, whole, program.shapes[value].shape)


def _moved(eqn: Any, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """What an operation that only moves entries makes of them."""
    name, params = eqn.primitive.name, eqn.params
    if name in _SAME:
        return x
    if name in ("squeeze", "expand_dims") or (name == "reshape" and params["dimensions"] is None):
        return x.reshape(shape)
    if name == "broadcast_in_dim" and x.size == math.prod(shape):
        return x.reshape(shape)  # axes of size one are added, in order
    if name == "transpose":
        return x.transpose(params["permutation"])
    if name == "rev":
        return np.flip(x, params["dimensions"])
    if name == "slice":
        strides = params["strides"] or (1,) * x.ndim
        ends = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        return x[tuple(slice(*end) for end in ends)]
    return None
