"""Static sparse training: a random mask that stays."""

from typing import Any

import jax
import optax

from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _moving
from jaxprune.transforms._regrow import random_mask, split_key


def static(
    inner: Any,
    sparsity: float | None,
    *,
    key: jax.Array,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Static sparse training: a random sparse network from the start, whose mask never moves.

    The baseline of `set_` and `rigl`: their first mask, kept. ``init`` draws it by
    `jaxprune.scores.random`. From then on it is `fixed_mask`.

    Position: outermost, around the whole chain, as `fixed_mask`. The first update sets the weights
    outside the mask to zero; to start exactly sparse, apply
    ``jp.apply_mask(params, get_mask(state))`` before the first step.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed, in (0, 1); `None` with an N:M pattern.
      key: a JAX random key for the mask; do not use it again.
      allocation: how the total is spread over leaves; `jaxprune.masks.erk` if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer, or ``key`` no random key.
      ValueError: if the sparsity lies outside (0, 1). From ``init``: if nothing is prunable,
        allocation or pattern do not fit the parameters, a leaf loses its last weight, or the state
        of ``inner`` mixes weights.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.ones((8, 8))}
      >>> tx = transforms.static(optax.sgd(0.1), 0.75, key=jax.random.key(0))
      >>> state = tx.init(params)
      >>> updates, state = tx.update({"kernel": jnp.ones((8, 8))}, state, params)
      >>> int((optax.apply_updates(params, updates)["kernel"] == 0).sum())
      48

    References:
      Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science, Nature Communications 2018 (fixed random sparse
      networks as baseline); Evci et al., Rigging the Lottery: Making All Tickets Winners, ICML 2020
      ("Static").
    """
    first, _ = split_key(key, name="static")
    return _moving.moving(
        inner,
        name="static",
        steps=(),
        first_mask=random_mask(
            first, sparsity, allocation=allocation, pattern=pattern, where=where
        ),
        move=lambda now: now.mask,
    )
