"""Global sparse momentum."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import masks
from jaxprune import scores as scores_
from jaxprune._scoring import Scores, Scoring, every_floating
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _mask_state, _wrap


def gsm(
    sparsity: Any,
    *,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Global sparse momentum SGD (GSM): only the most important weights follow their gradient.

    With weights $w$ and gradient $g$, in every step

    $$g_i \leftarrow g_i \;\text{ if } |w_i g_i| \text{ is among the } n - \mathrm{round}(S n)
      \text{ largest, else } 0.$$

    The other weights only decay, and drift with what momentum they have left, so that in the end
    they are so close to zero that removing them changes next to nothing. Nothing is zero during
    training; sparse weights come from a final prune::

        tx = optax.chain(gsm(0.9), optax.add_decayed_weights(1e-4), optax.sgd(lr, 0.98))
        tx = one_shot(tx, 0.9, step=total_steps)

    Weight decay and a momentum near 1 are part of the method: without decay nothing shrinks. Ding
    et al. start from a trained network, with momentum 0.98 and decay 1e-4.

    Position: first in a chain, before weight decay, clipping and momentum, so that these act on
    all weights. It edits gradients and keeps no weight at zero, so it does not wrap. Under a
    `MultiSteps` outside, gradients are the accumulated ones, and the final prune counts steps that
    happen: one in k calls.

    Which leaves count: by default every floating one, biases and norm scales included, as in the
    code of Zimmer et al.; the figures that methods are compared by come from it. Ding et al. rank
    tensors of rank 2 and 4 and leave the gradients of all others alone: pass
    ``where=lambda path, leaf: leaf.ndim in (2, 4)``, or ``where=jaxprune.default_where``. Both
    codes differ from this one in counts: they truncate ``(1 - S) n``, the first takes n without
    biases and norm scales although it ranks them, the second keeps all that tie with the smallest
    kept score. Here it is exact for the leaves that are ranked, ties as in `jaxprune.masks.make`.

    A NaN or an infinity among the gradients has the largest score and is let through, for
    `optax.apply_if_finite` to see.

    Args:
      sparsity: S in [0, 1), the fraction of gradient entries set to zero; `None` with an N:M
        pattern.
      scores: importance, higher stays: a function of ``params`` that by name also gets ``grads``
        and extra arguments of ``update``, if its signature has them; `jaxprune.scores.taylor`,
        which is ``|w g|``, if omitted. Leaves without a score keep their gradient.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which entries go together; single ones if omitted. Biases have no groups: pass
        ``where=jaxprune.default_where`` with it, or a pattern that is `None` for them.
      where: ``where(path, leaf) -> bool``, which leaves are ranked and masked, handed on to
        ``scores`` if its signature has it; every floating leaf if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. It has no state; its ``update`` needs ``params`` and takes extra
      arguments. Under `optax.inject_hyperparams` name ``sparsity`` in ``static_args``, or it
      means the float32 that is made of it.

    Raises:
      TypeError: if ``sparsity`` is no number, or ``scores`` no function.
      ValueError: if ``sparsity`` lies outside [0, 1). From ``init``: if no leaf is selected, or
        allocation or pattern do not fit. From ``update``: if ``params`` is missing, a selected leaf
        has no gradient or, outside `jit`, the default scores meet a NaN or an infinity.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[4.0, -1.0]]), "bias": jnp.array([0.5])}
      >>> grads = {"kernel": jnp.array([[0.5, 1.0]]), "bias": jnp.array([3.0])}
      >>> tx = optax.chain(transforms.gsm(1 / 3), optax.sgd(1.0, momentum=0.9))
      >>> updates, _ = tx.update(grads, tx.init(params), params)  # |w g| is 2, 1 and 1.5
      >>> updates
      {'bias': Array([-3.], dtype=float32), 'kernel': Array([[-0.5, -0. ]], dtype=float32)}

    References:
      Ding et al., Global Sparse Momentum SGD for Pruning Very Deep Neural Networks, NeurIPS 2019;
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023, and
      its code, for the default of ``where``.
    """
    if sparsity is not None or pattern is None:
        masks.count(sparsity, 1)  # for its checks
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    chosen = scores_.taylor if scores is None else scores
    scoring = Scoring(chosen, where, default_where=every_floating, **rules)

    def init(params: PyTree) -> optax.EmptyState:
        if not _mask_state.is_placeholder(params):
            masks.check_fit(scoring.shapes(params), [sparsity], **rules)
        return optax.EmptyState()

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        # Extra arguments go to the scores that ask for them; `optax.chain` hands the same ones on
        # to the other members itself.
        _wrap.check_params(params, updates, name="gsm")
        scored = scoring(params, grads=updates, **extra_args)
        # Not `make`: a leaf that gets no gradient in one step is no collapse.
        mask, _ = masks.make_with_info(scored, sparsity, **rules)
        return _wrap.masked(mask, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
