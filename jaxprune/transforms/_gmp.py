"""Gradual magnitude pruning."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune import masks, schedules
from jaxprune._checks import check_fraction
from jaxprune._scoring import Scores
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms._prune_at import pruning


def gmp(
    inner: Any,
    sparsity: float | None,
    *,
    total_steps: int,
    interval: int,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    within: PyTree | None = None,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradual magnitude pruning (GMP): prunes during training, fast first, then slower.

    After steps $t_0 + I, t_0 + 2I, \dots, t_0 + nI$ the network is pruned to
    $s_j = S + (S_0 - S)(1 - j/n)^3$, each mask inside the one before.

    By default the times are those of Zimmer et al.: pruning begins at once, $n = \lfloor T / I
    \rfloor - 1$, and one threshold holds for the whole network. They suit training from scratch,
    with an interval of one or a few epochs. Zhu & Gupta's own: ``begin_step``, ``end_step`` and
    ``initial``, an interval of 100 to 1000 steps, and ``allocation=jp.masks.uniform()``, every
    layer alike. Weights that a pruning took do not come back here; for that, their dense values
    must be kept: `jaxprune.parametrizations.gmp_recover`.

    With ``pattern=jp.masks.nm(n, m, ...)`` and ``sparsity=None`` every group of m starts whole and
    loses weights as training goes, by the same cubic: at the j-th pruning it keeps
    $m - \mathrm{round}((m - n)(1 - (1 - j/n_p)^3))$ of them, n at the last of the $n_p$ prunings
    (Kao et al. call it structure decay).

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: S in [0, 1), the fraction removed in the end; `None` with an N:M pattern, which is
        then reached step by step.
      total_steps: T, the length of training in steps.
      interval: I, steps between prunings.
      begin_step: t_0, steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: S_0 in [0, S), the fraction removed at ``begin_step``.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      within: as for `prune_at`.
      scores: as for `prune_at`.
      allocation: as for `prune_at`.
      pattern: as for `prune_at`.
      where: as for `prune_at`.
      stacked: as for `prune_at`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: as `prune_at`.
      ValueError: as `prune_at`; if the interval or window leaves no pruning, or ends after
        training.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4)}
      >>> tx = transforms.gmp(optax.sgd(0.1), 0.5, total_steps=6, interval=2)
      >>> state = tx.init(params)
      >>> for _ in range(6):
      ...     updates, state = tx.update({"kernel": jnp.zeros((4, 4))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(int((params["kernel"] == 0).sum()), end=" ")
      0 7 7 8 8 8

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017; Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love
      Retraining, ICLR 2023, and its code, for the times of pruning; Kao et al., Training Recipe for
      N:M Structured Sparsity with Decaying Pruning Mask, 2022.
    """
    shares = None
    times: dict[str, Any] = {"total_steps": total_steps, "interval": interval}
    times |= {"begin_step": begin_step, "end_step": end_step, "power": power}
    if sparsity is not None:
        final = check_fraction("sparsity", sparsity)
        steps, targets = schedules.gmp_targets(final, **times, initial=initial)
    else:
        if pattern is None or allocation is not None or initial:
            raise TypeError(
                "gmp needs a sparsity. Without one it takes an N:M pattern, which fixes it, and "
                "neither allocation nor initial."
            )
        # The cubic of a sparsity of 1/2 is half that of the whole.
        steps, halves = schedules.gmp_targets(0.5, **times)
        shares, targets = [2 * half for half in halves], (None,) * len(steps)
    return pruning(
        inner,
        steps,
        targets,
        name="gmp",
        total_steps=total_steps,
        within=within,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
        shares=shares,
    )
