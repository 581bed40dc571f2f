"""A function ready to be evaluated piece by piece, and what enters its products on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.layerwise._entering import Kind, Totals, added, nothing, rows_of
from jaxprune.layerwise.program import Program, Runner, Site, flatten, sites_of


class Walkthrough(NamedTuple):
    """A function ready to be evaluated piece by piece.

    Attributes:
      program: its steps.
      runner: where all batches stand.
      sites: the products with prunable weights, in program order.
      prunable: for each leaf whether it is.
      treedef: structure of the parameters.
    """

    program: Program
    runner: Runner
    sites: list[Site]
    prunable: list[bool]
    treedef: Any


def begun(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    where: Where | None,
) -> Walkthrough:
    """Reads a function.

    Raises:
      ValueError: if there is no batch, batches have other shapes, no leaf is prunable, or a
        prunable leaf is used in a way that cannot be followed.
      TypeError: if ``apply`` or ``batches`` is of the wrong kind.
    """
    if not callable(apply):
        raise TypeError(f"apply is a function apply(params, batch); got {apply!r:.80}.")
    if isinstance(batches, dict | jax.Array | np.ndarray):
        raise TypeError(
            "batches is a list, or another iterable, of batches; got one batch, it seems. Pass "
            "[batch]."
        )
    chosen = _tree.prunable(params, where)
    kept = jax.tree.leaves(chosen, is_leaf=_tree.is_absent)
    leaves, treedef = jax.tree.flatten(params)
    whole = jax.tree.leaves(params, is_leaf=_tree.is_absent)
    prunable = [
        not _tree.is_absent(x)
        for x, own in zip(kept, whole, strict=True)
        if not _tree.is_absent(own)
    ]
    given = _checked(list(batches))
    paths = [path for path, _ in _tree.named_leaves(params)]
    _tree.check_unique([path for path, p in zip(paths, prunable, strict=True) if p])
    program = flatten(apply, params, given[0], prunable)
    sites = sites_of(program, paths)
    return Walkthrough(program, Runner(program, leaves, given), sites, prunable, treedef)


def _checked(batches: list[Any]) -> list[Any]:
    if not batches:
        raise ValueError(
            "`batches` is empty. Pass at least one batch (a used-up iterator has none)."
        )
    first = _shapes(batches[0])
    for k, batch in enumerate(batches):
        if _shapes(batch) != first:
            raise ValueError(
                f"batch {k} has other shapes than batch 0: {_shapes(batch)[1]} instead of "
                f"{first[1]}. Drop or pad what is left over at the end."
            )
    return batches


def _shapes(batch: Any) -> tuple[Any, list[Any]]:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, [(tuple(np.shape(x)), str(jnp.result_type(x))) for x in leaves]


def totals_of(walk: Walkthrough, sites: Sequence[Site], kind: Kind) -> list[Totals]:
    """What enters some products, over all batches.

    Raises:
      ValueError: if something that enters is NaN or infinite, naming the product and the batch.
    """
    program, runner = walk.program, walk.runner
    eqns: list[Any] = [program.steps[site.at].eqn for site in sites]
    weights = [site.weight for site in sites]
    start = [
        nothing(kind, site.entries.shape, _tree.wide_dtype(program.shapes[site.other].dtype))
        for site in sites
    ]

    def look(so_far: Any, *others: jax.Array) -> Any:
        totals, seen, batch = so_far
        found = [
            added(kind, total, rows_of(eqn, weight, x))
            for total, eqn, weight, x in zip(totals, eqns, weights, others, strict=True)
        ]
        bad = ~jnp.stack([_is_finite(total) for total in found])
        return found, jnp.where(bad & (seen < 0), batch, seen), batch + 1

    key = (
        kind,
        tuple(
            (eqn.primitive.name, str(eqn.params), weight, program.shapes[operands[weight]].shape)
            for eqn, weight, operands in zip(
                eqns, weights, (program.steps[site.at].operands for site in sites), strict=True
            )
        ),
    )
    others = [site.other for site in sites]
    to = max(site.at for site in sites)
    state = (start, jnp.full((len(sites),), -1, jnp.int32), jnp.zeros((), jnp.int32))
    found, seen, _ = runner.look(to, others, look, key, state)
    for site, batch in zip(sites, np.asarray(seen).tolist(), strict=True):
        if batch >= 0:
            raise ValueError(
                f"what enters {site.name!r} is NaN or infinite in batch {batch}. Look at that "
                "batch, or at the weights before this layer."
            )
    return found


def _is_finite(total: Totals) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(total)]))
