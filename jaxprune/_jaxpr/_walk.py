"""The walk over the equations of a jaxpr, and the table of primitives that hold functions.

Who reads programs here interprets them: each value gets what is to be known of it, equation by
equation. The order of equations, the constants, and which primitives are calls, branches and loops
stand in this file only. What is known of a value, and what each primitive does to it, is up to the
reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.extend.core
import numpy as np
from jax.extend.core import JaxprEqn

Known = TypeVar("Known")

# What a primitive does with the functions that it holds. A "call" applies one, once. So do
# "remat", "custom_jvp" and "custom_vjp", whose derivatives are computed in another way.
Kind: TypeAlias = Literal["call", "remat", "custom_jvp", "custom_vjp", "scan", "while", "cond"]

# The names of several releases of JAX.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "call", "composite"), "call"),
    **dict.fromkeys(("remat", "remat2", "checkpoint"), "remat"),
    "custom_jvp_call": "custom_jvp",
    "custom_vjp_call": "custom_vjp",
    "custom_vjp_call_jaxpr": "custom_vjp",
    "scan": "scan",
    "while": "while",
    "cond": "cond",
}

_ONCE = ("call", "remat", "custom_jvp", "custom_vjp")

# Those that apply one function, once: their results are its results.
CALLS = frozenset(name for name, kind in KINDS.items() if kind in _ONCE)


def walk(
    jaxpr: Any,
    operands: Sequence[Known],
    apply: Callable[[int, JaxprEqn, list[Known]], Sequence[Known]],
    constant: Callable[[Any, Any], Known],
    captured: Sequence[Known] | None = None,
) -> list[Known]:
    """Goes through the equations of a jaxpr in order.

    Args:
      jaxpr: closed or open.
      operands: what is known of its arguments.
      apply: ``apply(i, eqn, known)`` gives what is known of the results of equation i from what is
        known of its operands.
      constant: ``constant(value, aval)`` gives what is known of a literal, and of a captured array.
      captured: what is known of the captured arrays, if something else.

    Returns:
      What is known of its results.
    """
    inner, consts = opened(jaxpr)
    if captured is None:
        pairs = zip(consts, inner.constvars, strict=True)
        captured = [constant(x, var.aval) for x, var in pairs]
    env: dict[Any, Known] = dict(zip(inner.constvars, captured, strict=True))
    env.update(zip(inner.invars, operands, strict=True))

    def read(atom: Any) -> Known:
        if isinstance(atom, jax.extend.core.Literal):
            return constant(np.asarray(atom.val, aval(atom).dtype), atom.aval)
        return env[atom]

    for i, eqn in enumerate(inner.eqns):
        results = apply(i, eqn, [read(v) for v in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in inner.outvars]


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr and its constants, of a closed or an open one."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, (getattr(jaxpr, "consts", ()) if inner.constvars else ())


def held(eqn: JaxprEqn) -> Any:
    """The function that a call applies, see `CALLS`."""
    return next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)


def functions_in(params: Any) -> list[Any]:
    """The functions that stand anywhere in parameters of an equation: jaxprs, closed or open."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns"))
    return [x for x in leaves if hasattr(x, "eqns")]


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of constants and of carried values of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.11
    return len(list(consts)), len(list(carry))


def bind(eqn: JaxprEqn, arrays: Sequence[Any]) -> list[Any]:
    """Evaluates an equation on arrays; returns its results, also of a primitive with only one."""
    with eqn.ctx.manager:
        result = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


def aval(atom: Any) -> Any:
    """The shape and dtype of an equation's operand or result."""
    return atom.aval
