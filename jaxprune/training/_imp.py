"""IMP: train, then prune and retrain, cycle by cycle."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import optax

from jaxprune import _tree, metrics, schedules, transforms
from jaxprune._tree import PyTree
from jaxprune.masks import Allocation, Pattern, PruneInfo
from jaxprune.training._evaluate import Evaluate
from jaxprune.training._loop import TrainLoop
from jaxprune.training._plan import Cycle, Plan, plan_cycles
from jaxprune.training._prune_state import (
    check_scores,
    check_snapshot,
    check_targets,
    magnitude_of,
    prune_state,
    rewind_state,
)
from jaxprune.training._state import TrainState, copy

OptimizerState: TypeAlias = Literal["fresh_once", "fresh", "keep"]


class PhaseRecord(NamedTuple):
    """What one phase did: the dense phase (cycle 0), or one prune and its retraining.

    Attributes:
      phase: "dense", "cycle 1", ...; of `fit` "training" and "final prune".
      cycle: 0 for the first phase, then 1, 2, ...
      sparsity: fraction removed of the prunable weights, from exact counts.
      nonzero: prunable weights kept.
      prunable: all prunable weights.
      evaluation_pruned: `evaluate` right after pruning (and recalibration); `None` if dense.
      evaluation: `evaluate` at the end of the phase.
      discount: d of ALLR, `None` under another schedule.
      stability: pruning stability of the chosen metric, `None` if dense or not measured.
      pruned_fraction: fraction of the weights still there that this cycle removed.
      first_step: the step counter at the start of the phase's training.
      learning_rates: float32 ``[steps]``, the rates used.
      metrics: what the training steps reported, float arrays ``[steps]``.
      info: counts of the prune, leaf by leaf; `None` if dense.
      seconds: wall time of the phase.
    """

    phase: str
    cycle: int
    sparsity: float
    nonzero: int
    prunable: int
    evaluation_pruned: dict[str, float] | None
    evaluation: dict[str, float]
    discount: float | None
    stability: float | None
    pruned_fraction: float
    first_step: int
    learning_rates: np.ndarray
    metrics: dict[str, np.ndarray]
    info: PruneInfo | None
    seconds: float


class ImpResult(NamedTuple):
    """The end of a run: the final state, and a record of every phase in order."""

    state: TrainState
    records: tuple[PhaseRecord, ...]


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

    Returns:
      The final state and the records, dense phase first.

    Raises:
      ValueError: before any training: sparsity outside [0, 1) or below that of the state's mask,
        targets that do not rise, step counts that do not fit, an unknown schedule, scores that
        disagree with the state's mask, weights that are not finite. Later: scores with NaN or
        a collapsed layer.
      TypeError: if an argument is of the wrong kind.

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
    score = magnitude_of(state.mask) if scores is None else scores
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
    state, snapshot, dense = _dense_phase(run, copy(state), pretrain=pretrain, rewind=rewind)
    records = [dense]
    if on_phase is not None:
        on_phase(dense)
    for cycle in plan.cycles:
        state, phase = _cycle(run, state, cycle, snapshot, records[-1].evaluation)
        records.append(phase)
        if on_phase is not None:
            on_phase(phase)
    return ImpResult(state, tuple(records))


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


def _dense_phase(
    run: _Run, state: TrainState, *, pretrain: bool, rewind: int | TrainState | None
) -> tuple[TrainState, TrainState | None, PhaseRecord]:
    start, first_step = time.perf_counter(), int(state.step)
    rates = run.plan.pretraining_rates if pretrain else np.zeros((0,), np.float32)
    snapshot = rewind if isinstance(rewind, TrainState) else None
    if isinstance(rewind, int):
        state, head = run.train(state, rates[:rewind])
        snapshot = copy(state)
        state, tail = run.train(state, rates[rewind:])
        steps = {k: np.concatenate([head[k], tail[k]]) for k in tail} if head else tail
    else:
        state, steps = run.train(state, rates)
    evaluation = run.evaluate(state)
    kept, prunable = metrics.counts(state.mask)
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
        first_step=first_step,
        learning_rates=rates,
        metrics=steps,
        info=None,
        seconds=time.perf_counter() - start,
    )
    return state, snapshot, phase


def _cycle(
    run: _Run,
    state: TrainState,
    cycle: Cycle,
    snapshot: TrainState | None,
    evaluation_before: dict[str, float],
) -> tuple[TrainState, PhaseRecord]:
    start, first_step = time.perf_counter(), int(state.step)
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
    before = evaluation_before.get(run.metric)
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
    scale = np.float32(1) if discount is None else np.asarray(discount)
    rates = run.plan.undiscounted[cycle.number - 1] * scale
    state, steps = run.train(state, rates)
    phase = PhaseRecord(
        phase=f"cycle {cycle.number}",
        cycle=cycle.number,
        sparsity=prune.info.sparsity,
        nonzero=prune.info.counts()[0],
        prunable=sum(prune.info.sizes),
        evaluation_pruned=pruned,
        evaluation=run.evaluate(state),
        discount=None if discount is None else float(discount),
        stability=stability,
        pruned_fraction=prune.pruned_fraction,
        first_step=first_step,
        learning_rates=rates,
        metrics=steps,
        info=prune.info,
        seconds=time.perf_counter() - start,
    )
    return state, phase


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
