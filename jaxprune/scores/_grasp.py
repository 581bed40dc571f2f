"""GraSP: gradient signal preservation."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree, Where
from jaxprune.scores import _operands


def grasp(params: PyTree, hessian_gradient: PyTree, *, where: Where | None = None) -> PyTree:
    """Scores every weight by the gradient norm that its removal would cost.

    ``score = w (H g)``, with the gradient g and the Hessian H of the loss. The paper's
    ``S = -w (H g)`` is the change of the squared gradient norm (up to a factor of two) when the
    weight is removed, and it removes the *largest* S first; ours is -S, so that higher stays.
    Scores are negative where a removal makes the gradient larger: these weights go first.

    Args:
      params: any pytree of arrays.
      hessian_gradient: ``H g``, a tree like ``params``; see `hessian_gradient_product`.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      A tree like ``params`` of arrays of the weights' shapes, float32 at least, `None` where a
      leaf is not prunable.

    Raises:
      ValueError: if no leaf is prunable, if ``hessian_gradient`` is of another tree or lacks a
        prunable leaf or, outside `jit`, if a value is NaN or infinite.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> params = {"kernel": jnp.array([[1.0, -2.0]])}
      >>> loss = lambda params: jnp.sum(params["kernel"] ** 3) / 6  # g = w^2 / 2, H = diag(w)
      >>> jp.scores.grasp(params, jp.scores.hessian_gradient_product(loss, params))
      {'kernel': Array([[0.5, 8. ]], dtype=float32)}

    References:
      Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
      equation 8 and algorithm 1.
    """
    return _operands.map_products(
        lambda w, hg: w * hg, params, hessian_gradient, what="Hessian-gradient product", where=where
    )


def hessian_gradient_product(
    loss: Callable[[PyTree], jax.Array], params: PyTree, *, where: Where | None = None
) -> PyTree:
    """Computes the product of the Hessian and the gradient of a loss, ``H g``.

    ``d/dt grad L(w + t g)`` at ``t = 0`` with ``g = grad L(w)``: forward-over-reverse, at the cost
    of a few gradients; the Hessian itself is never formed.

    Gradient and Hessian are over the prunable weights; biases and norms are constants. So do the
    authors, whose code differentiates by the weights of linear and convolutional layers alone. For
    all parameters pass ``where=lambda path, leaf: jnp.issubdtype(leaf.dtype, jnp.floating)``.

    Args:
      loss: ``loss(params) -> scalar``, with the batch closed over. The paper uses a batch with ten
        examples of each class and divides the logits by a temperature of 200.
      params: any pytree of arrays.
      where: ``where(path, leaf) -> bool``, which leaves gradient and Hessian are over;
        `default_where` if omitted.

    Returns:
      A tree like ``params``, `None` where a leaf is not selected.

    Raises:
      ValueError: if no leaf is selected.
      TypeError: if ``where`` selects a leaf that is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> loss = lambda params: jnp.sum(params["kernel"] ** 2)  # g = 2 w, H = 2
      >>> jp.scores.hessian_gradient_product(loss, {"kernel": jnp.array([[1.0, -2.0]])})
      {'kernel': Array([[ 4., -8.]], dtype=float32)}

    References:
      Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation, 1994; the authors'
      code of GraSP, github.com/alecwangcq/GraSP, pruner/GraSP.py.
    """
    selected = _tree.prunable(params, where)

    def whole(weights: PyTree) -> PyTree:
        return _tree.map_partial(lambda w, p: p if w is None else w, weights, params)

    gradient = jax.grad(lambda weights: loss(whole(weights)))
    _, product = jax.jvp(gradient, (selected,), (gradient(selected),))
    return product
