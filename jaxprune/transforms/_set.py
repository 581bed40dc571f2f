"""Sparse evolutionary training: drop what is small, grow at random."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxprune import _tree, masks
from jaxprune import scores as scores_
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _regrow
from jaxprune.transforms._moving import Move


def set_(
    inner: Any,
    sparsity: float | None,
    *,
    key: jax.Array,
    within: PyTree | None = None,
    total_steps: int,
    interval: int,
    drop_fraction: float = 0.3,
    end_step: int | None = None,
    by_sign: bool = False,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Sparse evolutionary training (SET): drops small weights, grows as many at random.

    Training starts from a random sparse network. After steps $I, 2I, \dots$ every leaf, of which
    $K_l$ weights are kept, drops the $\mathrm{round}(\zeta K_l)$ kept weights smallest in magnitude
    and grows as many, drawn uniformly from all positions not kept after the drop. A grown weight
    starts at zero without moments. Between moves it is `fixed_mask`.

    The counts are those of the first mask, by Erdős–Rényi unless ``allocation`` or ``within`` says
    otherwise. A mask put in by `set_mask` holds until the next move, which brings every leaf back
    to its count; to go on from another mask with its own counts, make the transformation anew
    ``within`` it.

    What was just dropped may be drawn again, as in the authors' code; then it is as if it had not
    been dropped (theirs restarts such a weight from zero). Their algorithm also drops a last time
    at the very end of training without growing; here the last move leaves at least one step of
    training after it, and the sparsity asked for holds.

    Mocanu et al. drop by sign: the fraction $\zeta$ of the positive weights smallest in value, and
    of the negative ones largest. ``by_sign=True`` does that, with exact zeros, which have no sign,
    dropped too, as in their code. The default is by magnitude alone, as in the comparisons of Evci
    et al. and all later ones: it drops the same number in each move, and differs only where one
    sign has smaller weights than the other.

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.
    The first update sets the weights
    outside the first mask to zero; to start exactly sparse, apply
    ``jp.apply_mask(params, get_mask(state))`` before the first step.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed, in [0, 1); `None` with an N:M pattern or ``within``.
      key: a JAX random key for the first mask and for growth; do not use it again.
      within: a concrete mask to start from in place of a random one, whose counts every leaf then
        keeps; with it pass ``sparsity=None`` and no allocation.
      total_steps: the length of training in steps.
      interval: I, steps between moves; one epoch in the original.
      drop_fraction: zeta in [0, 1], the fraction of the kept weights that a move drops; with 0 the
        mask stays as it is.
      end_step: the last step after which the mask may move; ``total_steps - 1`` if omitted.
      by_sign: whether positive and negative weights are dropped apart.
      scores: what is dropped first, as for `prune_at`; magnitude if omitted.
      allocation: how the total is spread over leaves, each counted alone; `jaxprune.masks.erk` if
        omitted, the original's Erdős–Rényi on dense layers.
      pattern: which weights go together; with `jaxprune.masks.nm` growth fills each group back to
        n.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer, ``key`` no random key, or a number of the wrong kind.
      ValueError: if the mask would never move, or the window ends after training; if a fraction
        lies outside its range; if ``by_sign`` meets ``scores`` or ``pattern``; if ``within`` meets
        ``sparsity`` or ``allocation``, is traced, or lacks the pattern. From ``init``: if nothing
        is prunable, mask, allocation or pattern do not fit the parameters, leaves are too small
        to drop a weight, or the state of ``inner`` mixes weights.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.ones((8, 8))}
      >>> tx = transforms.set_(
      ...     optax.sgd(0.1), 0.75, key=jax.random.key(0), total_steps=4, interval=1
      ... )
      >>> state = tx.init(params)
      >>> before = transforms.get_mask(state)["kernel"]
      >>> updates, state = tx.update({"kernel": jnp.ones((8, 8))}, state, params)
      >>> after = transforms.get_mask(state)["kernel"]
      >>> int(before.sum()), int(after.sum()), bool((before != after).any())
      (16, 16, True)

    References:
      Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science, Nature Communications 2018; Evci et al., Rigging the
      Lottery: Making All Tickets Winners, ICML 2020, and its code, for the rule by magnitude.
    """
    fraction = _regrow.check_drop_fraction(drop_fraction)
    total, every, end = _regrow.check_window(
        name="set_",
        total_steps=total_steps,
        interval=interval,
        end_step=end_step,
        default_end=lambda total: total,
    )
    end = min(end, total - 1)
    steps = range(every, end + 1, every)
    if not steps:
        raise _regrow.never_moves(name="set_", interval=every, end_step=end)
    if by_sign and (scores is not None or pattern is not None):
        raise ValueError(
            "by_sign drops single weights by their value: leave out scores= and pattern=, or "
            "by_sign."
        )
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(scores, where, **rules)

    def drop(now: Move) -> PyTree:
        return scoring(now.params, grads=now.grads, **now.extra_args)

    def drop_signs(now: Move) -> PyTree:
        return masks.drop_by_sign(
            _tree.prunable(now.params, where), fraction, within=now.mask, stacked=stacked
        )

    def grow(now: Move) -> PyTree:
        assert now.key is not None
        return scores_.random(now.key, now.params, where=where)

    return _regrow.regrowing(
        inner,
        sparsity,
        name="set_",
        key=key,
        within=within,
        steps=steps,
        fractions=(fraction,) * len(steps),
        drop=drop,
        grow=grow,
        **rules,
        where=where,
        drop_mask=drop_signs if by_sign else None,
    )
