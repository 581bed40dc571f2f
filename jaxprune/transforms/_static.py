"""Static sparse training: a random mask that stays."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxprune import masks
from jaxprune import scores as scores_
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _moving
from jaxprune.transforms._first_mask import drawn_mask, split_key


def static(
    inner: Any,
    sparsity: float | None,
    *,
    key: jax.Array | None = None,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Static sparse training: a random sparse network from the start, whose mask never moves.

    The baseline of `set_` and `rigl`: their first mask, kept. ``init`` draws it by
    `jaxprune.scores.random`, or makes it from other ``scores`` of the first weights. From then on
    it is `fixed_mask`, which is also the one to use for scores that need data, as
    `jaxprune.scores.snip`: ``init`` sees none.

    Position: outermost, around the whole chain, as `fixed_mask`. The first update sets the weights
    outside the mask to zero; to start exactly sparse, apply
    ``jp.apply_mask(params, get_mask(state))`` before the first step.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed, in [0, 1); `None` with an N:M pattern.
      key: a JAX random key for the mask; do not use it again. May be omitted with ``scores``.
      scores: function from ``params``, and by name ``key`` if it asks for one, to scores of which
        the highest stay; random by ``key`` if omitted.
      allocation: how the total is spread over leaves; `jaxprune.masks.erk` if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer, ``key`` no random key, or ``scores`` no function.
      ValueError: if the sparsity lies outside [0, 1), or ``scores`` ask for more. From
        ``init``: if nothing is prunable, allocation or pattern do not fit the parameters, a leaf
        loses its last weight, or the state of ``inner`` mixes weights.

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
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(_random if scores is None else scores, where, **rules)
    asked = sorted(scoring.required - {"where", "key"})
    if asked:
        raise ValueError(
            f"the scores of static ask for {asked[0]!r}, but init knows the parameters alone. Make "
            "the mask beforehand, and use fixed_mask."
        )
    given: dict[str, Any] = {}
    if key is not None or "key" in scoring.required:
        given["key"], _ = split_key(key, name="static")

    def score(params: PyTree) -> PyTree:
        return scoring(params, **given)

    return _moving.moving(
        inner,
        name="static",
        steps=(),
        first_mask=drawn_mask(score, sparsity, **rules),
        move=lambda now: now.mask,
    )


def _random(params: PyTree, key: jax.Array, where: Where | None = None) -> PyTree:
    return scores_.random(key, params, where=where)
