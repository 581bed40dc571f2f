"""Prune to given sparsities after given numbers of steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree, masks
from jaxprune._checks import check_fraction, check_steps
from jaxprune._scoring import Scores, Scoring, check_leaves
from jaxprune._targets import check_not_sparser
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _moving


def prune_at(
    inner: Any,
    steps: Sequence[int],
    sparsities: Sequence[float | None],
    *,
    total_steps: int | None = None,
    within: PyTree | None = None,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Wraps an optimizer so that the network is pruned after given steps, and stays so.

    After step $t_j$ the weights, as that step left them, are scored, and the mask shrinks to
    sparsity $s_j$ inside the mask before. Between prunings it is `fixed_mask`: pruned weights are
    exactly zero after `optax.apply_updates`, kept weights move as under ``inner`` with masked
    gradients, and moments of pruned weights are zero.

    `gmp` and `one_shot` are this with their own steps; with
    `jaxprune.schedules.imp_sparsities` it is iterative magnitude pruning.

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      steps: rising numbers of steps; 1 is the first.
      sparsities: the fraction removed after each, rising. Counts are exact: ``round(s * n)`` of n.
      total_steps: the length of training, to check ``steps`` against.
      within: a mask to start from; everything prunable if omitted.
      scores: function from ``params`` to scores, magnitude if omitted. By name it also gets
        ``grads`` (those given to ``update``) and extra arguments of ``update``, if its signature
        has them: ``tx.update(grads, state, params, input_norms=...)`` for
        `jaxprune.scores.wanda`.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer or an argument is of the wrong kind.
      ValueError: if steps or sparsities do not rise, do not pair or lie outside their range. From
        ``init``: if nothing is prunable, allocation or pattern do not fit the parameters, the
        parameters are sparser than the last target or ``within`` than the first, or the state of
        ``inner`` mixes weights.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
      >>> tx = transforms.prune_at(optax.sgd(0.5), (1, 2), (0.25, 0.5))
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"kernel": jnp.ones((1, 4))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params["kernel"])
      [[0.  1.5 2.5 3.5]]
      [[0. 0. 2. 3.]]

    References:
      Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015.
    """
    return pruning(
        inner,
        steps,
        sparsities,
        name="prune_at",
        total_steps=total_steps,
        within=within,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )


def pruning(
    inner: Any,
    steps: Sequence[int],
    sparsities: Sequence[float | None],
    *,
    name: str,
    total_steps: int | None,
    within: PyTree | None,
    scores: Scores | None,
    allocation: Allocation | None,
    pattern: Pattern | None,
    where: Where | None,
    stacked: masks.Stacked | None = None,
    shares: Sequence[float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`prune_at` under the name of the method that it is part of, for errors.

    With ``shares`` an N:M pattern is reached step by step: of the weights that it takes from each
    group, the given fraction goes at each step.
    """
    steps, targets = _checked(steps, sparsities, total_steps)
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(scores, where, **rules)

    def plan(shapes: PyTree) -> masks.Plan:
        if shares is None:
            return masks.plan(shapes, targets, **rules)
        assert pattern is not None
        return masks.plan_groups(shapes, pattern, shares, stacked=stacked)

    def first_mask(params: PyTree) -> PyTree:
        shapes = scoring.shapes(params)
        plan(shapes)
        mask = _moving.dense_or(within, shapes, params)
        check_leaves(shapes, mask, name=name)
        check_not_sparser(mask, params, targets, name=name)
        if within is not None and targets[-1] != 0 and not _tree.is_traced(mask):
            # Leaf by leaf, or pool by pool: a total that fits is not enough.
            any_scores = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            masks.make_with_info(any_scores, targets[0], within=mask, **rules)[1].check_nested()
        return mask

    def move(now: _moving.Move) -> PyTree:
        scored = scoring(now.params, grads=now.grads, **now.extra_args)
        check_leaves(scored, now.mask, name=name)
        return plan(scored).make(scored, now.number, within=now.mask)

    if targets[-1] == 0:  # the mask moves nowhere; nothing is compiled for it
        steps = ()
    return _moving.moving(
        inner, name=name, steps=steps, first_mask=first_mask, move=move, nested=True
    )


def _checked(
    steps: Sequence[int], sparsities: Sequence[float | None], total_steps: int | None
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    steps, sparsities = tuple(steps), tuple(sparsities)
    if not steps or len(steps) != len(sparsities):
        raise ValueError(
            f"steps and sparsities pair, and there is at least one; got {len(steps)} steps and "
            f"{len(sparsities)} sparsities."
        )
    for step in steps:
        check_steps("a step to prune after", step)
    if total_steps is not None:
        check_steps("total_steps", total_steps)
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"steps rise; got {steps!r:.80}.")
    if total_steps is not None and steps[-1] > total_steps:
        raise ValueError(
            f"the pruning after step {steps[-1]} comes after the end of training, "
            f"total_steps={total_steps}: the network would end less sparse than asked."
        )
    known = [check_fraction("sparsity", s) for s in sparsities if s is not None]
    if any(b < a for a, b in itertools.pairwise(known)):
        raise ValueError(f"sparsities rise; got {sparsities!r:.80}. A pruned weight stays pruned.")
    return steps, sparsities
