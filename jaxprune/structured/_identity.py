"""What a function computes, in a few words that a file can hold: to know it again when it loads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxprune._jaxpr import aval, functions_in, opened
from jaxprune._tree import PyTree

_PLAIN = (bool, int, float, complex, str, type(None), np.integer, np.dtype)
_NAMES = ("name",)  # of compiled functions: they say nothing of what is computed
_CLOSE = 1e-4  # of captured arrays, which another device may have computed to other roundings
_SHOWN = 4


def identity(apply: Callable[..., Any], params: PyTree, inputs: Sequence[Any]) -> dict[str, Any]:
    """Describes the program of a function.

    Args:
      apply: the function.
      params: its parameters; only shapes and types count.
      inputs: its inputs; only shapes and types count.

    Returns:
      What JSON can hold: the release of JAX; shapes and types of inputs; how many operations there
      are of each kind; a digest of operations, shapes, numbers and how they hang together; of each
      captured array its shape, type and two sums.
    """
    abstract = jax.tree.map(_abstract, (params, *inputs))
    closed = jax.make_jaxpr(lambda *args: apply(*args))(*abstract)
    counts: Counter[str] = Counter()
    lines: list[str] = []
    _describe(closed.jaxpr, counts, lines)
    return {
        "jax": jax.__version__,
        "inputs": [[list(x.shape), str(x.dtype)] for x in jax.tree.leaves(abstract[1:])],
        "operations": dict(sorted(counts.items())),
        "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "captured": [_summary(x) for x in closed.consts],
    }


def inputs_as_saved(saved: dict[str, Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The inputs with the shapes that a saved program has.

    Raises:
      ValueError: if there are more or fewer arrays, or of other ranks or types.
    """
    leaves, treedef = jax.tree.flatten(jax.tree.map(_abstract, tuple(inputs)))
    ranks = [(len(shape), dtype) for shape, dtype in saved["inputs"]]
    ours = [(len(x.shape), str(x.dtype)) for x in leaves]
    if ranks != ours:
        raise ValueError(
            f"it was saved with inputs {_kinds(saved['inputs'])}, and loads with "
            f"{_kinds([[list(x.shape), str(x.dtype)] for x in leaves])}."
        )
    return treedef.unflatten(
        [
            jax.ShapeDtypeStruct(tuple(shape), x.dtype)
            for (shape, _), x in zip(saved["inputs"], leaves, strict=True)
        ]
    )


def difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs between two programs of the same inputs, in words; `None` if nothing does."""
    if saved["digest"] == now["digest"]:
        if len(saved["captured"]) != len(now["captured"]):
            return f"{len(saved['captured'])} captured arrays, now {len(now['captured'])}"
        for before, after in zip(saved["captured"], now["captured"], strict=True):
            if before[:2] != after[:2] or not np.allclose(
                before[2:], after[2:], rtol=0, atol=_CLOSE * max(abs(before[2]), 1e-30)
            ):
                return f"the values of a captured array, {before[1]}{before[0]}"
        return None
    before, after = saved["operations"], now["operations"]
    parts = [
        f"{before.get(name, 0)} {name}, now {after.get(name, 0)}"
        for name in sorted({*before, *after})
        if before.get(name, 0) != after.get(name, 0)
    ]
    if not parts:
        return "the same operations, with other shapes or numbers, or in another order"
    return ", ".join(parts[:_SHOWN]) + (", ..." if len(parts) > _SHOWN else "")


def _describe(jaxpr: Any, counts: Counter[str], lines: list[str]) -> None:
    """Adds a line for each operation: its kind, numbers, what it reads, what it makes."""
    numbers: dict[Any, int] = {}
    for var in (*jaxpr.constvars, *jaxpr.invars):
        numbers[var] = len(numbers)
    lines.append(f"takes {[_kind(v) for v in (*jaxpr.constvars, *jaxpr.invars)]}")
    for eqn in jaxpr.eqns:
        inner = [opened(function)[0] for function in functions_in(eqn.params)]
        if not inner:
            counts[eqn.primitive.name] += 1
        reads = [_read(v, numbers) for v in eqn.invars]
        plain = sorted((k, repr(_plain(v))) for k, v in eqn.params.items() if k not in _NAMES)
        makes = [_kind(v) for v in eqn.outvars]
        lines.append(f"{eqn.primitive.name} {plain} {reads} {makes}")
        for var in eqn.outvars:
            numbers[var] = len(numbers)
        for program in inner:
            _describe(program, counts, lines)
    lines.append(f"gives {[_read(v, numbers) for v in jaxpr.outvars]}")


def _plain(value: Any) -> Any:
    """Numbers, words and tuples of them: all else may print an address, or belong to a release."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), value.tolist())
    return None


def _read(var: Any, numbers: dict[Any, int]) -> str:
    if not isinstance(var, Literal):
        return str(numbers[var])
    # The `ndim` of a number of Python is 0, too.
    return f"={np.asarray(var.val).tolist()}" if np.ndim(var.val) == 0 else str(_summary(var.val))


def _kind(var: Any) -> str:
    kind = aval(var)
    return f"{getattr(kind, 'dtype', '')}{getattr(kind, 'shape', '')}"


def _summary(x: Any) -> list[Any]:
    """Shape, type, the sum of sizes, and a sum with other factors at each place."""
    kind = [list(np.shape(x)), str(getattr(x, "dtype", type(x).__name__))]
    if hasattr(x, "dtype") and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    values = np.asarray(x)
    values = np.real(values).astype(np.float64) + np.imag(values).astype(np.float64)
    values = np.nan_to_num(values.ravel(), posinf=1e9, neginf=-1e9)
    factors = np.cos(np.arange(values.size, dtype=np.float64))
    return [*kind, float(np.abs(values).sum()), float(values @ factors)]


def _kinds(inputs: Any) -> str:
    return ", ".join(f"{dtype}{shape}" for shape, dtype in inputs)


def _abstract(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        dtype = jax.dtypes.canonicalize_dtype(np.asarray(x).dtype)
    return jax.ShapeDtypeStruct(np.shape(x), dtype)
