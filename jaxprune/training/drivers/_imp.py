"""IMP: train, then prune and retrain, cycle by cycle."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
import optax

from jaxprune import _tree, metrics, schedules, transforms
from jaxprune._tree import PyTree
from jaxprune.masks import Allocation, Pattern, PruneInfo
from jaxprune.training.checkpoints._checkpoints import Checkpoints
from jaxprune.training.checkpoints._fingerprint import (
    describe_array,
    describe_function,
    describe_model,
    describe_optimizer,
    describe_state,
)
from jaxprune.training.checkpoints._records import ImpResult, PhaseRecord
from jaxprune.training.drivers._journal import Journal, Progress
from jaxprune.training.drivers._plan import Cycle, Plan, plan_cycles
from jaxprune.training.drivers._prune_state import (
    check_scores,
    check_snapshot,
    check_targets,
    magnitude_of,
    prune_state,
    rewind_state,
)
from jaxprune.training.steps._evaluate import Evaluate
from jaxprune.training.steps._loop import TrainLoop
from jaxprune.training.steps._state import TrainState, copy

OptimizerState: TypeAlias = Literal["fresh_once", "fresh", "keep"]


def imp(
    state: TrainState,
    train: TrainLoop,
    *,
    evaluate: Evaluate,
    pretraining: optax.Schedule,
    pretraining_steps: int,
    sparsity: float,
    cycles: int = 1,
    retraining_steps: int | None = None,
    total_retraining_steps: int | None = None,
    schedule: str = "allr",
    pretrain: bool = True,
    pretraining_warmup_steps: int = 0,
    warmup: float | None = None,
    peak: float | None = None,
    sparsities: Sequence[float] | None = None,
    scores: Callable[[PyTree], PyTree] | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    rewind: int | TrainState | None = None,
    optimizer_state: OptimizerState = "fresh_once",
    recalibrate: Callable[[TrainState], TrainState] | None = None,
    metric: str | None = None,
    on_phase: Callable[[PhaseRecord], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> ImpResult:
    """Iterative magnitude pruning (IMP): trains dense, then prunes and retrains in cycles.

    One-shot pruning is ``cycles=1``. After cycle j of J the sparsity is ``1 - (1 - S)**(j / J)``;
    masks are nested. The network compiles once: masks and learning rates are data.

    Args:
      state: where to start. Copied: it stays usable.
      train: a loop from `make_loop`.
      evaluate: ``evaluate(state) -> {name: value}``, see `make_evaluate`.
      pretraining: learning-rate schedule of the dense phase.
      pretraining_steps: its length T in steps.
      sparsity: final fraction removed of the prunable weights, in [0, 1).
      cycles: prunings J.
      retraining_steps: steps after each prune; or
      total_retraining_steps: steps of all retraining together, split evenly, the remainder going
        to the last cycle. Give one of the two.
      schedule: name of the retraining schedule, see `jaxprune.schedules.retraining`.
      pretrain: False if ``state`` is trained already; the dense phase is then only evaluated.
      pretraining_warmup_steps: steps of warm-up inside the dense phase.
      warmup: fraction of retraining spent warming up; the schedule's default if omitted.
      peak: highest learning rate of the tunable schedules.
      sparsities: the sparsity after each cycle, instead of the rule above; the last must be
        ``sparsity``. E.g. `jaxprune.schedules.twenty_percent_sparsities`.
      scores: function from parameters to scores; magnitude if omitted.
      allocation: how a total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted. An N:M pattern fixes the
        sparsity, so it goes with one cycle.
      rewind: weight rewinding: after every prune the kept weights, the model state and the
        optimizer state go back to this pretraining step, or to this state. Usually with
        ``schedule="lrw"`` and ``retraining_steps=pretraining_steps - rewind``.
      optimizer_state: "fresh_once" resets the optimizer at the first prune and keeps it from
        cycle to cycle (the reference code), "fresh" resets at every prune, "keep" never. With
        ``rewind`` it comes from the snapshot and this must be "keep" or "fresh_once".
      recalibrate: from `make_recalibrate`; run after each prune, before it is evaluated.
      metric: the entry of ``evaluate`` that pruning stability is computed from; "accuracy" if
        omitted and there.
      on_phase: called with the record of every finished phase.
      checkpoints: where to save the run and whether to go on with one, see `Checkpoints`.

    Returns:
      The final state and the records, dense phase first.

    Raises:
      ValueError: before any training: sparsity outside [0, 1) or below that of the state's mask,
        targets that do not rise, step counts that do not fit, an unknown schedule, scores that
        disagree with the state's mask, weights that are not finite, a checkpoint of another run.
        Later: scores with NaN or a collapsed layer.
      TypeError: if an argument is of the wrong kind.
      FloatingPointError: if the loss becomes NaN, with the step.
      FileNotFoundError, FileExistsError, OSError: if there is no checkpoint to resume from, one of
        a run that has not ended, or one that cannot be written.
      Preempted: if ``checkpoints.stop`` asked to end; the run is saved.

    Warns:
      UserWarning: if a cycle removes nothing.

    Example:
      The README's section on the library has a run from the first line to the last.

    References:
      Zimmer et al., How I Learned to Stop Worrying and Love Retraining, ICLR 2023;
      Han et al., 2015 (prune and retrain); Renda et al., ICLR 2020 (rewinding).
    """
    plan = plan_cycles(
        pretraining,
        pretraining_steps=pretraining_steps,
        sparsity=sparsity,
        cycles=cycles,
        retraining_steps=retraining_steps,
        total_retraining_steps=total_retraining_steps,
        schedule=schedule,
        pretraining_warmup_steps=pretraining_warmup_steps,
        warmup=warmup,
        peak=peak,
        sparsities=sparsities,
    )
    if optimizer_state not in ("fresh_once", "fresh", "keep"):
        raise ValueError(
            f"optimizer_state is 'fresh_once', 'fresh' or 'keep'; got {optimizer_state!r}."
        )
    rewind = _check_rewind(rewind, pretrain, pretraining_steps, optimizer_state)
    if allocation is not None and not callable(allocation):
        raise TypeError(
            f"allocation is a function such as jp.masks.globally(); got {allocation!r}."
        )
    _tree.check_finite(state.params, what="parameters")
    if not isinstance(state.opt_state, transforms.FixedMaskState):
        raise ValueError(
            "imp prunes by itself, so it needs a state under a fixed mask: create it with an "
            "optimizer that holds no mask of its own, and without masked=False. A method inside "
            "the optimizer is trained with jaxprune.training.fit."
        )
    score = (
        magnitude_of(transforms.get_mask(state.opt_state, copy=False)) if scores is None else scores
    )
    check_scores(score, state)
    check_targets(
        state,
        [cycle.sparsity for cycle in plan.cycles],
        score=score,
        allocation=allocation,
        pattern=pattern,
    )
    if isinstance(rewind, TrainState):
        check_snapshot(rewind, state)
    if metric is not None and metric not in (known := evaluate(state)):
        raise ValueError(f"evaluate has no metric {metric!r}; it returns {sorted(known)}.")

    run = _Run(
        train=train,
        evaluate=evaluate,
        plan=plan,
        score=score,
        allocation=allocation,
        pattern=pattern,
        recalibrate=recalibrate,
        optimizer_state=optimizer_state,
        metric=metric or "accuracy",
    )
    journal = Journal(
        train,
        checkpoints,
        fingerprint=lambda: {**_fingerprint(run, state, rewind), "pretrain": pretrain},
    )

    def advance(progress: Progress) -> Progress:
        if not progress.records:
            rewind_step = rewind if isinstance(rewind, int) else None
            return _dense_phase(run, journal, progress, run.rates(pretrain), rewind_step)
        return _cycle(run, journal, progress, plan.cycles[len(progress.records) - 1])

    snapshot = rewind if isinstance(rewind, TrainState) else None
    start = Progress(copy(state), snapshot)
    end = journal.drive(start, advance, phases=1 + len(plan.cycles), on_phase=on_phase)
    return ImpResult(end.state, end.records)


class _Run(NamedTuple):
    """What every phase of a run uses; see the arguments of `imp`."""

    train: TrainLoop
    evaluate: Evaluate
    plan: Plan
    score: Callable[[PyTree], PyTree]
    allocation: Allocation | None
    pattern: Pattern | None
    recalibrate: Callable[[TrainState], TrainState] | None
    optimizer_state: OptimizerState
    metric: str

    def rates(self, pretrain: bool) -> np.ndarray:
        """Learning rates of the dense phase."""
        return self.plan.pretraining_rates if pretrain else np.zeros((0,), np.float32)


def _fingerprint(run: _Run, state: TrainState, rewind: int | TrainState | None) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    cycles = run.plan.cycles
    return {
        **describe_model(state.params, state.model_state),
        "sparsities": [cycle.sparsity for cycle in cycles],
        "retraining_steps": [cycle.retraining_steps for cycle in cycles],
        "discounted": run.plan.discounted,
        "pretraining_steps": run.plan.steps,
        "pretraining rates": describe_array(run.plan.pretraining_rates),
        "retraining rates": describe_array(np.concatenate(run.plan.undiscounted)),
        "rewind": describe_state(rewind) if isinstance(rewind, TrainState) else rewind,
        "optimizer_state": run.optimizer_state,
        "metric": run.metric,
        "scores": describe_function(run.score),
        "allocation": describe_function(run.allocation),
        "pattern": describe_function(run.pattern),
        "recalibrate": run.recalibrate is not None,
        "optimizer": describe_optimizer(state.opt_state),
        "key": np.asarray(jax.random.key_data(state.key)).tolist(),
    }


def _dense_phase(
    run: _Run, journal: Journal, progress: Progress, rates: np.ndarray, rewind: int | None
) -> Progress:
    if progress.opening is None:
        progress = progress._replace(opening={"first_step": int(progress.state.step)})
    if rewind is not None and progress.snapshot is None:
        progress = journal.train(progress, rates, until=rewind)
        progress = progress._replace(snapshot=copy(progress.state))
    progress = journal.train(progress, rates)
    state, opening = progress.state, progress.opening
    assert opening is not None
    evaluation = run.evaluate(state)
    kept, prunable = metrics.counts(transforms.get_mask(state.opt_state, copy=False))
    phase = PhaseRecord(
        phase="dense",
        cycle=0,
        sparsity=(prunable - kept) / prunable,
        nonzero=kept,
        prunable=prunable,
        evaluation_pruned=None,
        evaluation=evaluation,
        discount=None,
        stability=None,
        pruned_fraction=0.0,
        first_step=opening["first_step"],
        learning_rates=rates,
        metrics=progress.metrics,
        info=None,
        seconds=journal.elapsed(progress),
    )
    return Progress(state, progress.snapshot, (phase,))


def _cycle(run: _Run, journal: Journal, progress: Progress, cycle: Cycle) -> Progress:
    if progress.opening is None:
        progress = _opened(run, progress, cycle)
    opening = progress.opening
    assert opening is not None
    discount = opening["discount"]
    scale = np.float32(1) if discount is None else discount
    rates = run.plan.undiscounted[cycle.number - 1] * scale
    progress = journal.train(progress, rates)
    info: PruneInfo = opening["info"]
    phase = PhaseRecord(
        phase=f"cycle {cycle.number}",
        cycle=cycle.number,
        sparsity=info.sparsity,
        nonzero=info.counts()[0],
        prunable=sum(info.sizes),
        evaluation_pruned=opening["evaluation_pruned"],
        evaluation=run.evaluate(progress.state),
        discount=None if discount is None else float(discount),
        stability=opening["stability"],
        pruned_fraction=opening["pruned_fraction"],
        first_step=opening["first_step"],
        learning_rates=rates,
        metrics=progress.metrics,
        info=info,
        seconds=journal.elapsed(progress),
    )
    return Progress(progress.state, progress.snapshot, (*progress.records, phase))


def _opened(run: _Run, progress: Progress, cycle: Cycle) -> Progress:
    """Prunes, and makes the state ready for retraining."""
    state, snapshot = progress.state, progress.snapshot
    params_before = state.params
    state, prune = prune_state(
        state,
        cycle.sparsity,
        score=run.score,
        allocation=run.allocation,
        pattern=run.pattern,
        set_mask=run.train.step.set_mask,
    )
    discount = None
    if run.plan.discounted:
        discount = schedules.allr_discount(
            params_before,
            state.params,
            pruned_fraction=prune.pruned_fraction,
            pretraining_steps=run.plan.steps,
            retraining_steps=cycle.retraining_steps,
        )
    if run.recalibrate is not None:
        state = run.recalibrate(state)
    pruned = run.evaluate(state)
    before = progress.records[-1].evaluation.get(run.metric)
    stability = None
    if before and run.metric in pruned:
        stability = metrics.pruning_stability(pruned[run.metric], before)

    if snapshot is not None:
        state = rewind_state(state, snapshot)
    elif run.optimizer_state == "fresh" or (
        run.optimizer_state == "fresh_once" and cycle.number == 1
    ):
        fresh = run.train.step.init_optimizer(state.params, state.mask)
        state = state._replace(opt_state=fresh)
    opening = {
        "first_step": int(state.step),
        "info": prune.info,
        "pruned_fraction": prune.pruned_fraction,
        "discount": None if discount is None else np.asarray(discount),
        "evaluation_pruned": pruned,
        "stability": stability,
    }
    return progress._replace(state=state, opening=opening)


def _check_rewind(
    rewind: Any, pretrain: bool, steps: int, optimizer_state: str
) -> int | TrainState | None:
    if rewind is None:
        return None
    if optimizer_state == "fresh":
        raise ValueError(
            "optimizer_state='fresh' contradicts rewind: the optimizer state is rewound too."
        )
    if isinstance(rewind, TrainState):
        return rewind
    if isinstance(rewind, bool) or not isinstance(rewind, (int, np.integer)):
        raise TypeError(f"rewind is a pretraining step or a TrainState; got {rewind!r}.")
    if not pretrain:
        raise ValueError(
            f"rewind={rewind} names a pretraining step, but pretrain=False skips that phase. Pass "
            "the state of that step instead."
        )
    if not 0 <= rewind < steps:
        raise ValueError(f"rewind is a pretraining step in [0, {steps}); got {rewind}.")
    return int(rewind)
