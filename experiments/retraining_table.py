"""Six retraining schedules, side by side: the table of docs/results.md.

Zimmer et al., ICLR 2023, and Le & Hua, ICLR 2021, on a network that trains in seconds:
LeNet-300-100 on Fashion-MNIST, 20 epochs dense, then one-shot and three-cycle magnitude pruning to
90, 95 and 98 %, each cycle retrained for 1, 2 or 5 epochs under FT, LRW, SLR, CLR, LLR and ALLR.

    python -m experiments.retraining_table --data-dir DIR

Every cell is written as soon as it is done, and a run that was stopped goes on where it was; the
table is made from what is there. On two CPU cores the whole grid of three seeds takes about
45 minutes. No learning rate was tuned for it: 0.1, divided by 10 at 50 and 75 % of dense training.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments import _cells
from experiments._cells import Cell, mean_std
from experiments.config import Config

if TYPE_CHECKING:
    import jaxprune as jp
    from experiments import data
    from experiments.setup import Setup

_KEYS = ("seed", "cycles", "sparsity", "retrain_epochs", "schedule")


@dataclasses.dataclass(frozen=True)
class Grid(_cells.Settings):
    """The grid of runs behind the table of retraining schedules."""

    data: str = "fashion_mnist"
    """Data set."""

    model: str = "lenet_300_100"
    """Network."""

    epochs: int = 20
    """Length of dense training, in epochs."""

    retrain_epochs: tuple[int, ...] = (1, 2, 5)
    """Lengths of retraining after each pruning, in epochs."""

    sparsities: tuple[float, ...] = (0.90, 0.95, 0.98)
    """Final sparsities: fraction removed of all weights."""

    cycles: tuple[int, ...] = (1, 3)
    """Numbers of prunings."""

    schedules: tuple[str, ...] = ("ft", "lrw", "slr", "clr", "llr", "allr")
    """Retraining schedules."""

    out: pathlib.Path = pathlib.Path("runs/retraining_table")
    """Folder for results.jsonl and table.md."""


def cells(grid: Grid, seed: int) -> Iterator[Cell]:
    """The cells of one seed, cheap ones first."""
    for epochs in grid.retrain_epochs:
        for cycles in grid.cycles:
            for sparsity in grid.sparsities:
                for schedule in grid.schedules:
                    values = (seed, cycles, sparsity, epochs, schedule)
                    yield dict(zip(_KEYS, values, strict=True))


def config_of(grid: Grid, seed: int, **options: Any) -> Config:
    """The configuration that the cells of a seed share, and what one of them adds."""
    return Config(
        data=grid.data,
        data_dir=grid.data_dir,
        model=grid.model,
        epochs=grid.epochs,
        batch_size=grid.batch_size,
        seed=seed,
        **options,
    )


def configs(grid: Grid) -> Iterator[Config]:
    """The configurations of all cells."""
    for seed in grid.seeds:
        for cell in cells(grid, seed):
            yield config_of(grid, **cell)


def run_cell(cell: Cell, parts: "Setup", dense: "jp.training.TrainState") -> Cell:
    """Prunes and retrains a trained network as one cell says."""
    import jaxprune as jp

    result = jp.training.imp(
        dense,
        parts.train,
        evaluate=parts.evaluate,
        pretraining=parts.pretraining,
        pretraining_steps=parts.options["pretraining_steps"],
        pretrain=False,
        sparsity=cell["sparsity"],
        cycles=cell["cycles"],
        retraining_steps=cell["retrain_epochs"] * parts.epoch_steps,
        schedule=cell["schedule"],
    )
    last = result.records[-1]
    return {
        **cell,
        "dense_accuracy": result.records[0].evaluation["accuracy"],
        "accuracy": last.evaluation["accuracy"],
        "nonzero": last.nonzero,
        "discounts": [r.discount for r in result.records[1:]],
        "seconds": round(sum(r.seconds for r in result.records[1:]), 2),
    }


def markdown(grid: Grid, done: list[Cell]) -> str:
    """The table: test accuracy in percent, mean and standard deviation over the seeds."""
    import jax

    head = ["cycles", "sparsity", "epochs a cycle", *(s.upper() for s in grid.schedules)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 3 + "---:|" * len(grid.schedules)]
    for cycles in grid.cycles:
        for sparsity in grid.sparsities:
            for epochs in grid.retrain_epochs:
                row = [str(cycles), f"{100 * sparsity:g} %", str(epochs)]
                for schedule in grid.schedules:
                    wanted = (cycles, sparsity, epochs, schedule)
                    found = [c for c in done if tuple(c[k] for k in _KEYS[1:]) == wanted]
                    row.append(mean_std([100 * c["accuracy"] for c in found]))
                lines.append("| " + " | ".join(row) + " |")
    dense = {c["seed"]: c["dense_accuracy"] for c in done}
    device = jax.devices()[0].device_kind
    lines.append("")
    lines.append(
        f"Dense: {mean_std([100 * x for x in dense.values()])}. Test accuracy in percent, mean ± "
        f"sample standard deviation over {len(dense)} seeds; device: {device}."
    )
    return "\n".join(lines)


def run(grid: Grid, console: Console) -> str:
    """Runs what is missing of the grid and returns the table."""

    def begin(seed: int, dataset: "data.Dataset") -> Callable[[Cell], Cell]:
        import jax
        import jax.numpy as jnp

        from experiments.setup import build

        parts = build(config_of(grid, seed), dataset=dataset)
        steps = jnp.arange(parts.options["pretraining_steps"])
        dense, _ = parts.train(parts.state, jax.vmap(parts.pretraining)(steps))
        return lambda cell: run_cell(cell, parts, dense)

    def line(cell: Cell) -> str:
        cycles, epochs = cell["cycles"], cell["retrain_epochs"]
        return f"{cell['schedule']:5} {cycles} cycle(s) {cell['sparsity']} {epochs} epoch(s)"

    return _cells.fill(
        grid,
        _KEYS,
        shared=config_of(grid, 0),
        cells=cells,
        begin=begin,
        line=line,
        table=markdown,
        console=console,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    return _cells.main(Grid, configs, run, "experiments.retraining_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
