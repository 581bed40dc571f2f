"""How often a `while` runs its body, where its program says so: a counter with known bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import JaxprEqn, Literal

from jaxprune._jaxpr._walk import aval, opened

_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "ne": "ne"}
_ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def rounds(eqn: JaxprEqn, operands: Sequence[Any]) -> int | None:
    """The number of rounds of a `while` from the arrays that it is given; `None` if not known.

    It is known where the condition compares a carried integer with a number, both known at the
    start, and the body adds a known number to the one and leaves the other.
    """
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, test_consts = opened(eqn.params["cond_jaxpr"])
    body, _ = opened(eqn.params["body_jaxpr"])
    start = [_integer(x) for x in operands[n_cond + n_body :]]
    places = {var: i for i, var in enumerate(test.invars[n_cond:])}
    given = dict(zip(test.invars[:n_cond], map(_integer, operands[:n_cond]), strict=True))
    given |= dict(zip(test.constvars, map(_integer, test_consts), strict=True))
    steps = [_step(body, n_body, i) for i in range(len(start))]
    if len(test.eqns) != 1 or test.eqns[0].outvars != test.outvars:
        return None
    name, sides = test.eqns[0].primitive.name, test.eqns[0].invars
    if name not in _MIRRORED:
        return None

    def known(side: Any) -> tuple[int | None, int | None]:
        """Its value at the start, and what each round adds."""
        if isinstance(side, Literal):
            return _integer(np.asarray(side.val)), 0
        if side in places:
            return start[places[side]], steps[places[side]]
        return given.get(side), 0

    (a, by), (b, other) = map(known, sides)
    if by == 0:
        name, a, by, b, other = _MIRRORED[name], b, other, a, by
    if a is None or b is None or not by or other != 0:
        return None
    bounds = np.iinfo(aval(sides[0]).dtype)
    return _counted(name, a, by, b, int(bounds.min), int(bounds.max))


def _counted(name: str, a: int, by: int, b: int, low: int, high: int) -> int | None:
    """The rounds of ``while a <name> b: a += by``; `None` where the integer would overflow."""
    if name in ("le", "ge"):
        name, b = ("lt", b + 1) if name == "le" else ("gt", b - 1)
    if name == "ne":
        n = (b - a) // by
        return n if n >= 0 and a + n * by == b else None
    if name == "gt":
        a, by, b, low, high = -a, -by, -b, -high, -low
    if a >= b:
        return 0
    if by < 0:
        return None
    n = -(-(b - a) // by)
    return n if a + n * by <= high else None


def _step(body: Any, n_consts: int, i: int) -> int | None:
    """What a round adds to the i-th carried value; `None` if not known."""
    old, new = body.invars[n_consts + i], body.outvars[i]
    if new is old:
        return 0
    made = next((eqn for eqn in body.eqns if new in eqn.outvars), None)
    if made is None or made.primitive.name not in ("add", "sub"):
        return None
    a, b = made.invars
    if made.primitive.name == "add" and b is old:
        a, b = b, a
    if a is not old or not isinstance(b, Literal):
        return None
    by = _integer(np.asarray(b.val))
    return -by if made.primitive.name == "sub" and by is not None else by


def folded(eqn: JaxprEqn, arrays: Sequence[Any]) -> list[Any] | None:
    """The result of an equation of known integers, such as a counter's start; `None` of others."""
    if any(_integer(x) is None for x in arrays) or len(eqn.outvars) != 1:
        return None
    (out,), name = eqn.outvars, eqn.primitive.name
    if aval(out).shape or not jnp.issubdtype(aval(out).dtype, np.integer):
        return None
    if name in ("broadcast_in_dim", "reshape", "copy", "convert_element_type"):
        return [np.asarray(arrays[0]).astype(aval(out).dtype)]
    if name in _ARITHMETIC:
        return [_ARITHMETIC[name](*map(np.asarray, arrays)).astype(aval(out).dtype)]
    return None


def _integer(x: Any) -> int | None:
    """The value of a known integer."""
    if isinstance(x, Tracer) or np.shape(x) != () or not hasattr(x, "dtype"):
        return None
    return int(x) if jnp.issubdtype(x.dtype, np.integer) else None
