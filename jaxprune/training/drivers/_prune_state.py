"""One prune inside a run: new mask, masked parameters, the discount of ALLR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxprune import _tree, masks, metrics, scores, transforms
from jaxprune._tree import PyTree
from jaxprune.masks import Allocation, Pattern, PruneInfo, Stacked
from jaxprune.training.steps._state import TrainState, copy


class Prune(NamedTuple):
    """What one prune did, on the host.

    Attributes:
      info: exact counts; checked.
      pruned_fraction: the fraction of the weights still there that this prune removed.
    """

    info: PruneInfo
    pruned_fraction: float


def magnitude_of(mask: PyTree) -> Callable[[PyTree], PyTree]:
    """Magnitude scores of exactly the leaves that a mask has."""
    shapes = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), mask)

    def score(params: PyTree) -> PyTree:
        there = _tree.map_partial(lambda m, p: None if m is None else p, shapes, params)
        return scores.magnitude(there, where=lambda path, leaf: True)

    return score


def prune_state(
    state: TrainState,
    sparsity: float,
    *,
    scores: Callable[[PyTree], PyTree],
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: Stacked | None,
    set_mask: Callable[[PyTree, PyTree], PyTree],
) -> tuple[TrainState, Prune]:
    """Prunes the parameters of a state, within its current mask.

    Args:
      state: the state; its mask is the upper bound of the new one.
      sparsity: fraction removed of all prunable weights after this prune.
      scores: function from parameters to scores.
      allocation: how the total is spread; global if `None`.
      pattern: which weights go together; unstructured if `None`.
      stacked: where leaves hold several layers.
      set_mask: ``set_mask(opt_state, mask)`` of the training step.

    Returns:
      The state with new mask and parameters, and what happened.

    Raises:
      ValueError: if scores hold NaN, a leaf collapses, or the target lies below the current one.
    """
    before = transforms.get_mask(state.opt_state, copy=False)
    mask, info = masks.make_with_info(
        scores(state.params),
        sparsity,
        within=before,
        allocation=allocation,
        pattern=pattern,
        stacked=stacked,
    )
    info.check(may_remove_nothing=sparsity == 0)
    kept, kept_before = info.counts()
    state = state._replace(
        params=masks.apply_mask(state.params, mask),
        opt_state=set_mask(state.opt_state, mask),
    )
    return state, Prune(info, (kept_before - kept) / kept_before)


def rewind_state(state: TrainState, snapshot: TrainState) -> TrainState:
    """Puts weights, model state and optimizer state back to a snapshot, under the current mask.

    The step counter goes on, so that the data of the replayed steps are drawn afresh.
    """
    snapshot, mask = copy(snapshot), transforms.get_mask(state.opt_state, copy=False)
    return state._replace(
        params=masks.apply_mask(snapshot.params, mask),
        opt_state=transforms.set_mask(snapshot.opt_state, mask),
        model_state=snapshot.model_state,
    )


def check_snapshot(snapshot: TrainState, state: TrainState) -> None:
    """Raises, before any training, if a state to rewind to is not one of the same network.

    Raises:
      ValueError: naming the first difference.
    """
    _tree.check_matches(snapshot.params, state.params, what="state to rewind to")
    _tree.check_finite(snapshot.params, what="parameters to rewind to")
    for name in ("opt_state", "model_state"):
        ours, theirs = (jax.tree.structure(getattr(s, name)) for s in (snapshot, state))
        if ours != theirs:
            raise ValueError(
                f"the state to rewind to has another {name} than the state of the run. Take it "
                "from a run with the same make_optimizer, mask and model."
            )


def check_targets(
    state: TrainState,
    sparsities: Sequence[float],
    *,
    scores: Callable[[PyTree], PyTree],
    allocation: Allocation | None,
    pattern: Pattern | None,
    stacked: Stacked | None,
) -> None:
    """Raises, before any training, if a prune to come cannot be done.

    Raises:
      ValueError: if allocation or pattern do not fit the leaves or a sparsity, or if the first
        sparsity lies below that of the state; naming both.
    """
    options: dict[str, Any] = {
        "allocation": allocation,
        "pattern": pattern,
        "stacked": stacked,
    }
    mask = transforms.get_mask(state.opt_state, copy=False)
    masks.check_fit(jax.eval_shape(scores, state.params), sparsities, within=mask, **options)
    kept, total = metrics.counts(mask)
    if not kept:
        raise ValueError("the mask of the state keeps no weight; there is nothing to train.")
    if kept == total:
        return  # nothing lies below
    _, info = masks.make_with_info(scores(state.params), sparsities[0], within=mask, **options)
    info.check_nested()


def check_scores(score: Any, state: TrainState) -> None:
    """Raises, before any training, if scores and mask disagree on what is prunable.

    Raises:
      TypeError: if ``score`` is not a function.
      ValueError: naming the first leaf that only one of them has.
    """
    if not callable(score):
        raise TypeError(
            "scores is a function from parameters to scores here, because every cycle needs new "
            "ones; e.g. scores=jp.scores.magnitude."
        )
    shapes = jax.eval_shape(score, state.params)
    mask = transforms.get_mask(state.opt_state, copy=False)
    if (first := _tree.first_difference(shapes, mask)) is not None:
        raise ValueError(
            f"the scores and the mask of the state disagree on what is prunable, first at "
            f"{first!r}. Create the state with mask=jp.masks.dense(params, where=...), and pass "
            "the same `where` to the scores."
        )
