"""Which inputs of a jaxpr its results depend on, told by labels that the inputs carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from jax.extend.core import Literal

from jaxprune._jaxpr._walk import opened

DATA = None  # stands for the data among the paths of the parameters
Labels: TypeAlias = frozenset[str | None]


def parameters(labels: Labels) -> frozenset[str]:
    """The parameters that a value is made of; none if it depends on the data as well."""
    return frozenset() if DATA in labels else frozenset(x for x in labels if x is not None)


def reaching(jaxpr: Any, labels: Sequence[Labels]) -> list[Labels]:
    """The labels of all the inputs that each result depends on."""
    inner, _ = opened(jaxpr)
    reached = dict(zip(inner.invars, labels, strict=True))

    def read(atom: Any) -> Labels:
        return frozenset() if isinstance(atom, Literal) else reached.get(atom, frozenset())

    for eqn in inner.eqns:
        union = frozenset().union(*map(read, eqn.invars))
        reached.update(dict.fromkeys(eqn.outvars, union))
    return [read(v) for v in inner.outvars]


def in_loop(body: Any, labels: list[Labels], n_consts: int, n_carry: int) -> list[Labels]:
    """The labels of a loop body's inputs, after as many iterations as change them."""
    for _ in range(n_carry):
        before, after = labels, reaching(body, labels)
        carried = [labels[n_consts + k] | after[k] for k in range(n_carry)]
        labels = [*labels[:n_consts], *carried, *labels[n_consts + n_carry :]]
        if labels == before:
            break
    return labels


def unchanged(body: Any, n_consts: int, n_carry: int) -> list[int]:
    """The inputs of a loop body that are the same in every iteration."""
    inner, _ = opened(body)
    carried = range(n_consts, n_consts + n_carry)
    same = [k for k in carried if inner.outvars[k - n_consts] is inner.invars[k]]
    return [*range(n_consts), *same]
