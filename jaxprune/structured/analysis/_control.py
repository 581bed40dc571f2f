"""Following axes through primitives that hold functions: calls, loops, branches, custom rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune._jaxpr import KINDS, bind, held, scan_counts
from jaxprune.structured.analysis._rule import Kept, Step
from jaxprune.structured.analysis._trace import Trace, Walk, evaluate
from jaxprune.structured.analysis._tracked import NONE, Source, Tracked, fixed

Operands = Sequence[Tracked]


def _call(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    inner = walk.run(held(eqn), operands, inlined=True)
    return Step(eqn, operands, inner.results, _evaluate_call, (inner,), inlined=True)


def _remat(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    inner = walk.run(held(eqn), operands)
    return Step(eqn, operands, inner.results, _evaluate_remat, (inner,))


def _evaluate_call(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    return evaluate(step.inner[0], kept, arrays)


def _evaluate_remat(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    inner = jax.checkpoint(
        lambda *xs: evaluate(step.inner[0], kept, xs),
        policy=step.eqn.params.get("policy"),
        prevent_cse=step.eqn.params.get("prevent_cse", True),
    )
    return list(inner(*arrays))


# Custom derivatives. The rule of a `custom_jvp` or `custom_vjp` is known for one shape only, so the
# derivative is traced at the full shape, followed, and evaluated smaller like everything else.
# Within a derivative, which often calls the function again, custom rules count as plain calls:
# second derivatives are those of the rule's own operations.


def _custom_jvp(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    inner, moving = walk.run(held(eqn), operands), _floating(eqn.invars)
    results = list(inner.results)
    if walk.differentiating:
        return Step(eqn, operands, results, _evaluate_call, (inner,))
    tangents = [operands[i] for i in moving]
    jvp = _derivative(walk, eqn, _jvp_jaxpr, [*operands, *tangents])
    walk.units.now(eqn)
    for value, i in zip(jvp.results, [*range(len(results)), *_floating(eqn.outvars)], strict=True):
        _join(walk, value, results[i])
    return Step(eqn, operands, results, _evaluate_jvp, (inner, jvp))


def _custom_vjp(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    inner, moving = walk.run(held(eqn), operands), _floating(eqn.invars)
    results = list(inner.results)
    if walk.differentiating:
        return Step(eqn, operands, results, _evaluate_call, (inner,))
    cotangents = [_nonzero(walk, results[i]) for i in _floating(eqn.outvars)]
    vjp = _derivative(walk, eqn, _vjp_jaxpr, [*operands, *cotangents])
    walk.units.now(eqn)
    for value, i in zip(vjp.results, moving, strict=True):
        _join(walk, value, operands[i])
    return Step(eqn, operands, results, _evaluate_vjp, (inner, vjp))


def _derivative(
    walk: Walk, eqn: JaxprEqn, trace: Callable[[JaxprEqn], Any], operands: Operands
) -> Trace:
    function = held(eqn)
    if id(function) not in walk.remembered:
        # The function, too, so that its id stays its own.
        walk.remembered[id(function)] = (trace(eqn), function)
    walk.differentiating = True
    try:
        return walk.run(walk.remembered[id(function)][0], operands)
    finally:
        walk.differentiating = False


def _nonzero(walk: Walk, value: Tracked) -> Tracked:
    """A cotangent: it need not be zero where the value is."""
    return Tracked(value.nodes, tuple(walk.units.is_fixed(nodes) for nodes in value.nodes))


def _floating(atoms: Sequence[Any]) -> list[int]:
    return [i for i, v in enumerate(atoms) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]


def _structs(atoms: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in atoms]


def _of_moving(eqn: JaxprEqn, arrays: Sequence[Any]) -> Callable[..., list[Any]]:
    """The equation's floating results as a function of its floating operands."""

    def f(*moving: Any) -> list[Any]:
        filled = list(arrays)
        for i, x in zip(_floating(eqn.invars), moving, strict=True):
            filled[i] = x
        results = bind(eqn, filled)
        return [results[i] for i in _floating(eqn.outvars)]

    return f


def _jvp_jaxpr(eqn: JaxprEqn) -> Any:
    moving = _floating(eqn.invars)

    def jvp(arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
        primals = [arrays[i] for i in moving]
        _, moved = jax.jvp(_of_moving(eqn, arrays), primals, list(tangents))
        return bind(eqn, arrays), moved

    structs = _structs(eqn.invars)
    return jax.make_jaxpr(jvp)(structs, [structs[i] for i in moving])


def _vjp_jaxpr(eqn: JaxprEqn) -> Any:
    def vjp(arrays: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        primals = [arrays[i] for i in _floating(eqn.invars)]
        return jax.vjp(_of_moving(eqn, arrays), *primals)[1](list(cotangents))

    results = _structs([eqn.outvars[i] for i in _floating(eqn.outvars)])
    return jax.make_jaxpr(vjp)(_structs(eqn.invars), results)


def _evaluate_jvp(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    inner, derivative = step.inner
    moving, out = _floating(step.eqn.invars), _floating(step.eqn.outvars)

    @jax.custom_jvp
    def f(*xs: Any) -> tuple[Any, ...]:
        return tuple(evaluate(inner, kept, xs))

    @f.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        both = evaluate(derivative, kept, [*primals, *(tangents[i] for i in moving)])
        results, moved = both[: len(step.eqn.outvars)], iter(both[len(step.eqn.outvars) :])
        return tuple(results), tuple(
            next(moved) if i in out else np.zeros(np.shape(x), jax.dtypes.float0)
            for i, x in enumerate(results)
        )

    return list(f(*arrays))


def _evaluate_vjp(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    inner, derivative = step.inner
    moving, out = _floating(step.eqn.invars), _floating(step.eqn.outvars)

    @jax.custom_vjp
    def f(*xs: Any) -> tuple[Any, ...]:
        return tuple(evaluate(inner, kept, xs))

    def backward(xs: Any, cotangents: Any) -> Any:
        found = iter(evaluate(derivative, kept, [*xs, *(cotangents[i] for i in out)]))
        return tuple(next(found) if i in moving else None for i in range(len(xs)))

    f.defvjp(lambda *xs: (f(*xs), xs), backward)
    return list(f(*arrays))


# Loops and branches.


def _scan(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    n_consts, n_carry = scan_counts(eqn.params)
    consts, xs = operands[:n_consts], operands[n_consts + n_carry :]
    carry = [v._replace(number=None) for v in operands[n_consts:][:n_carry]]
    for value in xs:
        walk.units.use(value.nodes[0])
        walk.units.fix_all(value.nodes[0], "it is scanned over")
    rows = [value.with_axes(range(1, len(value.nodes))) for value in xs]
    carry, inner = _carried(
        walk, eqn, carry, lambda carry: walk.run(eqn.params["jaxpr"], [*consts, *carry, *rows])
    )
    length = fixed(walk.units, (eqn.params["length"],), "it is stacked by a loop")
    stacked = [
        Tracked(
            (*length.nodes, *v.nodes),
            (*length.zeros, *v.zeros),
            None,
            None if v.source is None else (NONE, *v.source),
        )
        for v in inner.results[n_carry:]
    ]
    return Step(eqn, operands, [*carry, *stacked], _evaluate_scan, (inner,))


def _carried(
    walk: Walk, eqn: JaxprEqn, carry: list[Tracked], run: Callable[[Sequence[Tracked]], Trace]
) -> tuple[list[Tracked], Trace]:
    """What is known of the values that a loop carries: zero only if every round leaves them so."""
    while True:
        inner = run(carry)
        walk.units.now(eqn)
        both = []
        for before, after in zip(carry, inner.results, strict=False):
            _join(walk, before, after)
            zeros = tuple(a & b for a, b in zip(before.zeros, after.zeros, strict=True))
            both.append(Tracked(before.nodes, zeros, None, _either(before.source, after.source)))
        same = all(
            v.source == w.source
            and all(np.array_equal(a, b) for a, b in zip(v.zeros, w.zeros, strict=True))
            for v, w in zip(carry, both, strict=True)
        )
        if same:
            return carry, inner
        carry = both


def _either(a: Source, b: Source) -> Source:
    """The source of what is one of two values."""
    if a is None or b is None:
        return None
    return tuple(x | y for x, y in zip(a, b, strict=True))


def _evaluate_scan(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    params = step.eqn.params
    n_consts, n_carry = scan_counts(params)
    consts, carry = arrays[:n_consts], arrays[n_consts : n_consts + n_carry]

    def body(carry: Any, xs: Any) -> Any:
        results = evaluate(step.inner[0], kept, [*consts, *carry, *xs])
        return tuple(results[:n_carry]), tuple(results[n_carry:])

    carry, ys = jax.lax.scan(
        body,
        tuple(carry),
        tuple(arrays[n_consts + n_carry :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]


def _while(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    """How often it runs follows from what is kept: the test is evaluated with it, too."""
    params = eqn.params
    n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
    test_consts, consts = operands[:n_test], operands[n_test:][:n_body]
    carry = [v._replace(number=None) for v in operands[n_test + n_body :]]
    carry, inner = _carried(
        walk, eqn, carry, lambda carry: walk.run(params["body_jaxpr"], [*consts, *carry])
    )
    test = walk.run(params["cond_jaxpr"], [*test_consts, *carry])
    walk.units.now(eqn)
    # Under `vmap` the loop goes on for some positions of the first axes only.
    for value in carry:
        for ours, theirs in zip(value.nodes, test.results[0].nodes, strict=False):
            walk.units.join_all(ours, theirs)
    return Step(eqn, operands, carry, _evaluate_while, (inner, test))


def _evaluate_while(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    n_test, n_body = step.eqn.params["cond_nconsts"], step.eqn.params["body_nconsts"]
    test_consts, consts = arrays[:n_test], arrays[n_test:][:n_body]
    inner, test = step.inner

    def goes_on(carry: Any) -> Any:
        return evaluate(test, kept, [*test_consts, *carry])[0]

    def body(carry: Any) -> Any:
        after, on = evaluate(inner, kept, [*consts, *carry]), goes_on(carry)
        if not np.ndim(on):
            return tuple(after)
        return tuple(
            jax.lax.select(jax.lax.broadcast_in_dim(on, x.shape, range(on.ndim)), x, before)
            for x, before in zip(after, carry, strict=True)
        )

    return list(
        jax.lax.while_loop(lambda c: jnp.any(goes_on(c)), body, tuple(arrays[n_test + n_body :]))
    )


def _cond(walk: Walk, eqn: JaxprEqn, operands: Operands) -> Step:
    inner = tuple(walk.run(branch, operands[1:]) for branch in eqn.params["branches"])
    walk.units.now(eqn)
    results = []
    for first, *others in zip(*(branch.results for branch in inner), strict=True):
        zeros, source = first.zeros, first.source
        for other in others:
            _join(walk, first, other)
            zeros = tuple(a & b for a, b in zip(zeros, other.zeros, strict=True))
            source = _either(source, other.source)
        # Data may choose between kernels; a vector that data chooses is data.
        if operands[0].source is None and sum(n > 1 for n in first.shape) < 2:
            source = None
        results.append(Tracked(first.nodes, zeros, None, source))
    return Step(eqn, operands, results, _evaluate_cond, inner)


def _evaluate_cond(kept: Kept, step: Step, arrays: Sequence[Any]) -> list[Any]:
    branches = [lambda *xs, t=trace: evaluate(t, kept, xs) for trace in step.inner]
    return list(jax.lax.switch(arrays[0], branches, *arrays[1:]))


def _join(walk: Walk, a: Tracked, b: Tracked) -> None:
    for x, y in zip(a.nodes, b.nodes, strict=True):
        walk.units.join_all(x, y)


_RULES: dict[str, Callable[[Walk, JaxprEqn, Operands], Step]] = {
    "call": _call,
    "remat": _remat,
    "custom_jvp": _custom_jvp,
    "custom_vjp": _custom_vjp,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}

CONTROL = {name: _RULES[kind] for name, kind in KINDS.items() if kind in _RULES}
