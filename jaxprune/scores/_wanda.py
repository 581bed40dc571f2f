"""Wanda: weights and activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def wanda(params: PyTree, input_norms: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by its magnitude times the norm of the input it multiplies.

    ``score_ij = |w_ij| ||x_i||_2``, the norm over all calibration examples and positions. The
    paper compares scores within each output (row by row); a global or layer-wise comparison is the
    choice of the allocation.

    Args:
      params: any pytree of arrays.
      input_norms: a tree like ``params`` of arrays that broadcast, with the same rank, to the
        weights, such as [d_in, 1] for a dense kernel [d_in, d_out]; `None` where unknown. See
        `jaxprune.scores.input_norms`.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if the trees differ, if a prunable leaf has no norms or
        norms that do not broadcast or, outside `jit`, if a value is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[-2.0, 1.0], [1.0, 1.0]])}
      >>> x = jnp.array([[3.0, 1.0], [4.0, 1.0]])
      >>> norms = jp.scores.input_norms(lambda p, x: x @ p["kernel"], params, [x])
      >>> jp.scores.wanda(params, norms)["kernel"].round(2).tolist()
      [[10.0, 5.0], [1.4..., 1.4...]]

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024,
      equation 1.
    """
    pairs = _operands.paired(
        params,
        input_norms,
        what="input norms",
        repair="No matrix product or convolution was seen to use it, or one uses it in a way that "
        "cannot be followed (`input_norms` says which): pass its norms yourself, or let `where` "
        "leave it out.",
        where=where,
    )
    return _operands.unflatten_like(params, where, [_score(*pair) for pair in pairs])


def _score(path: str, weight: Any, norm: Any) -> jax.Array:
    ours, theirs = np.shape(norm), np.shape(weight)
    fits = len(ours) == len(theirs) and all(a in (1, b) for a, b in zip(ours, theirs, strict=True))
    if not fits:
        raise ValueError(
            f"the input norms at {path!r} have shape {ours}, which does not broadcast to the "
            f"weight's {theirs}. Keep the rank, with 1 along axes that share a norm: [d_in, 1]."
        )
    w, n = _operands.widened(weight, norm)
    return jnp.abs(w) * n
