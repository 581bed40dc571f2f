"""What an optimizer does with the zeros of pruned weights, read off the jaxpr of its update.

Two facts spare the wrap work at every step. An optimizer **keeps zeros** if gradients, weights and
moments that are zero give moments that are zero; it is **elementwise** if, on top, no weight sees
anything of another. Both are proved here by a small abstract interpretation; whatever it does not
know counts as no, and the wrap then does the work.

Numbers common to a whole leaf (learning rates, norms, bias corrections) are taken to be finite and
no zero divisors: where they are not, kept weights are no numbers either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune import _tree
from jaxprune._jaxpr import CALLS, KINDS, held, opened, walk
from jaxprune._tree import PyTree
from jaxprune.transforms import _moments
from jaxprune.transforms._mask_state import descend


class Zeros(NamedTuple):
    """What is known of an optimizer.

    Attributes:
      kept: moments of pruned weights that are zero stay zero by themselves.
      elementwise: ``kept``, and updates and moments of a prunable weight follow from its own
        gradient, value and moments alone, and nothing else follows from them.
    """

    kept: bool
    elementwise: bool


UNKNOWN = Zeros(False, False)

_NUMBER, _ANY = "finite", "anything"


@dataclass(frozen=True)
class _Value:
    """What is known of an array.

    Attributes:
      leaf: the prunable leaf that it lies beside, entry for entry, or `None`.
      others: whether it depends on prunable weights in any other way.
      at: its entries at the pruned weights of ``leaf`` (without one: all its entries), a float
        where known, else ``_NUMBER`` or ``_ANY``.
    """

    leaf: int | None
    others: bool
    at: float | str


def examiner(tx: Any) -> Callable[..., Zeros]:
    """Returns ``zeros(grads, inner_state, params, mask, extra_args) -> Zeros`` for an optimizer.

    The mask is in the very structure of the parameters, `None` where a leaf is not prunable. The
    last answer is remembered: steps outside `jit` ask every time.
    """
    last: dict[Any, Zeros] = {}

    def zeros(
        grads: PyTree, inner_state: PyTree, params: PyTree, mask: PyTree, extra_args: dict[str, Any]
    ) -> Zeros:
        given = (grads, inner_state, params, extra_args)
        leaves, treedef = jax.tree.flatten((given, mask))
        try:
            key = (treedef, tuple(map(jax.typeof, leaves)))
        except TypeError:  # an extra argument is no array
            return UNKNOWN
        if key not in last:
            answer = _examine(tx, *given, mask)
            last.clear()
            last[key] = answer
        return last[key]

    return zeros


def _examine(
    tx: Any, grads: PyTree, state: PyTree, params: PyTree, extra_args: Any, mask: PyTree
) -> Zeros:
    def update(g: PyTree, s: PyTree, p: PyTree, extra: dict[str, Any]) -> Any:
        return tx.update(g, s, p, **extra)

    # What an optimizer raises here, because it asks for values, it may not raise outside of `jit`.
    # If it does, the wrap meets it as well. So this only goes without an answer.
    try:
        jaxpr, (updates, after) = jax.make_jaxpr(update, return_shape=True)(
            grads, state, params, extra_args
        )
    except Exception:
        return UNKNOWN
    like_params = {jax.tree.structure(tree) for tree in (grads, params, updates)}
    if len(like_params) > 1 or jax.tree.structure(after) != jax.tree.structure(state):
        return UNKNOWN
    by_param = _by_param(mask, params)
    by_state = _by_state(tx, state, mask)
    owners = [*by_param, *by_state, *by_param]
    owners += [None] * (len(jaxpr.jaxpr.invars) - len(owners))
    # What masking leaves alone (other leaves, counts, factored statistics) is the same for every
    # mask, however it came about.
    inputs = [
        _given(v.aval) if i is None else _Value(i, False, 0.0)
        for v, i in zip(jaxpr.jaxpr.invars, owners, strict=True)
    ]
    outputs = list(zip(_run(jaxpr, inputs), [*by_param, *by_state], strict=True))
    kept = all(
        i is None or (v.at == 0.0 and v.leaf in (None, i)) for v, i in outputs[len(by_param) :]
    )
    apart = all(not v.others and v.leaf in (None, i) for v, i in outputs)
    return Zeros(kept, kept and apart)


def _by_param(mask: PyTree, params: PyTree) -> list[int | None]:
    """For each leaf of the parameters its number if it is prunable."""
    numbers = iter(range(len(jax.tree.leaves(mask))))
    leaves, treedef = jax.tree.flatten(params, is_leaf=_tree.is_absent)
    pieces = zip(leaves, treedef.flatten_up_to(mask), strict=True)
    return [None if m is None else next(numbers) for leaf, m in pieces if not _tree.is_absent(leaf)]


def _by_state(tx: Any, state: PyTree, mask: PyTree) -> list[int | None]:
    """For each leaf of the state the number of the leaf with whose mask it is cleared."""
    shapes = [np.shape(m) for m in jax.tree.leaves(mask)]
    numbers = jax.tree.unflatten(jax.tree.structure(mask), range(len(shapes)))

    def number(i: Any, part: Any) -> Any:
        return jax.tree.map(
            lambda leaf: i if isinstance(i, int) and _moments.is_moment(shapes[i], leaf) else -1,
            part,
        )

    def visit(x: Any) -> Any:
        return descend(number, numbers, x.tree) if isinstance(x, _moments.Copy) else -1

    found = jax.tree.leaves(jax.tree.map(visit, _moments.mark(tx, state, mask).state))
    return [None if i < 0 else i for i in found]


# Functions of single entries. Those that every machine computes alike are followed at known ones.
_EXACT: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "max": np.maximum, "min": np.minimum, "neg": np.negative, "abs": np.abs, "sign": np.sign,
    "sqrt": np.sqrt, "square": np.square, "rsqrt": lambda x: 1 / np.sqrt(x),
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}  # fmt: skip
_ZERO_AT_ZERO = frozenset(
    {"cbrt", "tanh", "expm1", "log1p", "sin", "erf", "floor", "ceil", "round"}
)
_BOUNDED = frozenset({"add", "add_any", "sub", "mul", "max", "min", "neg", "abs", "sign", "tanh"})
_ELEMENTWISE = _ZERO_AT_ZERO.union(
    _EXACT,
    {
        "select_n", "convert_element_type", "integer_pow", "pow", "exp", "exp2", "log", "logistic",
        "cos", "atan2", "rem", "nextafter", "is_finite", "eq", "ne", "lt", "le", "gt", "ge", "not",
        "and", "or", "xor",
    },
)  # fmt: skip
_SAME = frozenset({"copy", "copy_p", "optimization_barrier"})
_RESHAPES = frozenset({"broadcast_in_dim", "reshape", "squeeze"})


def _run(jaxpr: Any, inputs: Sequence[_Value]) -> list[_Value]:
    inner, _ = opened(jaxpr)
    captured = [_given(v.aval) for v in inner.constvars]  # their values may differ the next time
    return walk(jaxpr, inputs, lambda i, eqn, values: _apply(eqn, values), _literal, captured)


def _apply(eqn: JaxprEqn, values: list[_Value]) -> list[_Value]:
    name = eqn.primitive.name
    avals: list[Any] = [v.aval for v in eqn.invars]
    outs: list[Any] = [v.aval for v in eqn.outvars]
    if name in CALLS:
        return _run(held(eqn), values)
    if KINDS.get(name) == "cond":
        runs = [_run(branch, values[1:]) for branch in eqn.params["branches"]]
        which = _Value(None, values[0].others or values[0].leaf is not None, _NUMBER)
        return [
            _beside([which, *cases], out, _join([v.at for v in cases]))
            for out, *cases in zip(outs, *runs, strict=True)
        ]
    if name in _SAME:
        return values
    # A single number is beside no leaf of another shape, nor is anything that was rearranged.
    shapes = [aval.shape for aval in avals]
    values = [
        v if v.leaf is None or shape == outs[0].shape else _Value(None, True, _ANY)
        for v, shape in zip(values, shapes, strict=True)
    ]
    transposes = name == "reshape" and eqn.params.get("dimensions") is not None
    if name in _RESHAPES and not transposes:
        return [_beside(values, outs[0], values[0].at)]
    if name in _ELEMENTWISE:
        return [_beside(values, outs[0], _entry(eqn, name, values, outs[0].dtype))]
    used = any(v.others or v.leaf is not None for v in values)
    return [replace(_given(out), others=used) for out in outs]


def _beside(values: Sequence[_Value], out: Any, at: float | str) -> _Value:
    leaves = {v.leaf for v in values} - {None}
    others = any(v.others for v in values)
    if len(leaves) > 1:
        return replace(_given(out), others=True)
    leaf = leaves.pop() if leaves else None
    if at == _ANY and (out.dtype == jnp.bool_ or (leaf is None and not out.shape)):
        at = _NUMBER
    return _Value(leaf, others, at)


def _entry(eqn: JaxprEqn, name: str, values: list[_Value], dtype: Any) -> float | str:
    """What an elementwise function gives at the pruned weights."""
    at = [v.at for v in values]
    if name == "select_n":
        return _join(at[1:])
    if name == "convert_element_type":
        return _settled(at[0], dtype)
    if name in ("integer_pow", "pow"):
        power = eqn.params["y"] if name == "integer_pow" else at[1]
        if at[0] == 0.0 and not isinstance(power, str) and power > 0:
            return 0.0
    if name in _ZERO_AT_ZERO and at[0] == 0.0:
        return 0.0
    if name in _EXACT and not any(isinstance(a, str) for a in at):
        with np.errstate(all="ignore"):
            entry = float(_EXACT[name](*(np.float64(a) for a in at)))
        # Terms that cancel here may not do so in another order.
        cancels = entry == 0.0 and any(at) and name in ("add", "add_any", "sub")
        return _NUMBER if cancels else _settled(entry, dtype)
    finite = all(a != _ANY for a in at)
    if finite and ((name == "mul" and 0.0 in at) or (name == "div" and at[0] == 0.0)):
        # Beside the leaf, what divides may be zero as well: the square root of a moment, say.
        return 0.0 if name == "mul" or values[1].leaf is None else _ANY
    common = all(v.leaf is None for v in values)
    return _NUMBER if finite and (common or name in _BOUNDED) else _ANY


def _settled(at: float | str, dtype: Any) -> float | str:
    """An entry in its dtype: unknown where it is so small that it may be zero there."""
    if isinstance(at, str) or at == 0.0:
        return at
    if not math.isfinite(at):
        return _ANY
    if jnp.issubdtype(dtype, jnp.floating):
        at = float(np.asarray(at).astype(dtype))
        return at if math.isfinite(at) and abs(at) > 2 * float(jnp.finfo(dtype).tiny) else _NUMBER
    return at if jnp.issubdtype(dtype, jnp.integer) and at == round(at) else _NUMBER


def _join(at: Sequence[float | str]) -> float | str:
    if all(a == at[0] for a in at):
        return at[0]
    return _ANY if _ANY in at else _NUMBER


def _given(aval: Any) -> _Value:
    """An array of which nothing is known but that no prunable weight had a part in it."""
    return _Value(None, False, _ANY if getattr(aval, "shape", ()) else _NUMBER)


def _literal(x: Any, aval: Any) -> _Value:
    real = jnp.issubdtype(aval.dtype, np.integer) or jnp.issubdtype(aval.dtype, np.floating)
    if np.ndim(x) or not real:
        return _given(aval)
    return _Value(None, False, _settled(float(np.asarray(x)), aval.dtype))
