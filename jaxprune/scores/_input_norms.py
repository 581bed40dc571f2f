"""Input norms: what each weight of a product or a convolution is multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxprune import _jaxpr, _tree
from jaxprune._jaxpr import Contribution
from jaxprune._tree import PyTree, Where


def input_norms(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    batches: Iterable[Any],
    *,
    where: Where | None = None,
) -> PyTree:
    """Computes the L2 norm of the inputs that each weight is multiplied with.

    ``norm(w)^2 = sum_n (dy_n / dw)^2``, over all outputs n of the matrix products and convolutions
    that use the weight w, for all examples, positions and batches. For a dense kernel [d_in, d_out]
    this is the norm of the columns of the input, [d_in, 1]. For a convolution it is the norm of the
    input under that tap of the kernel, with zeros in the padding and strides as they are.

    The products are found in the jaxpr of ``apply``, in whatever framework it is written: through
    `jit`, `remat`, custom derivatives, `cond` (the branch that is taken), loops, scanned layers,
    reshapes, transposes, slices and casts. A weight that is used several times adds up its uses if
    every one of them can be followed. Layers that are stacked in one array and scanned over have
    their own inputs each, and so their own norms. A constant factor between weight and product (a
    mask, a scale) counts with the input. So does one that is computed from the weight itself
    (``w / norm(w)``, a threshold), taken as a constant. What is added to a weight behind
    `stop_gradient` (a straight-through estimator) is ignored.

    A leaf is `None` where a product uses it in a way that cannot be followed, whatever its other
    uses are, because their sum would be too small: as a nonlinear function of the weight
    (``tanh(w)``), as a sum of the weight with itself (``w + w.T``, weight standardisation
    ``w - mean(w)``), as what a `cond` or a loop returns, or inside an operation that is not looked
    into (`ragged_dot`, `shard_map`, `pallas_call`). `wanda` then names it.

    Batches are streamed; the memory is that of a forward pass and of one total per weight. A
    product whose other operand does not depend on the batch does not count.

    Args:
      apply: ``apply(params, batch)`` runs the network in inference mode; its result is not used.
      params: any pytree of arrays.
      batches: iterable of pytrees of arrays. Compiled once per shape.
      where: ``where(path, leaf) -> bool``, which leaves are wanted; `default_where` if omitted.

    Returns:
      A tree like ``params`` of norms, float32 at least, of the rank of the weights and with size 1
      along axes on which the norm cannot depend; `None` where a leaf is not wanted, or no product
      uses it, or one does in a way that cannot be followed.

    Raises:
      ValueError: if there is no batch or no prunable leaf.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> apply = lambda params, x: jnp.tanh(x @ params["kernel"])
      >>> batches = [jnp.array([[3.0, 0.0]]), jnp.array([[4.0, 1.0]])]
      >>> jp.scores.input_norms(apply, params, batches)["kernel"].tolist()
      [[5.0], [1.0]]

    References:
      Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024,
      section 3.
    """
    wanted = jax.tree.leaves(_tree.prunable(params, where), is_leaf=_tree.is_absent)
    leaves, treedef = jax.tree.flatten(params, is_leaf=_tree.is_absent)
    weights = {i: x for i, x in enumerate(wanted) if not _tree.is_absent(x)}
    others = {i: x for i, x in enumerate(leaves) if i not in weights and hasattr(x, "dtype")}

    @jax.jit
    def squares(weights: dict[int, Any], others: dict[int, Any], batch: Any) -> dict[int, Any]:
        def run(weights: dict[int, Any], batch: Any) -> Any:
            known = weights | others
            return apply(treedef.unflatten([known.get(i, x) for i, x in enumerate(leaves)]), batch)

        return _jaxpr.accumulate(run, weights, batch, tap=_squares)

    totals: Any = None
    for batch in batches:
        new = squares(weights, others, batch)
        totals = new if totals is None else jax.tree.map(jnp.add, totals, new)
    if totals is None:
        raise ValueError(
            "`batches` is empty. Pass at least one batch (a used-up iterator has none)."
        )
    norms = jax.tree.map(jnp.sqrt, totals)
    return treedef.unflatten([norms.get(i) for i in range(len(leaves))])


def _squares(eqn: JaxprEqn, weight: int, other: jax.Array) -> Contribution:
    """The sum of squares of the values that each entry of a product's operand multiplies."""
    operand = _jaxpr.aval(eqn.invars[weight])
    squares = jnp.square(other.astype(_tree.wide_dtype(operand.dtype)))
    shape = operand.shape
    if eqn.primitive.name == "dot_general":
        return _of_dot(eqn.params["dimension_numbers"], weight, squares, shape)
    return _of_convolution(eqn, weight, squares, shape)


def _of_dot(numbers: Any, weight: int, squares: jax.Array, shape: tuple[int, ...]) -> Contribution:
    (contract, batch) = numbers
    ours = [*contract[weight], *batch[weight]]
    theirs = [*contract[1 - weight], *batch[1 - weight]]
    free = tuple(axis for axis in range(squares.ndim) if axis not in theirs)
    order = sorted(range(len(ours)), key=lambda k: ours[k])
    ranked = sorted(theirs)
    summed = jnp.sum(squares, axis=free).transpose([ranked.index(theirs[k]) for k in order])
    array = jax.lax.broadcast_in_dim(summed, shape, sorted(ours))
    return Contribution(array, frozenset(ours))


def _of_convolution(
    eqn: JaxprEqn, weight: int, squares: jax.Array, shape: tuple[int, ...]
) -> Contribution:
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    axis = numbers.rhs_spec[0]
    # Output channels of a group have the same inputs: one each is enough.
    shared = weight == 1 and eqn.params["batch_group_count"] == 1
    one_each = tuple(groups if shared and k == axis else n for k, n in enumerate(shape))
    highest = jax.lax.Precision.HIGHEST

    def outputs(w: jax.Array) -> jax.Array:
        params = eqn.params | {
            "precision": (highest, highest),
            "preferred_element_type": squares.dtype,
        }
        operands = (w, squares) if weight == 0 else (squares, w)
        return jax.lax.conv_general_dilated_p.bind(*operands, **params)

    # Linear in w: the transpose, at ones, sums over all outputs.
    w = jax.ShapeDtypeStruct(one_each, squares.dtype)
    ones = jnp.ones(jax.eval_shape(outputs, w).shape, squares.dtype)
    (array,) = jax.linear_transpose(outputs, w)(ones)
    array = jnp.repeat(array, shape[axis] // one_each[axis], axis=axis)
    varying = set(range(len(shape))) - ({axis} if shared and groups == 1 else set())
    return Contribution(array, frozenset(varying))
