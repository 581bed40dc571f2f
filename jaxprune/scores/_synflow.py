"""SynFlow: iterative synaptic flow, without any data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def synflow(
    apply: Callable[..., Any],
    params: PyTree,
    *example_inputs: Any,
    where: Where | None = None,
) -> PyTree:
    """Scores every weight by the synaptic flow through it.

    ``R = sum(apply(|w|, 1))`` over all outputs, ``score = |w| dR/d|w|``. No data is used: of the
    example inputs only the shapes matter, and floating ones are replaced by ones. This is one step.
    The published method repeats it, with scores of the pruned weights each time, a hundred times
    (`jaxprune.masks.prune_iteratively`); a single step to a high sparsity collapses layers.

    The absolute value is taken of every floating leaf, biases and norm scales included. Pass an
    ``apply`` in inference mode: batch norm with batch statistics normalises the flow away, and
    running statistics are no parameters here. Flow grows with the product of the layers' norms;
    values are float32 at least, but very deep or wide networks need float64
    (``jax.config.update("jax_enable_x64", True)`` and float64 parameters).

    Args:
      apply: ``apply(params, *inputs)`` gives the outputs, any pytree of arrays.
      params: any pytree of arrays.
      *example_inputs: pytrees of arrays or of `jax.ShapeDtypeStruct`. Leaves that are not floating
        (token ids, flags) are passed as they are, abstract ones as zeros.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``apply`` returns no floating array or, outside `jit`,
        if a weight is NaN or infinite or the flow overflows.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel_0": jnp.array([[1.0, -2.0]]), "kernel_1": jnp.array([[3.0], [1.0]])}
      >>> apply = lambda params, x: x @ params["kernel_0"] @ params["kernel_1"]
      >>> jp.scores.synflow(apply, params, jnp.zeros((1, 1)))["kernel_0"]
      Array([[3., 2.]], dtype=float32)

    References:
      Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic
      Flow, NeurIPS 2020, algorithm 1.
    """
    weights = _tree.prunable(params, where)
    _tree.check_finite(params)
    inputs = jax.tree.map(_ones, example_inputs)
    leaves, rebuild = _operands.floating_part(params)
    sizes = [jnp.abs(_operands.widened(leaf)[0]) for leaf in leaves]

    def flow(floating: list[jax.Array]) -> jax.Array:
        outputs = jax.tree.leaves(apply(rebuild(floating), *inputs))
        outputs = [_operands.widened(y)[0] for y in outputs if _tree.is_floating(y)]
        if not outputs:
            raise ValueError("`apply` returns no floating array. Let it return the logits.")
        dtype = _tree.wide_dtype(*(y.dtype for y in outputs))
        return sum((jnp.sum(y).astype(dtype) for y in outputs), jnp.zeros((), dtype))

    slopes = jax.grad(flow)(sizes)
    products = [size * slope for size, slope in zip(sizes, slopes, strict=True)]
    everywhere = _operands.unflatten_floating(params, products)
    scores = _tree.map_partial(lambda w, s: None if w is None else s, weights, everywhere)
    _check_overflow(scores)
    return scores


def _ones(x: Any) -> Any:
    abstract = isinstance(x, jax.ShapeDtypeStruct)
    if _tree.is_floating(x):
        return jnp.ones(x.shape, _tree.wide_dtype(x.dtype))
    return jnp.zeros(x.shape, x.dtype) if abstract else x


def _check_overflow(scores: PyTree) -> None:
    for path, leaf in _tree.named_leaves(scores):
        if _tree.known(~jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"the synaptic flow overflows {np.dtype(leaf.dtype)} at {path!r}. Use float64 "
                "parameters (after jax.config.update('jax_enable_x64', True)), and an `apply` in "
                "inference mode."
            )
