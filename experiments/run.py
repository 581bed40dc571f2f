"""The main job: train, prune and retrain one network.

Run it with ``python -m experiments.run``; ``--help`` explains every option. It writes a run folder
with config.json, metrics.jsonl, summary.csv, accuracy.png, learning_rate.png and weights.png.

The default run takes under 90 seconds on two CPU cores, compilation included.
"""

import sys
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments import reports
from experiments.config import ITERATIVE, UNCONTROLLED, Config
from experiments.setup import Setup, build, prune_and_retrain
from jaxprune.training import ImpResult, PhaseRecord, TrainLoop, TrainState


def run(config: Config, *, console: Console | None = None, parts: Setup | None = None) -> ImpResult:
    """Trains and prunes as configured, and writes the run folder.

    Args:
      config: the configuration.
      console: where progress and table go; standard output if omitted.
      parts: from `experiments.setup.build`, if built already.

    Returns:
      The final state and the records of all phases.

    Raises:
      ValueError, OSError: before any training, for bad input.
      KeyboardInterrupt: if interrupted; the folder then holds what was done.
    """
    console = console or Console()
    folder = reports.RunFolder(config.resolved_run_dir(), config)
    folder.check()
    parts = build(config) if parts is None else parts
    log = reports.Log()
    dense: list[Any] = []
    records: list[PhaseRecord] = []
    how = f"{config.method} to {100 * config.sparsity:g} % ({config.schedule})"
    if config.method not in ITERATIVE:
        free = config.method in (*UNCONTROLLED, "dense")
        how = config.method if free else f"{config.method} to {100 * config.sparsity:g} %"
    title = f"{config.model} on {config.data}, {how}, seed {config.seed}"
    steps = config.total_epochs() * parts.epoch_steps

    def on_phase(record: PhaseRecord) -> None:
        records.append(record)
        log.speeds[record.phase] = speed.images_per_second()
        end = record.first_step + len(record.learning_rates)
        if record.evaluation_pruned is not None:
            accuracy = record.evaluation_pruned["accuracy"]
            log.prunings.append((record.first_step, record.sparsity, accuracy))
        log.test.append((end, record.evaluation["accuracy"]))
        row = reports.summary_rows([record], log)[0]
        folder.log({"kind": "phase", "step": end, **row})
        if config.method not in ITERATIVE:
            progress.phase("final prune")
        elif len(records) <= config.cycles:
            progress.phase(f"cycle {len(records)}")

    speed = reports.Speed(config.batch_size)
    progress = reports.Progress(steps, config.batch_size, console)
    try:
        train = _reporting(parts, log, folder, progress, speed, records, dense)
        result = prune_and_retrain(config, parts, train=train, on_phase=on_phase)
    finally:
        progress.stop()
        folder.close()
        if folder.is_open:
            folder.write_summary(reports.COLUMNS, reports.summary_rows(records, log))
            reports.draw(log, folder.path, title)
    reports.draw_weight_histogram(
        result.state.params, result.state.mask, folder.path / "weights.png", dense=dense[-1]
    )
    reports.print_mask_table(result.state.params, result.state.mask, console)
    console.print(reports.table(records, title, log))
    console.print(f"Run folder: {folder.path}")
    return result


def _reporting(
    parts: Setup,
    log: reports.Log,
    folder: reports.RunFolder,
    progress: reports.Progress,
    speed: reports.Speed,
    records: list[PhaseRecord],
    dense: list[Any],
) -> TrainLoop:
    """The training loop, told to report each chunk and to validate after each epoch.

    The parameters at the end of the dense phase become the last entry of ``dense``.
    """

    def on_chunk(first_step: int, rates: np.ndarray, metrics: dict[str, np.ndarray]) -> None:
        log.add_chunk(first_step, rates, metrics["accuracy"])
        speed.chunk(len(rates))
        for i, rate in enumerate(rates):
            row = {"kind": "train", "phase": len(records), "step": first_step + i}
            values = {name: float(values[i]) for name, values in metrics.items()}
            folder.log({**row, "learning_rate": float(rate), **values})
        progress.chunk(rates, metrics)

    def run_epochs(state: TrainState, rates: np.ndarray, _: Any) -> tuple[TrainState, Any]:
        if not folder.is_open:
            # Only now, when the plan of the run has been checked: bad input leaves no folder.
            folder.open()
            progress.start()
        pieces = []
        for i in range(0, len(rates), parts.epoch_steps):
            state, metrics = parts.train.run(state, rates[i : i + parts.epoch_steps], on_chunk)
            pieces.append(metrics)
            step, values = int(state.step), parts.evaluate_validation(parts.deployed(state))
            log.validation.append((step, values["accuracy"]))
            row = {f"validation_{name}": value for name, value in values.items()}
            folder.log({"kind": "validation", "phase": len(records), "step": step, **row})
        if not records:
            # A copy: the next step donates the state.
            dense.append(jax.tree.map(np.array, parts.deployed(state).params))
        names = pieces[0] if pieces else {}
        return state, {name: np.concatenate([p[name] for p in pieces]) for name in names}

    return parts.train._replace(run=run_epochs)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.run")
    console = Console()
    try:
        run(config, console=console)
    except KeyboardInterrupt:
        held = (config.resolved_run_dir() / "metrics.jsonl").exists()
        where = f"{config.resolved_run_dir()} holds everything up to here" if held else "no run yet"
        console.print(f"Interrupted; {where}.", style="yellow")
        return 130
    except (ValueError, TypeError, ImportError, OSError) as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
