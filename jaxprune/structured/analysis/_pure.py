"""Whether a function is pure: traced again, it gives the same program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxprune._jaxpr import aval, functions_in, opened


def check_same_program(first: Any, consts: Sequence[Any], second: Any) -> None:
    """Raises if two traces of a function differ in operations, shapes, numbers or constants.

    Args:
      first: the jaxpr of the first trace, without its constants.
      consts: these.
      second: the closed jaxpr of the second trace.

    Raises:
      ValueError: saying what differs first.
    """
    found = _difference(first, second.jaxpr)
    if found is None and len(consts) != len(second.consts):
        found = f"{len(consts)} captured constants and then {len(second.consts)}"
    if found is None:
        for a, b in zip(consts, second.consts, strict=True):
            if a is not b and not _equal(a, b):
                found = f"a captured array of shape {np.shape(a)}"
                break
    if found is not None:
        raise ValueError(
            f"apply is not a pure function of its arguments: traced twice, it differs in {found}. "
            "Take counters, NumPy's random numbers and other state out of it, or pass them in."
        )


def _difference(a: Any, b: Any) -> str | None:
    if a is b:
        return None
    if len(a.eqns) != len(b.eqns):
        return f"the number of operations ({len(a.eqns)}, then {len(b.eqns)})"
    for ours, theirs in zip(a.eqns, b.eqns, strict=True):
        name = ours.primitive.name
        if ours.primitive is not theirs.primitive:
            return f"an operation ({name}, then {theirs.primitive.name})"
        if [aval(v).shape for v in ours.outvars] != [aval(v).shape for v in theirs.outvars]:
            return f"the shape of a result of {name}"
        for x, y in zip(ours.invars, theirs.invars, strict=True):
            if isinstance(x, Literal) and isinstance(y, Literal) and not _equal(x.val, y.val):
                return f"a number in {name} ({x.val}, then {y.val})"
        for key, value in ours.params.items():
            if isinstance(value, int | float | str) and value != theirs.params[key]:
                return f"{key} of {name} ({value}, then {theirs.params[key]})"
        for x, y in zip(_inner(ours), _inner(theirs), strict=True):
            if found := _difference(x, y):
                return found
    return None


def _inner(eqn: Any) -> list[Any]:
    """The jaxprs that an equation holds."""
    return [opened(function)[0] for function in functions_in(eqn.params)]


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if np.shape(a) != np.shape(b):
        return False
    if hasattr(a, "dtype") and jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return bool(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
    )
