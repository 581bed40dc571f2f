"""Structured IMP: train, then remove channels for good and retrain, cycle by cycle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxprune import metrics, schedules, structured, transforms
from jaxprune._tree import PyTree
from jaxprune.structured import ChannelGroups
from jaxprune.training.checkpoints import Checkpoints, PhaseRecord
from jaxprune.training.checkpoints._fingerprint import describe_function
from jaxprune.training.checkpoints._records import html_of, repr_of, rows_of
from jaxprune.training.drivers._channels import (
    Channels,
    Function,
    Network,
    Scores,
    Select,
    Shrink,
    pruned,
)
from jaxprune.training.drivers._hooks import check_hooks, recalibrated, stability
from jaxprune.training.drivers._imp import OptimizerState, check_rewind, check_state, fingerprint_of
from jaxprune.training.drivers._plan import plan_cycles
from jaxprune.training.drivers._prune_state import check_snapshot
from jaxprune.training.drivers._run import Kept, Run
from jaxprune.training.steps import TrainState
from jaxprune.training.steps._state import copy


class StructuredResult(NamedTuple):
    """The end of a run of `structured_imp`.

    Attributes:
      state: the final state: small parameters, small model state.
      records: of every phase in order; ``left`` says what is left of the network.
      network: what `build` made for the small network: its loop and evaluation.
      shrink: makes small functions of functions of the dense network: ``shrink(f)(params,
        model_state, *inputs)``, `jax.jit` it.
      groups: the channels of the dense ``{"params": ..., "model_state": ...}``.
      masks: which of its entries are left, for `structured.expand`, `structured.save` and others.
    """

    state: TrainState
    records: tuple[PhaseRecord, ...]
    network: Network
    shrink: Shrink
    groups: ChannelGroups
    masks: PyTree

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row a phase, as `RunResult.to_dicts`."""
        return rows_of(self.records)

    def __repr__(self) -> str:
        return repr_of("StructuredResult", self.records)

    def _repr_html_(self) -> str:
        return html_of(self.records)


def structured_imp(
    state: TrainState,
    build: Callable[[Shrink], Any],
    *,
    apply: Function,
    inputs: Sequence[Any],
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
    scores: Scores = structured.magnitude,
    select: Select = structured.select,
    rewind: int | TrainState | None = None,
    optimizer_state: OptimizerState = "fresh_once",
    metric: str | None = None,
    on_phase: Callable[[PhaseRecord], None] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
) -> StructuredResult:
    """Iterative structured pruning: trains dense, then removes channels and retrains, in cycles.

    `imp` with whole channels: each cycle scores them, selects those that stay, cuts the others out
    of parameters, model state and optimizer, and retrains the smaller network under a retraining
    schedule. The channels were found once, in the dense network; what an earlier cycle removed
    scores lowest, so that what is left is nested.

    Shapes change with every prune, so each cycle compiles the step, and the evaluation, once anew.
    What is left need not be multiplied by a mask: the later the cycle, the faster its steps.

    Args:
      state: where to start, of the dense network. Copied. A mask of single weights that it has goes
        along: they stay zero.
      build: ``build(shrink) -> Network(train, evaluate)``, or the pair, or with ``recalibrate`` as
        a third: called for the dense network and after every prune. It makes loops and evaluations
        of ``shrink(loss_fn)`` and ``shrink(eval_fn)``, which are these functions for the parameters
        that are left.
      apply: ``apply(params, model_state, *inputs)``, in which channels are followed: the loss, or
        the network in training mode.
      inputs: example inputs of it: pytrees of arrays or `jax.ShapeDtypeStruct`. MACs are those of
        one such call.
      pretraining: learning-rate schedule of the dense phase.
      pretraining_steps: its length T in steps.
      sparsity: what `select` is given after the last cycle, in [0, 1): of `structured.select` the
        fraction removed of the channels.
      cycles: prunings J. After cycle j it is ``1 - (1 - S)**(j / J)``.
      retraining_steps: as `imp`.
      total_retraining_steps: as `imp`.
      schedule: name of the retraining schedule, see `jaxprune.schedules.retraining`. ALLR's
        discount takes the norms of the parameters before and after the prune, and of the prunable
        weights still there the fraction that it removed.
      pretrain: as `imp`.
      pretraining_warmup_steps: as `imp`.
      warmup: as `imp`.
      peak: as `imp`.
      sparsities: as `imp`.
      scores: ``scores(groups, variables)`` gives one array a group, see `structured.magnitude`.
        The variables ``{"params": ..., "model_state": ...}`` are those of the dense shapes, zero
        where channels went.
      select: ``select(groups, scores, sparsity)`` gives for each group which channels stay:
        `structured.select`, or a function around it with budgets, ratios, limits.
      rewind: as `imp`; what it goes back to is cut.
      optimizer_state: as `imp`: "keep" cuts it. Optimizers whose state has other shapes than the
        parameters (Adafactor) need "fresh".
      metric: as `imp`.
      on_phase: as `imp`.
      checkpoints: as `imp`. They hold which channels stay, so that a run goes on in any cycle.
      progress: as `imp`.

    Returns:
      The small state, records, and what makes small functions, see `StructuredResult`.

    Raises:
      ValueError, TypeError, FloatingPointError, OSError, Preempted: as `imp`. ValueError, too, if
        nothing can be removed, or a selection brings a channel back.

    Warns:
      UserWarning: if a cycle removes nothing.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     hidden = jnp.tanh(batch @ params["w_1"])
      ...     return jnp.mean((hidden @ params["w_2"]) ** 2), (model_state, {})
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> def build(shrink):
      ...     step = jp.training.make_train_step(shrink(loss_fn), sgd)
      ...     return jp.training.make_loop(step, lambda t: jnp.ones((4, 2))), lambda state: {}
      >>> params = {"w_1": jnp.ones((2, 8)), "w_2": jnp.ones((8, 1))}
      >>> key = jax.random.key(0)
      >>> state = jp.training.TrainState.create(params, sgd, key=key)
      >>> result = jp.training.structured_imp(
      ...     state, build, apply=loss_fn, inputs=(jnp.ones((4, 2)), key),
      ...     pretraining=optax.constant_schedule(0.1), pretraining_steps=2,
      ...     sparsity=0.75, cycles=2, retraining_steps=1,
      ... )
      >>> [record.left.widths for record in result.records[1:]]
      [{'w_1': 4}, {'w_1': 2}]
      >>> result.state.params["w_1"].shape
      (2, 2)

    References:
      Zimmer et al., How I Learned to Stop Worrying and Love Retraining, ICLR 2023 (schedules); Li
      et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (prune and retrain iteratively).
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
    check_state(state, None)
    if isinstance(rewind, TrainState):
        check_snapshot(rewind, state)
    channels = Channels(apply, state, inputs)
    rule: dict[str, Any] = {"scores": scores, "select": select}
    variables = {"params": state.params, "model_state": state.model_state}
    channels.select(variables, channels.all(), plan.cycles[-1].sparsity, **rule)  # or raises now
    built: dict[int, Network] = {}

    def network_of(kept: Kept) -> Network:
        """The network after some prunes; the last one made is kept."""
        if len(kept) not in built:
            built.clear()
            shrink = channels.shrink(kept[-1] if kept else channels.all())
            built[len(kept)] = Network(*build(shrink))
        return built[len(kept)]

    def like(kept: Kept) -> dict[str, PyTree]:
        """The shapes of a checkpoint."""
        step = network_of(kept).train.step
        now = channels.cut(state, kept[-1], step.init_optimizer) if kept else copy(state)
        return {"state": step.place(now), "snapshot": copy(state)}

    dense = network_of(())
    check_hooks(dense.evaluate, state, metric, recalibrate=dense.recalibrate, on_phase=on_phase)
    metric = metric or "accuracy"
    mask = transforms.get_mask(state.opt_state, copy=False)
    prunable = metrics.counts(mask)[1]

    def fingerprint() -> dict[str, Any]:
        return {
            **fingerprint_of(state, plan, rewind),
            **{name: describe_function(part) for name, part in rule.items()},
            "pretrain": pretrain,
            "optimizer_state": optimizer_state,
            "metric": metric,
            "recalibrate": dense.recalibrate is not None,
        }

    own = Run(
        dense.train,
        checkpoints,
        copy(state),
        fingerprint=fingerprint,
        on_phase=on_phase,
        like=like,
        progress=plan.total_steps(pretrain=pretrain) if progress else None,
    )
    own.snapshot = rewind if isinstance(rewind, TrainState) else None
    with own as run:
        while (number := len(run.records)) <= len(plan.cycles):
            network = network_of(run.kept)
            run.loop = network.train
            if number == 0:  # train dense
                if run.start is None:
                    run.begin(left=channels.left(channels.all()))
                rates = plan.pretraining_rates if pretrain else np.zeros((0,), np.float32)
                if isinstance(rewind, int) and run.snapshot is None:
                    if not run.train(rates, until=rewind):
                        continue
                    run.snapshot = copy(run.state)
                if run.train(rates):
                    kept, _ = metrics.counts(run.state.mask)
                    result = network.evaluate(run.state)
                    run.end("dense", 0, rates, result, kept=kept, prunable=prunable)
                continue

            cycle, start = plan.cycles[number - 1], run.start
            if start is None:  # prune
                before = run.kept[-1] if run.kept else channels.all()
                whole = channels.expand(run.state, before)
                stays, notes = channels.select(whole, before, cycle.sparsity, **rule)
                if cycle.sparsity > 0 and all(map(np.array_equal, stays, before)):
                    warnings.warn(f"cycle {number} removes no channel.", stacklevel=2)
                run.kept = (*run.kept, stays)
                network = network_of(run.kept)
                run.loop, step = network.train, network.train.step
                reset = optimizer_state == "fresh" or (optimizer_state, number) == ("fresh_once", 1)
                # What is rewound below needs no state of its own before.
                fresh = step.init_optimizer if reset or run.snapshot is not None else None
                small = step.place(channels.recut(run.state, before, stays, fresh))
                there = metrics.counts(run.state.mask)[0]
                fraction = (there - metrics.counts(small.mask)[0]) / there
                discount = None
                if plan.discounted:
                    discount = schedules.allr_discount(
                        whole["params"],
                        pruned(whole, channels, stays)["params"],
                        pruned_fraction=fraction,
                        pretraining_steps=plan.steps,
                        retraining_steps=cycle.retraining_steps,
                    )
                if network.recalibrate is not None:
                    small = recalibrated(network.recalibrate, small)
                evaluation = network.evaluate(small)
                if run.snapshot is not None:  # the counter goes on: fresh data for the same steps
                    back = channels.cut(copy(run.snapshot), stays)
                    small = step.place(back._replace(step=small.step, key=small.key))
                start = run.begin(
                    small,
                    pruned_fraction=fraction,
                    discount=None if discount is None else np.asarray(discount),
                    evaluation_pruned=evaluation,
                    stability=stability(metric, evaluation, run.records[-1].evaluation),
                    left=channels.left(stays, notes),
                )
            # Retrain.
            scale = np.float32(1) if start.discount is None else start.discount
            rates = plan.undiscounted[number - 1] * scale
            if run.train(rates):
                kept, _ = metrics.counts(run.state.mask)
                result = network.evaluate(run.state)
                run.end(f"cycle {number}", number, rates, result, kept=kept, prunable=prunable)
    stays = run.kept[-1]
    return StructuredResult(
        run.state,
        run.records,
        network_of(run.kept),
        channels.shrink(stays),
        channels.groups,
        channels.masks(stays),
    )
