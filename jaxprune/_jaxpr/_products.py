"""Which matrix products and convolutions of a function use which parameter.

A parameter reaches the matrix products and convolutions of a network through reshapes, transposes,
casts, masks, `jit`, `remat`, `scan` and the like. The walk interprets the jaxpr and carries along,
for every value, which parameters it is a linear rearrangement of. No framework needs hooks for
that, and no module has to be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend.core import JaxprEqn

from jaxprune import _tree
from jaxprune._jaxpr._labels import DATA, Labels, in_loop, parameters, reaching, unchanged
from jaxprune._jaxpr._opaque import PRODUCTS, multiplies
from jaxprune._jaxpr._rearrangement import Origin, Value, rearranged, strays
from jaxprune._jaxpr._rounds import folded, rounds
from jaxprune._jaxpr._walk import KINDS, aval, bind, held, opened, scan_counts, walk
from jaxprune._tree import PyTree

_RAGGED = "ragged_dot_general"


class Product(NamedTuple):
    """A matrix product or a convolution.

    Attributes:
      eqn: its equation; ``eqn.primitive.name`` is ``dot_general``, ``conv_general_dilated`` or
        ``ragged_dot_general``, or that of a primitive that is not followed and may multiply
        matrices; ``eqn.invars`` and ``eqn.outvars`` have the shapes.
      leaves: for each operand the paths of the parameters that it rearranges; empty for an
        activation.
      repeats: how often it is executed, by the loops around it; `None` inside a `while` whose
        rounds are not known. Each branch of a `cond` counts as executed.
      is_followed: whether it is known to be a product.
      group_sizes: of a ``ragged_dot_general`` of a parameter as it is, if they are known.
    """

    eqn: JaxprEqn
    leaves: tuple[tuple[str, ...], ...]
    repeats: int | None
    is_followed: bool = True
    group_sizes: np.ndarray | None = None


class Contribution(NamedTuple):
    """What one product adds to the total of a parameter.

    Attributes:
      array: of the shape of the product's operand.
      varying: the axes along which it may vary; it is constant along the others.
    """

    array: jax.Array
    varying: frozenset[int]


Tap = Callable[[JaxprEqn, int, jax.Array], Contribution]


def products(f: Callable[..., Any], params: PyTree, *args: Any) -> list[Product]:
    """Lists the matrix products and convolutions of ``f(params, *args)``, in program order.

    Nothing is computed: arrays and `jax.ShapeDtypeStruct` serve alike.

    Args:
      f: a function of JAX operations.
      params: any pytree of arrays.
      *args: pytrees of arrays.

    Returns:
      One `Product` for each equation, also those of two activations, and for each that may hide
      products.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import _jaxpr
      >>> f = lambda params, x: x @ params["kernel"].T
      >>> [product] = _jaxpr.products(f, {"kernel": jnp.ones((3, 2))}, jnp.ones((1, 2)))
      >>> product.eqn.primitive.name, product.leaves, product.repeats
      ('dot_general', ((), ('kernel',)), 1)
    """
    walk = _Walk(None, jnp.float32)
    jax.eval_shape(lambda params, args: walk.whole(f, params, args)[0], params, args)
    return list(walk.products.values())


def accumulate(f: Callable[..., Any], params: PyTree, *args: Any, tap: Tap) -> PyTree:
    """Adds up, for each parameter, what every product that uses it contributes.

    Follows the parameters through reshapes, transposes, casts, slices, concatenations, products
    with constants (masks, scales: by the constant's *square*, as squared norms need), calls,
    branches and loops. Loop bodies and branches run with the totals as further results. What an
    unknown primitive does to a parameter is not followed, but noticed: a parameter that reaches a
    product this way has no total at all, because that of its other uses would be a partial sum.

    Args:
      f: ``f(params, *args)``, a function of JAX operations.
      params: any pytree of arrays; floating leaves are followed.
      *args: the data. Only a product with a value that depends on it contributes.
      tap: ``tap(eqn, i, other)`` gives the contribution to operand ``i`` of the product ``eqn``
        from the value of the other operand.

    Returns:
      A tree like ``params``: totals of the leaves' rank in float32 at least, of size 1 along axes
      on which they cannot depend; `None` where no product uses the leaf, or one in a way that is
      not followed.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import _jaxpr
      >>> def tap(eqn, i, other):
      ...     array = jnp.ones(eqn.invars[i].aval.shape)
      ...     return _jaxpr.Contribution(array, frozenset())
      >>> f = lambda params, x: x @ params["kernel"] @ params["kernel"]
      >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> _jaxpr.accumulate(f, params, jnp.ones((1, 2)), tap=tap)
      {'bias': None, 'kernel': Array([[2.]], dtype=float32)}
    """
    floating = [leaf.dtype for leaf in jax.tree.leaves(params) if _tree.is_floating(leaf)]
    walk = _Walk(tap, _tree.wide_dtype(*floating))
    _, scope = walk.whole(f, params, args)
    totals = []
    for root, leaf in enumerate(jax.tree.leaves(params)):
        total = None if walk.lost & set(scope.paths[root]) else scope.totals.get(root)
        if total is not None:
            for axis in set(range(leaf.ndim)) - scope.varying[root]:
                total = jax.lax.slice_in_dim(total, 0, 1, axis=axis)
        totals.append(total)
    return jax.tree.structure(params).unflatten(totals)


@dataclass
class _Scope:
    """Where tracking starts anew: the function, a loop body, a branch.

    A root is a value that comes in from outside and rearranges parameters.
    """

    shapes: list[tuple[int, ...]]
    paths: list[tuple[str, ...]]
    totals: dict[int, jax.Array] = field(default_factory=dict)
    varying: dict[int, set[int]] = field(default_factory=dict)

    def origin(self, root: int) -> Origin:
        axes = tuple(frozenset({axis}) for axis in range(len(self.shapes[root])))
        return Origin(frozenset({root}), lambda roots: roots[root], axes)

    def leaves(self, value: Value) -> tuple[str, ...]:
        roots = sorted(value.origin.roots) if value.origin else []
        return tuple(dict.fromkeys(path for root in roots for path in self.paths[root]))

    def made_of(self, value: Value) -> frozenset[str]:
        return value.strays.union(self.leaves(value))

    def labels(self, value: Value) -> Labels:
        return self.made_of(value) | ({DATA} if value.data else frozenset())

    def add(self, origin: Origin, contribution: Contribution) -> None:
        array = contribution.array
        roots = {r: jax.ShapeDtypeStruct(self.shapes[r], array.dtype) for r in origin.roots}
        (parts,) = jax.linear_transpose(origin.rebuild, roots)(array)
        for root, part in parts.items():
            self.totals[root] = self.totals[root] + part if root in self.totals else part
            if origin.axes is None:
                axes = set(range(len(self.shapes[root])))
            else:
                axes = {a for axis in contribution.varying for a in origin.axes[axis]}
            self.varying.setdefault(root, set()).update(axes)


@dataclass
class _Walk:
    tap: Tap | None
    dtype: Any
    # By position, because a loop body may be traced more than once.
    products: dict[tuple[int, ...], Product] = field(default_factory=dict)
    # The paths of the parameters with a use in a product that is not followed.
    lost: set[str] = field(default_factory=set)

    @property
    def kinds(self) -> Callable[[Any], bool]:
        """Which arrays are followed: totals are of real numbers only."""
        return _tree.is_floating if self.tap else _tree.has_norm

    def whole(self, f: Callable[..., Any], params: PyTree, args: Any) -> tuple[list[Any], _Scope]:
        jaxpr = jax.make_jaxpr(f)(params, *args)
        named = _tree.named_leaves(params)
        scope = _Scope([jnp.shape(leaf) for _, leaf in named], [(path,) for path, _ in named])
        values = [
            Value(leaf, False, scope.origin(root) if self.kinds(leaf) else None)
            for root, (_, leaf) in enumerate(named)
        ]
        values += [Value(leaf, True) for leaf in jax.tree.leaves(args)]
        return [value.array for value in self.run(jaxpr, values, scope, (), 1)], scope

    def run(
        self,
        jaxpr: Any,
        values: Sequence[Value],
        scope: _Scope,
        at: tuple[int, ...],
        repeats: int | None,
    ) -> list[Value]:
        loops = {"scan": self._scan, "while": self._while, "cond": self._cond}
        rules = {name: loops.get(kind, self._call) for name, kind in KINDS.items()}
        rules |= dict.fromkeys(PRODUCTS, self._product)

        def apply(i: int, eqn: JaxprEqn, operands: list[Value]) -> list[Value]:
            rule = rules.get(eqn.primitive.name, self._plain)
            return rule(eqn, operands, scope, (*at, i), repeats)

        return walk(jaxpr, values, apply, lambda x, aval: Value(x))

    def _plain(self, eqn, operands, scope, at, repeats) -> list[Value]:
        arrays = [v.array for v in operands]
        results = folded(eqn, arrays) or bind(eqn, arrays)
        if eqn.primitive.name == "optimization_barrier":
            return [replace(v, array=x) for v, x in zip(operands, results, strict=True)]
        data = any(v.data for v in operands)
        if multiplies(eqn):
            paths = tuple(map(scope.leaves, operands))
            if eqn.primitive.name == _RAGGED:
                found = Product(eqn, paths[:2], repeats, group_sizes=_group_sizes(operands))
            else:
                found = Product(eqn, paths, repeats, is_followed=False)
            self.products[at] = found
            if data:
                self.lost.update(*map(scope.made_of, operands))
        origins: list[Origin | None] = [None] * len(results)
        if any(v.origin for v in operands):
            origins = rearranged(eqn, operands, self.dtype, self.kinds)

        def leaves(value: Value) -> frozenset[str]:
            return frozenset(scope.leaves(value))

        return [
            Value(x, data, origin, *strays(eqn, operands, origin, leaves))
            for x, origin in zip(results, origins, strict=True)
        ]

    def _product(self, eqn, operands, scope, at, repeats) -> list[Value]:
        lhs, rhs = operands
        self.products[at] = Product(eqn, (scope.leaves(lhs), scope.leaves(rhs)), repeats)
        for i, (weight, other) in enumerate(((lhs, rhs), (rhs, lhs))):
            if other.data:
                self.lost |= weight.strays
            if self.tap and weight.origin and other.data:
                array, varying = self.tap(eqn, i, other.array)
                scope.add(weight.origin, Contribution(array.astype(self.dtype), varying))
        results = bind(eqn, [lhs.array, rhs.array])
        data, lost = lhs.data or rhs.data, strays(eqn, operands, None, scope.made_of)
        return [Value(result, data, None, *lost) for result in results]

    def _call(self, eqn, operands, scope, at, repeats) -> list[Value]:
        return self.run(held(eqn), operands, scope, at, repeats)

    def _cond(self, eqn, operands, scope, at, repeats) -> list[Value]:
        index, *rest = operands
        labels = [scope.labels(v) for v in rest]
        inner = _Inner(self, scope, rest, labels)
        roots = {k: np.shape(v.array) for k, v in enumerate(rest) if v.origin}
        branches = [
            lambda *arrays, branch=branch, i=i: inner.run(branch, arrays, roots, (*at, i), repeats)
            for i, branch in enumerate(eqn.params["branches"])
        ]
        results, totals = jax.lax.switch(index.array, branches, *(v.array for v in rest))
        inner.add(roots, totals)
        data = any(v.data for v in operands)
        ways = zip(*(reaching(branch, labels) for branch in eqn.params["branches"]), strict=True)
        lost = [frozenset().union(*map(parameters, way)) for way in ways]
        return [Value(x, data, None, paths) for x, paths in zip(results, lost, strict=True)]

    def _scan(self, eqn, operands, scope, at, repeats) -> list[Value]:
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        n_consts, n_carry = scan_counts(eqn.params)
        first_x = n_consts + n_carry
        labels = in_loop(body, [scope.labels(v) for v in operands], n_consts, n_carry)
        inner = _Inner(self, scope, operands, labels)
        fixed = unchanged(body, n_consts, n_carry)
        once = {k: np.shape(operands[k].array) for k in fixed if operands[k].origin}
        each = {
            k: np.shape(v.array)[1:]
            for k, v in enumerate(operands)
            if k >= first_x and v.origin is not None
        }
        times = None if repeats is None else repeats * length
        arrays = [v.array for v in operands]
        consts, state, xs = arrays[:n_consts], arrays[n_consts:first_x], arrays[first_x:]

        def step(carry: Any, xs: Any) -> Any:
            state, sums = carry
            results, totals = inner.run(body, [*consts, *state, *xs], once | each, at, times)
            sums = {k: total + totals[k] for k, total in sums.items()}
            return (results[:n_carry], sums), (results[n_carry:], {k: totals[k] for k in each})

        zeros = {k: jnp.zeros(shape, self.dtype) for k, shape in once.items()}
        (state, sums), (ys, stacks) = jax.lax.scan(
            step,
            (state, zeros),
            xs,
            length=length,
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        inner.add(once, sums)
        inner.add(each, stacks, stacked=True)
        after = reaching(body, labels)
        return [
            replace(operands[k], array=result)
            if k in fixed
            else Value(result, DATA in labels_, None, parameters(labels_))
            for k, (result, labels_) in enumerate(
                zip([*state, *ys], after, strict=True), start=n_consts
            )
        ]

    def _while(self, eqn, operands, scope, at, repeats) -> list[Value]:
        n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        body, test = eqn.params["body_jaxpr"], eqn.params["cond_jaxpr"]
        if aval(opened(test)[0].outvars[0]).shape:  # under vmap: some go on while others have ended
            return self._plain(eqn, operands, scope, at, repeats)
        test_consts, operands = operands[:n_cond], operands[n_cond:]
        n_carry = len(operands) - n_body
        labels = in_loop(body, [scope.labels(v) for v in operands], n_body, n_carry)
        inner = _Inner(self, scope, operands, labels)
        fixed = unchanged(body, n_body, n_carry)
        once = {k: np.shape(operands[k].array) for k in fixed if operands[k].origin}
        consts = [v.array for v in operands[:n_body]]
        n = rounds(eqn, [v.array for v in (*test_consts, *operands)])
        times = None if n is None or repeats is None else repeats * n

        def step(carry: Any) -> Any:
            state, sums = carry
            results, totals = inner.run(body, [*consts, *state], once, at, times)
            return results, {k: total + totals[k] for k, total in sums.items()}

        def proceed(carry: Any) -> Any:
            inner_test, closed_over = opened(test)
            return eval_jaxpr(inner_test, closed_over, *(v.array for v in test_consts), *carry[0])[
                0
            ]

        zeros = {k: jnp.zeros(shape, self.dtype) for k, shape in once.items()}
        state = [v.array for v in operands[n_body:]]
        state, sums = jax.lax.while_loop(proceed, step, (state, zeros))
        inner.add(once, sums)
        # The number of iterations may depend on the data, too.
        data = any(DATA in each for each in labels) or any(v.data for v in test_consts)
        return [
            replace(operands[k], array=result)
            if k in fixed
            else Value(result, data, None, parameters(labels[k]))
            for k, result in enumerate(state, start=n_body)
        ]


@dataclass
class _Inner:
    """A jaxpr inside an equation, run as a function of arrays with a scope of its own."""

    walk: _Walk
    outer: _Scope
    operands: Sequence[Value]
    labels: Sequence[Labels]
    varying: dict[int, set[int]] = field(default_factory=dict)

    def run(
        self,
        jaxpr: Any,
        arrays: Sequence[Any],
        roots: Mapping[int, tuple[int, ...]],
        at: tuple[int, ...],
        repeats: int | None,
    ) -> tuple[list[Any], dict[int, jax.Array]]:
        """Returns the results, and the total of each root (the k-th operand), zero if unused."""
        scope = _Scope(list(roots.values()), [self.outer.leaves(self.operands[k]) for k in roots])
        origins = {k: scope.origin(root) for root, k in enumerate(roots)}
        values = [
            replace(self.operands[k], array=array, origin=origins[k])
            if k in origins
            else Value(array, DATA in labels, None, parameters(labels))
            for k, (array, labels) in enumerate(zip(arrays, self.labels, strict=True))
        ]
        results = [value.array for value in self.walk.run(jaxpr, values, scope, at, repeats)]
        totals = {}
        for root, (k, shape) in enumerate(roots.items()):
            total = scope.totals.get(root)
            totals[k] = jnp.zeros(shape, self.walk.dtype) if total is None else total
            if total is not None:
                self.varying.setdefault(k, set()).update(scope.varying[root])
        return results, totals

    def add(self, roots: Any, totals: Mapping[int, jax.Array], *, stacked: bool = False) -> None:
        """Hands the totals of the roots that were used to the scope outside."""
        for k in roots:
            origin = self.operands[k].origin
            if k in self.varying and origin is not None:
                varying = {axis + stacked for axis in self.varying[k]} | ({0} if stacked else set())
                self.outer.add(origin, Contribution(totals[k], frozenset(varying)))


def _group_sizes(operands: Sequence[Value]) -> np.ndarray | None:
    """The sizes of the groups of a ragged product with a parameter as it is, if they are known."""
    _, weight, sizes = operands
    origin, array = weight.origin, sizes.array
    own = tuple(frozenset({axis}) for axis in range(np.ndim(weight.array)))
    if origin is None or origin.axes != own or _tree.is_traced(array):
        return None
    return np.asarray(array)
