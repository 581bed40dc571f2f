"""Gradual magnitude pruning (GMP) whose pruned weights may recover."""

from __future__ import annotations

from jaxprune._layers import Stacked
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.parametrizations._gradual import gradual
from jaxprune.parametrizations._parametrization import Parametrization


def gmp_recover(
    sparsity: float,
    *,
    total_steps: int,
    interval: int,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Gradual magnitude pruning (GMP) over kept dense weights, so that pruned ones may return.

    $$\hat w = m \odot w, \qquad
      \frac{\partial L}{\partial w} = m \odot \frac{\partial L}{\partial \hat w}.$$

    At step $jI$ the mask is made anew from **all** stored weights (it is not a subset of the one
    before), at the target of `jaxprune.schedules.gmp_targets`: with
    $n = \lfloor T/I \rfloor - 1$,

    $$s_j = S - S \left(1 - \frac{j}{n}\right)^3, \qquad j = 1 \dots n,$$

    and before step I the network is dense. Pruned weights get no gradient, only what the optimizer
    does without one: weight decay shrinks them, momentum moves them on for a while. So few return;
    a kept weight has to shrink below one that was pruned. The code of Zimmer et al., whose
    ``allow_recovering`` this is, also zeroes the momentum of pruned weights at each pruning, which
    is the optimizer's to do; the recipe `jaxprune.methods.gmp_recover` does it.

    ``trainable`` is the dense parameters. ``finalize`` applies the last mask; called before the
    last target is reached, one made at the last target, so that the result always has the sparsity
    asked for. ``begin_step``, ``end_step`` and ``initial`` change the targets as they do those of
    `jaxprune.schedules.gmp_targets`. Where pruned weights need not return,
    `jaxprune.transforms.gmp` does without the dense copy.

    Args:
      sparsity: S in [0, 1), the fraction removed in the end.
      total_steps: T, the length of training in steps.
      interval: I, steps between prunings, at most T / 2.
      begin_step: t_0, steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: S_0 in [0, S), the fraction removed from step ``begin_step`` on.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      scores: ``params -> scores``, higher stays; magnitude if omitted.
      allocation: how the total is spread over the leaves; `jaxprune.masks.globally()` if omitted.
      pattern: which weights go together, of those that do not fix the sparsity; unstructured if
        omitted.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization; its penalty is 0, its state a `GradualState`.

    Raises:
      ValueError: if the sparsity or a step count is out of range, or the interval so long that
        nothing is ever pruned. From ``init``: if a target, the allocation or the pattern does not
        fit the parameters.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.gmp_recover(0.5, total_steps=4, interval=2)
      >>> trainable, state = p.init({"kernel": jnp.array([[1.0, -3.0]])})
      >>> for _ in range(3):
      ...     params, state = p.apply(trainable, state)
      >>> params["kernel"], trainable["kernel"]
      (Array([[ 0., -3.]], dtype=float32), Array([[ 1., -3.]], dtype=float32))

    References:
      Zhu & Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
      Compression, 2017; Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love
      Retraining, ICLR 2023.
    """
    return gradual(
        "gmp_recover",
        sparsity,
        total_steps=total_steps,
        interval=interval,
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
        refresh=None,
        at_targets=True,
        backward="masked",
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
