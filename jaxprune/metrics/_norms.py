"""How much of the weights' norm a prune takes away."""

import jax
import jax.numpy as jnp

from jaxprune import _tree
from jaxprune._tree import PyTree


def relative_norm_drop(params: PyTree, pruned_params: PyTree) -> jax.Array:
    """Returns the relative drop in L2 norm caused by pruning.

    ``||theta - theta_p|| / ||theta||``, which for a prune, where each entry is kept or zeroed,
    equals ``sqrt(||theta||^2 - ||theta_p||^2) / ||theta||`` without its cancellation. Norms run
    over all floating leaves of the trees passed (pass subtrees for another choice) and are
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
    _tree.check_matches(pruned_params, params, what="pruned tree")

    def difference(before: jax.Array, after: jax.Array) -> jax.Array | None:
        if not _tree.is_floating(before):
            return None
        wide = _tree.wide_dtype(before.dtype)
        return jnp.asarray(before).astype(wide) - jnp.asarray(after).astype(wide)

    lost = _tree.squared_norm(jax.tree.map(difference, params, pruned_params))
    whole = _tree.squared_norm(params)
    return jnp.sqrt(lost / jnp.where(whole > 0, whole, 1))
