"""Dynamic pruning with feedback (DPF)."""

from __future__ import annotations

from jaxprune._layers import Stacked
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.parametrizations._gradual import gradual
from jaxprune.parametrizations._parametrization import Parametrization


def dpf(
    sparsity: float,
    *,
    total_steps: int,
    interval: int,
    begin_step: int = 0,
    end_step: int | None = None,
    initial: float = 0.0,
    power: float = 3.0,
    refresh: int = 16,
    at_targets: bool = True,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Dynamic pruning with feedback (DPF): the gradient of the pruned network moves all weights.

    $$\hat w_t = m_t \odot w_t, \qquad w_{t+1} = w_t - \eta_t\, \nabla L(\hat w_t),$$

    so the error $\hat w_t - w_t$ of pruning is not lost but fed back: pruned weights keep their
    values, are trained on, and return when they have grown enough. The mask keeps the largest of
    the dense weights at the current target, of gradual magnitude pruning
    (`jaxprune.schedules.gmp_targets`): with $n = \lfloor T/I \rfloor - 1$,

    $$s_j = S - S \left(1 - \frac{j}{n}\right)^3 \quad\text{from step } jI \text{ on},
      \qquad j = 1 \dots n,$$

    and before step I the network is dense. It is made anew whenever the target moves and, in
    between, whenever the number of steps done is a multiple of ``refresh``. That is the code of
    Zimmer et al., the default because the sparsity then is the target's from its first step on;
    the original, ``at_targets=False``, waits for the next multiple.

    ``trainable`` is the dense parameters. ``finalize`` applies the mask that the next forward pass
    would have: the last one, or a new one where the step count asks for it. Called before the last
    target is reached, it makes a mask at the last target, so that the result always has the
    sparsity asked for. ``begin_step``, ``end_step`` and ``initial`` change the targets as they do
    those of `jaxprune.schedules.gmp_targets`. With ``begin_step`` and ``end_step`` the same the
    sparsity is constant from there on, its mask made anew every ``refresh`` steps to the end.

    Args:
      sparsity: S in [0, 1), the fraction removed in the end.
      total_steps: T, the length of training in steps.
      interval: I, steps between targets, at most T / 2.
      begin_step: t_0, steps before the schedule begins.
      end_step: the step by which the schedule ends; by default the last interval only trains.
      initial: S_0 in [0, S), the fraction removed from step ``begin_step`` on.
      power: exponent of the schedule in place of the cubic's 3, above 0; 1 for a straight line.
      refresh: steps between masks at one target.
      at_targets: whether a target that moves brings a mask at once, between two refreshes.
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
      >>> p = parametrizations.dpf(0.5, total_steps=4, interval=2)
      >>> trainable, state = p.init({"kernel": jnp.array([[1.0, -3.0]])})
      >>> for _ in range(4):
      ...     params, state = p.apply(trainable, state)
      ...     print(params["kernel"])
      [[ 1. -3.]]
      [[ 1. -3.]]
      [[ 0. -3.]]
      [[ 0. -3.]]

    References:
      Lin, Stich, Barba, Dmitriev, Jaggi, Dynamic Model Pruning with Feedback, ICLR 2020; Zimmer,
      Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    return gradual(
        "dpf",
        sparsity,
        total_steps=total_steps,
        interval=interval,
        begin_step=begin_step,
        end_step=end_step,
        initial=initial,
        power=power,
        refresh=refresh,
        at_targets=at_targets,
        backward="dense",
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
