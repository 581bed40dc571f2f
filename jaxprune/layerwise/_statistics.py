"""Statistics: what enters every product and convolution of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._checks import check_choice
from jaxprune._tree import PyTree, Where
from jaxprune.layerwise._entering import Kind, Totals
from jaxprune.layerwise._walkthrough import begun, totals_of
from jaxprune.layerwise._windows import windows_of


class Statistics(NamedTuple):
    """What enters one product, over all rows: examples, positions, tokens.

    Of a kernel ``[..., in, out]``, whose leading axes are products side by side.

    Attributes:
      rows: how many rows there were.
      squares: their sums of squares ``[..., in]``; `None` unless ``kind="norms"``.
      mean: their means ``[..., in]``; `None` unless ``kind="moments"``.
      variance: mean squared distances from the mean ``[..., in]``; as ``mean``.
      gram: sums of products ``[..., in, in]``; `None` unless ``kind="gram"``.
    """

    rows: int
    squares: jax.Array | None = None
    mean: jax.Array | None = None
    variance: jax.Array | None = None
    gram: jax.Array | None = None


def statistics(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    kind: Kind = "gram",
    where: Where | None = None,
) -> dict[str, Statistics]:
    """Computes what enters every product and convolution with a prunable weight.

    The products are found in the jaxpr of ``apply``, whatever framework it is written in. It is
    evaluated product by product, for all batches, so that memory holds the activations between two
    products, and equal layers share one compiled program. Layers of a scan are written out.

    A convolution is a product with the part of the input under its kernel, in the order channels,
    then window; one of several groups has one such product each. Embeddings have no inputs.

    Args:
      apply: ``apply(params, batch)`` runs the network in inference mode; its result is not used.
      params: any pytree of arrays.
      batches: pytrees of arrays, of one shape. All are held at once.
      kind: "norms": sums of squares; "moments": mean and variance; "gram": Gram matrices, of which
        there must be room for all. `prune` needs room for those of one window.
      where: ``where(path, leaf) -> bool``, which leaves; `default_where` if omitted.

    Returns:
      For each leaf, by its path, the statistics in float32 at least. If several products use parts
      of a leaf, as the layers of a scan do, there is one entry each: ``"blocks/w[0]"``, in program
      order.

    Raises:
      ValueError: if there is no batch, batches have other shapes, no leaf is prunable, a prunable
        leaf is used twice (tied, or in every round of a loop), never, or in a way that cannot be
        followed; if an input is NaN or infinite.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"a": {"w": jnp.eye(2)}, "b": {"w": jnp.ones((2, 1))}}
      >>> apply = lambda params, x: jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]
      >>> found = jp.layerwise.statistics(apply, params, [jnp.array([[1.0, 2.0], [0.0, 1.0]])])
      >>> found["a/w"].rows, found["a/w"].gram.tolist()
      (2, [[1.0, 2.0], [2.0, 5.0]])
    """
    check_choice("kind", kind, ("norms", "moments", "gram"))
    walk = begun(apply, params, batches, where)
    found: dict[str, Statistics] = {}
    for window in windows_of(walk.sites, None):
        for site, totals in zip(window, totals_of(walk, window, kind), strict=True):
            found[site.name] = _of(totals)
        walk.runner.advance(window[0].at)
    return {site.name: found[site.name] for site in walk.sites}


def _of(totals: Totals) -> Statistics:
    variance = None
    if totals.spread is not None:
        variance = totals.spread / jnp.asarray(totals.count, totals.spread.dtype)
    return Statistics(int(totals.count), totals.squares, totals.mean, variance, totals.gram)
