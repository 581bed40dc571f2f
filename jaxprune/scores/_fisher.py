"""Fisher: second-order saliency with a diagonal Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def fisher(params: PyTree, squared_grads: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by the second-order change of the loss when it is removed.

    ``score = w^2 F / 2``, with the diagonal Fisher information F, the mean squared gradient of the
    examples. At a minimum of a log-likelihood F stands for the diagonal of the Hessian, and the
    score is the saliency of Optimal Brain Damage.

    Args:
      params: any pytree of arrays.
      squared_grads: F, a tree like ``params``; see `diagonal_fisher`.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``squared_grads`` is of another tree or lacks a
        prunable leaf or, outside `jit`, if a value is NaN or infinite or F is negative.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> loss = lambda params, x: jnp.sum(x @ params["kernel"])
      >>> params = {"kernel": jnp.array([[2.0], [-4.0]])}
      >>> batch = jnp.array([[1.0, 0.0], [3.0, 2.0]])
      >>> information = jp.scores.diagonal_fisher(loss, params, [batch])
      >>> jp.scores.fisher(params, information)["kernel"].tolist()  # F = [5, 2]
      [[10.0], [16.0]]

    References:
      LeCun et al., Optimal Brain Damage, NeurIPS 1990, equation 3; Theis et al., Faster Gaze
      Prediction with Dense Networks and Fisher Pruning, 2018, section 2.
    """
    for path, leaf in _tree.named_leaves(squared_grads):
        if _tree.is_floating(leaf) and _tree.known(jnp.any(leaf < 0)):
            raise ValueError(
                f"the squared gradients at {path!r} are negative somewhere. Pass the mean of "
                "squares (`diagonal_fisher`), not the gradients."
            )
    return _operands.map_products(
        lambda w, f: 0.5 * jnp.square(w) * f,
        params,
        squared_grads,
        what="squared gradients",
        where=where,
    )


def diagonal_fisher(
    loss: Callable[[PyTree, Any], jax.Array],
    params: PyTree,
    batches: Iterable[Any],
    *,
    per_example: bool = True,
) -> PyTree:
    """Computes the diagonal of the empirical Fisher information.

    ``F = mean_n (dL_n/dw)^2`` over the examples n of all batches, summed in float32 at least.
    Batches are streamed. One batch holds its per-example gradients at once, so that memory is
    about (batch size) x (parameters): pass small batches.

    Args:
      loss: ``loss(params, example) -> scalar``, where an example is a batch without its leading
        axis. With ``per_example=False``, ``loss(params, batch) -> scalar``, the mean over a batch.
      params: any pytree of arrays.
      batches: iterable of pytrees whose leaves all have the same leading axis [batch, ...].
        Compiled once per shape.
      per_example: whether gradients are squared example by example. If not, the gradient of each
        whole batch is squared and the mean is over batches: cheaper, but smaller by about the
        batch size where gradients of examples are independent.

    Returns:
      A tree like ``params``, float32 at least, `None` where a leaf is not floating.

    Raises:
      ValueError: if there is no batch, or the leading axes within a batch differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> loss = lambda params, x: params["w"] * x
      >>> batches = [jnp.array([1.0, 2.0]), jnp.array([4.0])]
      >>> jp.scores.diagonal_fisher(loss, {"w": jnp.array(1.0)}, batches)
      {'w': Array(7., dtype=float32)}

    References:
      Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018.
    """
    leaves, rebuild = _operands.floating_part(params)

    @jax.jit
    def add(floating: list[Any], totals: list[Any], batch: Any) -> list[Any]:
        gradient = jax.grad(lambda f, b: loss(rebuild(f), b))
        if per_example:
            grads = jax.vmap(gradient, in_axes=(None, 0))(floating, batch)
        else:
            grads = [g[None] for g in gradient(floating, batch)]
        squares = [jnp.sum(jnp.square(_operands.widened(g)[0]), axis=0) for g in grads]
        return [total + square for total, square in zip(totals, squares, strict=True)]

    totals = [jnp.zeros_like(_operands.widened(leaf)[0]) for leaf in leaves]
    count = 0
    for batch in batches:
        size = _batch_size(batch) if per_example else 1
        totals = add(leaves, totals, batch)
        count += size
    if not count:
        raise ValueError(
            "`batches` is empty. Pass at least one batch (a used-up iterator has none)."
        )
    return _operands.unflatten_floating(params, [total / count for total in totals])


def _batch_size(batch: Any) -> int:
    sizes = {path: np.shape(x)[:1] for path, x in _tree.named_leaves(batch)}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise ValueError(
            f"the leaves of a batch need one common leading axis; got {sizes}. With "
            "per_example=False a batch is passed to `loss` whole."
        )
    return next(iter(sizes.values()))[0]
