"""Pruning a network after training, in the order of its program."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import masks
from jaxprune._tree import PyTree, Where
from jaxprune.layerwise._entering import Kind, Totals
from jaxprune.layerwise._error import error
from jaxprune.layerwise._kernels import beside, kernel_of, put
from jaxprune.layerwise._method import Method
from jaxprune.layerwise._refit import refit as refitted
from jaxprune.layerwise._solve import solve
from jaxprune.layerwise._walkthrough import begun, totals_of
from jaxprune.layerwise._windows import windows_of
from jaxprune.layerwise.program import Site
from jaxprune.masks import Allocation, Pattern

_KINDS: dict[str, Kind] = {"norms": "norms", "variances": "moments", "gram": "gram"}


class WindowRecord(NamedTuple):
    """What `prune` tells of a window.

    Attributes:
      errors: for each product, by its name, the relative error of its outputs on what enters it,
        see `error`; `None` for a method that needs no Gram matrix, without ``refit``.
      seconds: what the window took.
      windows: how many windows there are.
      number: which one it is, from 1.
    """

    errors: dict[str, float | None]
    seconds: float
    windows: int
    number: int


def prune(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    sparsity: float | Mapping[str, float] | None,
    *,
    method: Method,
    pattern: Pattern | None = None,
    allocation: Allocation | None = None,
    windows: Sequence[str] | None = None,
    refit: bool = False,
    where: Where | None = None,
    on_window: Callable[[WindowRecord], None] | None = None,
) -> tuple[PyTree, PyTree]:
    r"""Prunes a trained network layer by layer, from a few batches of data.

    Goes through the program of ``apply`` once. At each window the inputs of its products are
    computed from what is pruned already, the kernels are pruned by `solve`, and the program goes
    on with what is left of them. Memory holds the activations of all batches at one place of the
    program, and the Gram matrices of one window. Equal layers share compiled programs.

    Args:
      apply: ``apply(params, batch)`` runs the network in inference mode; its result is not used.
      params: any pytree of arrays.
      batches: pytrees of arrays, of one shape: calibration data, such as 128 sequences.
      sparsity: fraction removed of every kernel, in [0, 1); `None` with an N:M pattern. Or
        ``{regular expression of names: fraction}``: the first that is found in a name counts, and
        a kernel with none stays dense.
      method: what a factory returns: `wanda()`, `sparsegpt()`, `alps()`, ...
      pattern: which weights go together, along the axes of a kernel ``[in, out]``, see `solve`.
      allocation: what is compared within a kernel, see `solve`.
      windows: what is pruned together, on inputs from before all of it: regular expressions, such
        as ``["attention", "mlp"]`` or ``[r"layers_(\d+)"]``. Neighbours whose names (paths;
        ``path[k]`` in a scan) the same one finds, with the same groups, form a window. If omitted
        each product is one, with those that have the same input.
      refit: whether kept weights are set to the best for their mask, see `refit`.
      where: ``where(path, leaf) -> bool``, which leaves are pruned; `default_where` if omitted.
      on_window: called with a `WindowRecord` after each window.

    Returns:
      The pruned parameters, exactly 0 where the mask is False; and the mask, bool, True = kept,
      `None` where a leaf is not prunable. Biases are not touched.

    Raises:
      ValueError: as `statistics` and `solve`; if a window or an entry of ``sparsity`` names
        nothing; if a pattern does not divide a kernel.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"a": {"w": jnp.ones((4, 4))}, "b": {"w": jnp.ones((4, 2))}}
      >>> apply = lambda params, x: jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]
      >>> batches = [jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[0.0, 1.0, 0.0, 1.0]])]
      >>> new, mask = jp.layerwise.prune(
      ...     apply, params, batches, 0.5, method=jp.layerwise.wanda()
      ... )
      >>> new["a"]["w"][:, 0].tolist(), jp.sparsity(mask)
      ([0.0, 0.0, 1.0, 1.0], 0.5)

    References:
      Frantar, Alistarh, SparseGPT, ICML 2023, section 3 (layers in order, on pruned inputs).
    """
    if not isinstance(method, Method):
        raise TypeError(
            f"method is what a factory such as jp.layerwise.sparsegpt() makes; got {method!r:.80}."
        )
    walk = begun(apply, params, batches, where)
    wanted = _sparsities(sparsity, walk.sites)
    groups = windows_of(walk.sites, windows)
    kept = [
        np.ones(np.shape(x), bool) if p else None
        for x, p in zip(walk.runner.leaves, walk.prunable, strict=True)
    ]
    kind, with_gram = _KINDS[method.needs], refit or method.needs == "gram"
    for number, window in enumerate(groups, start=1):
        began, errors = time.perf_counter(), dict[str, float | None]()
        walk.runner.advance(window[0].at)
        chosen = [site for site in window if site.name in wanted]
        found = totals_of(walk, chosen, kind) if chosen else []
        grams = found if kind == "gram" or not with_gram else totals_of(walk, chosen, "gram")
        for site, totals, whole in zip(chosen, found, grams, strict=True):
            kernel = kernel_of(walk.runner.leaves, site)
            new, mask = solve(
                method,
                kernel,
                _entering(totals),
                wanted[site.name],
                pattern=pattern,
                allocation=allocation,
                name=site.name,
            )
            if refit:
                new = refitted(kernel, mask, whole.gram, name=site.name)
            errors[site.name] = None
            if with_gram and on_window is not None:
                errors[site.name] = float(np.mean(error(kernel, new, whole.gram, name=site.name)))
            put(walk.runner.leaves, site, new)
            flags = kept[site.leaf]
            assert flags is not None
            flags.reshape(-1)[site.entries.reshape(-1)] = np.asarray(mask).reshape(-1)
        if on_window is not None:
            on_window(WindowRecord(errors, time.perf_counter() - began, len(groups), number))
    leaves = walk.runner.leaves
    mask = walk.treedef.unflatten(
        [
            None if k is None else beside(jnp.asarray(k), x)
            for k, x in zip(kept, leaves, strict=True)
        ]
    )
    return masks.apply_mask(walk.treedef.unflatten(leaves), mask), mask


def _entering(totals: Totals) -> Any:
    """What a method is given: a Gram matrix, or a diagonal."""
    return next(x for x in (totals.gram, totals.squares, totals.spread) if x is not None)


def _sparsities(
    sparsity: float | Mapping[str, float] | None, sites: Sequence[Site]
) -> dict[str, float | None]:
    """The sparsity of each product that is to be pruned."""
    if not isinstance(sparsity, Mapping):
        return dict.fromkeys((site.name for site in sites), sparsity)
    found: dict[str, float | None] = {}
    used: set[str] = set()
    for site in sites:
        for name, fraction in sparsity.items():
            if re.search(name, site.name):
                used.add(name)
                found.setdefault(site.name, fraction)
    if unused := [name for name in sparsity if name not in used]:
        raise ValueError(
            f"the sparsities of {unused} name none of the products {[s.name for s in sites]}."
        )
    return found
