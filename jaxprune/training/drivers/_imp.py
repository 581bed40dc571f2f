"""IMP: train, then prune and retrain, cycle by cycle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
import optax

from jaxprune import _tree, metrics, schedules, transforms
from jaxprune._layers import with_stacked
from jaxprune._tree import PyTree
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.training.checkpoints import Checkpoints, PhaseRecord, RunResult
from jaxprune.training.checkpoints._fingerprint import (
    describe_array,
    describe_function,
    describe_model,
    describe_optimizer,
    describe_state,
)
from jaxprune.training.drivers._hooks import check_hooks, recalibrated, stability
from jaxprune.training.drivers._plan import Plan, plan_cycles
from jaxprune.training.drivers._prune_state import (
    check_scores,
    check_snapshot,
    check_targets,
    magnitude_of,
    prune_state,
    rewind_state,
)
from jaxprune.training.drivers._run import Run
from jaxprune.training.steps import Evaluate, TrainLoop, TrainState
from jaxprune.training.steps._state import copy

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
    stacked: Stacked | None = None,
    rewind: int | TrainState | None = None,
    optimizer_state: OptimizerState = "fresh_once",
    recalibrate: Callable[[TrainState], TrainState] | None = None,
    metric: str | None = None,
    on_phase: Callable[[PhaseRecord], None] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
) -> RunResult:
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
      scores: function from parameters to scores, which is given ``stacked`` as well if it asks for
        it by name; magnitude if omitted.
      allocation: how a total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted. An N:M pattern fixes the
        sparsity, so it goes with one cycle.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.
      rewind: weight rewinding: after every prune the kept weights, the model state and the
        optimizer state go back to this pretraining step, or to this state. Usually with
        ``schedule="lrw"`` and ``retraining_steps=pretraining_steps - rewind``.
      optimizer_state: "fresh_once" resets the optimizer at the first prune and keeps it from
        cycle to cycle (the reference code), "fresh" resets at every prune, "keep" never (learning
        rate rewinding in Renda et al.). With
        ``rewind`` it comes from the snapshot and this must be "keep" or "fresh_once".
      recalibrate: from `make_recalibrate`; run after each prune, before it is evaluated.
      metric: the entry of ``evaluate`` that pruning stability is computed from; "accuracy" if
        omitted and there. Where its value is NaN or not positive, stability is `None`.
      on_phase: called with the record of every finished phase.
      checkpoints: where to save the run and whether to go on with one, see `Checkpoints`.
      progress: whether to show a line that tells phase, steps, loss, learning rate and the time
        that is left; it changes in place in a terminal and a notebook. It reads what is on the host
        already: the run does not wait for it, and its results do not change.

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
      docs/library.md has a run from the first line to the last.

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
    rewind = check_rewind(rewind, pretrain, pretraining_steps, optimizer_state)
    check_state(state, allocation)
    mask = transforms.get_mask(state.opt_state, copy=False)
    rule = {
        "scores": magnitude_of(mask) if scores is None else with_stacked(scores, stacked),
        "allocation": allocation,
        "pattern": pattern,
        "stacked": stacked,
    }
    check_scores(rule["scores"], state)
    check_targets(state, [cycle.sparsity for cycle in plan.cycles], **rule)
    if isinstance(rewind, TrainState):
        check_snapshot(rewind, state)
    check_hooks(evaluate, state, metric, recalibrate=recalibrate, on_phase=on_phase)
    metric = metric or "accuracy"

    def fingerprint() -> dict[str, Any]:
        return {
            **fingerprint_of(state, plan, rewind),
            **{n: describe_function(part) for n, part in rule.items() if n != "stacked"},
            **({} if stacked is None else {"stacked": {k: str(v) for k, v in stacked.items()}}),
            "pretrain": pretrain,
            "optimizer_state": optimizer_state,
            "metric": metric,
            "recalibrate": recalibrate is not None,
        }

    own = Run(
        train,
        checkpoints,
        copy(state),
        fingerprint=fingerprint,
        on_phase=on_phase,
        progress=plan.total_steps(pretrain=pretrain) if progress else None,
    )
    own.snapshot = rewind if isinstance(rewind, TrainState) else None
    with own as run:
        while (number := len(run.records)) <= len(plan.cycles):
            if number == 0:  # train dense
                if run.start is None:
                    run.begin()
                rates = plan.pretraining_rates if pretrain else np.zeros((0,), np.float32)
                if isinstance(rewind, int) and run.snapshot is None:
                    if not run.train(rates, until=rewind):
                        continue
                    run.snapshot = copy(run.state)
                if run.train(rates):
                    kept, prunable = metrics.counts(mask)
                    run.end("dense", 0, rates, evaluate(run.state), kept=kept, prunable=prunable)
                continue

            cycle, start = plan.cycles[number - 1], run.start
            if start is None:  # prune
                dense, discount = run.state, None
                pruned, prune = prune_state(
                    dense, cycle.sparsity, set_mask=train.step.set_mask, **rule
                )
                if plan.discounted:
                    discount = schedules.allr_discount(
                        dense.params,
                        pruned.params,
                        pruned_fraction=prune.pruned_fraction,
                        pretraining_steps=plan.steps,
                        retraining_steps=cycle.retraining_steps,
                    )
                if recalibrate is not None:
                    pruned = recalibrated(recalibrate, pruned)
                evaluation = evaluate(pruned)
                if run.snapshot is not None:  # rewind, or reset the optimizer
                    pruned = rewind_state(pruned, run.snapshot)
                elif optimizer_state == "fresh" or (optimizer_state, number) == ("fresh_once", 1):
                    fresh = train.step.init_optimizer(pruned.params, pruned.mask)
                    pruned = pruned._replace(opt_state=fresh)
                start = run.begin(
                    pruned,
                    info=prune.info,
                    pruned_fraction=prune.pruned_fraction,
                    discount=None if discount is None else np.asarray(discount),
                    evaluation_pruned=evaluation,
                    stability=stability(metric, evaluation, run.records[-1].evaluation),
                )
            # Retrain.
            scale = np.float32(1) if start.discount is None else start.discount
            rates = plan.undiscounted[number - 1] * scale
            if run.train(rates):
                assert start.info is not None
                kept, prunable = start.info.counts()[0], sum(start.info.sizes)
                result = evaluate(run.state)
                run.end(f"cycle {number}", number, rates, result, kept=kept, prunable=prunable)
    return RunResult(run.state, run.records)


def fingerprint_of(
    state: TrainState, plan: Plan, rewind: int | TrainState | None
) -> dict[str, Any]:
    """What of a run must not change until it goes on: the model, the plan, the start."""
    return {
        **describe_model(state.params, state.model_state),
        "sparsities": [cycle.sparsity for cycle in plan.cycles],
        "retraining_steps": [cycle.retraining_steps for cycle in plan.cycles],
        "discounted": plan.discounted,
        "pretraining_steps": plan.steps,
        "pretraining rates": describe_array(plan.pretraining_rates),
        "retraining rates": describe_array(np.concatenate(plan.undiscounted)),
        "rewind": describe_state(rewind) if isinstance(rewind, TrainState) else rewind,
        "optimizer": describe_optimizer(state.opt_state),
        "key": np.asarray(jax.random.key_data(state.key)).tolist(),
    }


def check_state(state: TrainState, allocation: Any) -> None:
    """Raises if a state cannot be pruned by `imp`."""
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


def check_rewind(
    rewind: Any, pretrain: bool, steps: int, optimizer_state: str
) -> int | TrainState | None:
    """Raises unless ``rewind`` names a state that there will be, and the options go together."""
    if optimizer_state not in ("fresh_once", "fresh", "keep"):
        raise ValueError(
            f"optimizer_state is 'fresh_once', 'fresh' or 'keep'; got {optimizer_state!r}."
        )
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
