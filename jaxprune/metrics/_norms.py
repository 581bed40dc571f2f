"""How much of the weights' norm a prune takes away."""

from __future__ import annotations

import jax

from jaxprune import _tree
from jaxprune._tree import PyTree


def relative_norm_drop(params: PyTree, pruned_params: PyTree) -> jax.Array:
    """Returns the relative drop in L2 norm caused by pruning.

    ``||theta - theta_p|| / ||theta||``, which for a prune, where each entry is kept or zeroed,
    equals ``sqrt(||theta||^2 - ||theta_p||^2) / ||theta||`` without its cancellation. Norms run
    over all floating and complex leaves of the trees passed (pass subtrees for another choice),
    accumulated in float32 at least.

    Args:
      params: parameters before the prune.
      pruned_params: the same parameters after it.

    Returns:
      A scalar in [0, 1]; 0 where ``params`` is all zero.

    Raises:
      ValueError: if the trees differ; the message names the path.

    Example:
      >>> import jax.numpy as jnp
      >>> float(relative_norm_drop({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 4.0])}))
      0.6000...

    References:
      Zimmer et al., How I Learned to Stop Worrying and Love Retraining, ICLR 2023, section 3.
    """
    return _tree.relative_distance(params, pruned_params)
