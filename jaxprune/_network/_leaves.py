"""What a file says of the leaves of a network: where each is, its type, shape, tensor and mask."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _safetensors, _tree
from jaxprune._tree import PyTree

DTYPES = {
    np.dtype(x).name: np.dtype(x)
    for x in (
        *(bool, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128", jnp.bfloat16),
        *(jnp.float8_e3m4, jnp.float8_e4m3, jnp.float8_e4m3b11fnuz, jnp.float8_e4m3fn),
        *(jnp.float8_e4m3fnuz, jnp.float8_e5m2, jnp.float8_e5m2fnuz, jnp.float8_e8m0fnu),
        *(jnp.float4_e2m1fn, jnp.int2, jnp.int4, jnp.uint2, jnp.uint4),
    )
}
NUMBERS = {"bool": bool, "int64": int, "float64": float, "complex128": complex}  # of Python
_DEEPEST = 200  # of containers in containers: a reader's stack ends somewhere
_SHOWN = 3


class Leaf(NamedTuple):
    """What the metadata say of a leaf.

    Attributes:
      path: its keys: words of dicts, numbers of sequences, ``{"key": number}`` of dicts,
        ``{"attribute": word}`` of objects.
      tensor: the name of its tensor; `None` where the tree holds `None` or an empty container.
      dtype: the name of its type, as NumPy and ml_dtypes have it.
      shape: its shape.
      mask: the name of the tensor of its packed mask; `None` where it is not prunable.
      number: whether it is a number of Python.
      full: its shape before channels were cut out of it; `None` where none were.
      kept: the name of the tensor that says which positions are left on each of its axes, one bit
        each, the bits of all axes one after the other.
    """

    path: tuple[Any, ...]
    tensor: str | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    mask: str | None = None
    number: bool = False
    full: tuple[int, ...] | None = None
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the metadata hold it."""
        said = self._asdict()
        return said if self.kept is not None else {k: said[k] for k in list(said)[:-2]}

    @property
    def keys(self) -> tuple[str, ...]:
        """Where it is, whatever the containers are: what trees are compared by."""
        return tuple(str(_bare(part)) for part in self.path)

    @property
    def name(self) -> str:
        """The readable path."""
        return "/".join(self.keys)


class Cut(NamedTuple):
    """What a leaf was before channels were removed.

    Attributes:
      shape: its shape.
      alive: for each axis which of its positions are left, bool ``[size]``.
    """

    shape: tuple[int, ...]
    alive: tuple[np.ndarray, ...]


def path_of(keys: Iterable[Any]) -> tuple[Any, ...]:
    """A key path of JAX, as JSON can hold it."""
    return tuple(map(_part, keys))


def keys_of(keys: Iterable[Any]) -> tuple[str, ...]:
    """A key path of JAX as words, whatever the containers are."""
    return Leaf(path_of(keys)).keys


def _part(key: Any) -> Any:
    if isinstance(key, jax.tree_util.SequenceKey):
        return key.idx
    if isinstance(key, jax.tree_util.GetAttrKey):
        return {"attribute": key.name}
    held = getattr(key, "key", key)  # of a dict, or of a class that numbers its children
    is_number = isinstance(held, int) and not isinstance(held, bool)
    return {"key": held} if is_number else str(held)


def _bare(part: Any) -> Any:
    return next(iter(part.values())) if isinstance(part, dict) else part


def check_paths(leaves: Iterable[Leaf]) -> None:
    """Raises unless each leaf can be told from the others, and found again.

    Raises:
      ValueError: naming the first one that cannot.
    """
    seen: set[tuple[str, ...]] = set()
    for leaf in leaves:
        if len(leaf.path) > _DEEPEST:
            raise ValueError(
                f"{leaf.name[:80]!r}... lies in {len(leaf.path)} containers, but a file holds at "
                f"most {_DEEPEST}. Save a flatter tree."
            )
        if leaf.keys in seen:
            raise ValueError(
                f"two leaves of the tree have the same keys, written as words, at {leaf.name!r}, "
                "so they could not be told apart. Rename one."
            )
        seen.add(leaf.keys)


def described(file: _safetensors.File) -> list[Leaf]:
    """What the file says of its leaves, checked against what it holds.

    Raises:
      ValueError: if it does not fit.
    """
    problem: str | None
    leaves: list[Leaf] = []
    try:
        for said in json.loads(file.metadata["leaves"]):
            lists = ("path", "shape", "full")
            lists = {k: tuple(said[k]) for k in lists if said.get(k) is not None}
            leaves.append(Leaf(**{**said, **lists}))
        problem = _problem(leaves, file)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        problem = "its list of leaves cannot be read"
    if problem is not None:
        file.refuse(problem)
    return leaves


def _problem(leaves: list[Leaf], file: _safetensors.File) -> str | None:
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for leaf in leaves:
        if not all(map(_is_part, leaf.path)):
            return f"{leaf.path!r:.80} is no path"
        sizes = leaf.shape
        if not _safetensors.is_shape(sizes):
            return f"{leaf.name!r} has no shape"
        if leaf.number and (sizes or leaf.dtype not in NUMBERS):
            return f"{leaf.name!r} is no number of Python"
        own: dict[str, tuple[str, tuple[int, ...]]] = {}
        if leaf.tensor is not None:
            own[leaf.tensor] = _safetensors.stored_as(DTYPES[leaf.dtype], sizes)
        if leaf.mask is not None:
            own[leaf.mask] = ("U8", (-(-math.prod(sizes) // 8),))
        if (leaf.full is None) != (leaf.kept is None) or not _is_cut(leaf):
            return f"{leaf.name!r} has another rank than before its channels were removed"
        if leaf.kept is not None:
            own[leaf.kept] = ("U8", (-(-sum(leaf.full or ()) // 8),))
        if len(own) < sum(name is not None for name in (leaf.tensor, leaf.mask, leaf.kept)):
            return f"{leaf.name!r} is its own mask"
        if own.keys() & expected.keys():
            return f"{leaf.name!r} is another leaf, too"
        if leaf.tensor is None and own:
            return f"{leaf.name!r} has a mask and no weights"
        expected |= own
    check_paths(leaves)
    inside = {leaf.keys[:i] for leaf in leaves for i in range(len(leaf.path))}
    if not leaves or any(leaf.keys in inside for leaf in leaves):
        return "its leaves are no tree"
    held = {name: (header.code, header.shape) for name, header in file.headers.items()}
    if expected != held:
        name = min(n for n in {*expected, *held} if expected.get(n) != held.get(n))
        return f"its tensor {name!r} is {held.get(name)}, but should be {expected.get(name)}"
    return None


def _is_cut(leaf: Leaf) -> bool:
    """Whether the shape may be what is left of the full one."""
    if leaf.full is None:
        return True
    if not _safetensors.is_shape(leaf.full) or len(leaf.full) != len(leaf.shape):
        return False
    return all(now <= before for now, before in zip(leaf.shape, leaf.full, strict=True))


def _is_part(part: Any) -> bool:
    if isinstance(part, dict):
        ((kind, key),) = part.items()
        return type(key) is {"attribute": str, "key": int}[kind]
    return isinstance(part, str) or (type(part) is int and part >= 0)


def fits(leaves: list[Leaf], like: PyTree) -> bool:
    """Whether the leaves of a file are those of a tree: their paths, shapes and types."""
    return _described(leaves) == _described_tree(like)


def check_like(leaves: list[Leaf], like: PyTree) -> None:
    """Raises if the leaves of a file are not those of a tree.

    Raises:
      ValueError: listing the first differences.
    """
    ours, theirs = _described(leaves), _described_tree(like)
    different = [k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k)]
    if different:
        listed = "; ".join(
            f"{'/'.join(k)!r} is {ours.get(k, 'absent')} in the file, "
            f"{theirs.get(k, 'absent')} in `like`"
            for k in different[:_SHOWN]
        )
        more = len(different) - _SHOWN
        raise ValueError(
            f"the file holds another network than `like`: {listed}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Pass as `like` parameters of the network that was saved."
        )


def _described(leaves: list[Leaf]) -> dict[tuple[str, ...], str]:
    return {
        leaf.keys: NUMBERS[leaf.dtype].__name__
        if leaf.number
        else f"{leaf.dtype}{list(leaf.shape)}"
        for leaf in leaves
        if leaf.tensor is not None
    }


def _described_tree(like: PyTree) -> dict[tuple[str, ...], str]:
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(like, is_leaf=_tree.is_absent):
        if not _tree.is_absent(leaf):
            is_array = hasattr(leaf, "dtype")
            shown = type(leaf).__name__
            if is_array:  # by its name: the byte order of an array of NumPy does not matter
                shown = f"{getattr(leaf.dtype, 'name', leaf.dtype)}{list(np.shape(leaf))}"
            found[Leaf(path_of(keys)).keys] = shown
    return found


def nested(leaves: list[tuple[tuple[Any, ...], Any]]) -> PyTree:
    """A tree of dicts and lists from its leaves by path."""
    if not leaves[0][0]:
        return leaves[0][1]
    children: dict[Any, list[tuple[tuple[Any, ...], Any]]] = {}
    kinds = set()
    for path, value in leaves:
        children.setdefault(_bare(path[0]), []).append((path[1:], value))
        kinds.add(type(path[0]))
    built = {key: nested(below) for key, below in children.items()}
    # A hole is where a container of another library was empty.
    is_list = kinds == {int} and sorted(built) == list(range(len(built)))
    return [built[i] for i in range(len(built))] if is_list else built
