"""STADE: magnitude times the standard deviation of the input."""

from __future__ import annotations

from jaxprune.layerwise._method import Method
from jaxprune.layerwise.methods import _wanda


def stade() -> Method:
    """Standard deviation as the score: ``|w_ij| std(x_i)``, weights as they were.

    For layers with a bias, which can carry the mean of what is removed. What `solve` takes as the
    Gram matrix is then that of the **centred** inputs (`centred`), or its diagonal, the variances;
    add `bias_correction` to the bias afterwards. It is Wanda's rule on centred inputs. For a layer
    without a bias the authors take Wanda's score.

    In `prune` it takes the variances of all layers.

    Returns:
      A method for `solve`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> kernel, variances = jnp.array([[1.0], [2.0]]), jnp.array([9.0, 1.0])
      >>> jp.layerwise.solve(stade(), kernel, variances, 0.5)[1].tolist()
      [[True], [False]]

    References:
      STADE: Standard Deviation as a Pruning Metric, 2025 (arXiv:2503.22451).
    """
    return _wanda.wanda()._replace(name="stade", needs="variances")
