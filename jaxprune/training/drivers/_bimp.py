"""BIMP: the dense phase and all retraining inside one budget."""

from __future__ import annotations

from typing import Any

import optax

from jaxprune._checks import check_rate, check_steps
from jaxprune.training.checkpoints._records import RunResult
from jaxprune.training.drivers._imp import imp
from jaxprune.training.steps._evaluate import Evaluate
from jaxprune.training.steps._loop import TrainLoop
from jaxprune.training.steps._state import TrainState


def bimp(
    state: TrainState,
    train: TrainLoop,
    *,
    evaluate: Evaluate,
    learning_rate: float,
    budget: int,
    pretraining_steps: int,
    sparsity: float,
    cycles: int = 1,
    **options: Any,
) -> RunResult:
    """Budgeted iterative magnitude pruning (BIMP): IMP with ALLR inside a fixed number of steps.

    ``pretraining_steps`` (T_0) steps with a linear schedule from ``learning_rate`` to 0, then
    ``cycles`` prunings, each retrained with ALLR; the ``budget - T_0`` steps left are split evenly
    over the cycles, the remainder going to the last one. Counts are those of `imp`, each of the
    total; the authors' code rounds what it removes in each cycle, and its roundings add up.

    Args:
      state: where to start. Copied.
      train: a loop from `make_loop`.
      evaluate: ``evaluate(state) -> {name: value}``, see `make_evaluate`.
      learning_rate: the highest rate, the first of the linear schedule.
      budget: all steps together.
      pretraining_steps: T_0, those of them that train dense.
      sparsity: final fraction removed of the prunable weights, in [0, 1).
      cycles: prunings.
      **options: further options of `imp`: ``scores``, ``allocation``, ``pattern``,
        ``stacked``, ``warmup``, ``recalibrate``, ``optimizer_state``, ``metric``, ``on_phase``,
        ``checkpoints``, ``progress``, ...

    Returns:
      As `imp`. The lengths of the phases add up to ``budget`` exactly.

    Raises:
      ValueError: if the budget leaves less than one step for each phase, or for what `imp` raises.
      TypeError: if an option is fixed by BIMP, or unknown.

    References:
      Zimmer et al., How I Learned to Stop Worrying and Love Retraining, ICLR 2023, section 4;
      Li, Yumer, Ramanan, Budgeted Training, ICLR 2020 (the linear schedule).
    """
    fixed = {
        "pretraining",
        "retraining_steps",
        "total_retraining_steps",
        "schedule",
        "pretrain",
        "rewind",
        "peak",
        "sparsities",
    } & set(options)
    if fixed:
        raise TypeError(
            f"bimp fixes {sorted(fixed)} itself (linear schedule, then ALLR inside the budget); "
            "use imp to choose."
        )
    check_rate("learning_rate", learning_rate)
    budget, cycles = check_steps("budget", budget), check_steps("cycles", cycles)
    pretraining_steps = check_steps("pretraining_steps", pretraining_steps)
    if budget - pretraining_steps < cycles:
        raise ValueError(
            f"a budget of {budget} steps with {pretraining_steps} dense ones leaves "
            f"{budget - pretraining_steps} to retrain in {cycles} cycles; each phase needs at "
            "least one step."
        )
    result = imp(
        state,
        train,
        evaluate=evaluate,
        pretraining=optax.linear_schedule(learning_rate, 0.0, pretraining_steps),
        pretraining_steps=pretraining_steps,
        sparsity=sparsity,
        cycles=cycles,
        total_retraining_steps=budget - pretraining_steps,
        schedule="allr",
        **options,
    )
    spent = sum(len(record.learning_rates) for record in result.records)
    if spent != budget:
        raise AssertionError(f"BIMP spent {spent} steps of a budget of {budget}; please report it.")
    return result
