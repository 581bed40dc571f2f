"""Filters removed at random or by their L1 norm, six schedules: a table of docs/results.md.

Le & Hua, ICLR 2021: does random filter pruning with the right retraining learning rate keep up with
pruning by norm (PFEC, Li et al., ICLR 2017) and plain fine-tuning? A dense network is trained, a
fraction of the filters of every convolution that no shortcut ties is removed, the network is shrunk
for good, and the small one is retrained under FT, LRW, SLR, CLR, LLR and ALLR.

    python -m experiments.filters_table --data-dir DIR

The default is a small CNN on Fashion-MNIST, about 30 minutes on two CPU cores. The setting of the
paper is

    python -m experiments.filters_table --data-dir DIR --data cifar10 --model resnet56 \
        --epochs 182 --retrain-epochs 40 --out runs/filters_resnet56

Every cell is written as soon as it is done, and a run that was stopped goes on where it was; the
table is made from what is there. No learning rate was tuned for it: 0.1, divided by 10 at 50 and
75 % of dense training.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from experiments import _cells, checks
from experiments._cells import Cell, mean_std
from experiments.config import Config

if TYPE_CHECKING:
    from experiments import data

_KEYS = ("seed", "fraction", "score", "schedule")
_SCHEDULES = ("ft", "lrw", "slr", "clr", "llr", "allr")


@dataclasses.dataclass(frozen=True)
class Grid(_cells.Settings):
    """The grid of runs behind the table of filter pruning."""

    data: str = "fashion_mnist"
    """Data set."""

    model: str = "small_cnn"
    """Network."""

    epochs: int = 5
    """Length of dense training, in epochs."""

    retrain_epochs: int = 1
    """Length of retraining, in epochs."""

    fractions: tuple[float, ...] = (0.5,)
    """Fractions of the filters of every convolution that are removed."""

    scores: tuple[str, ...] = ("l1", "random")
    """What says which filters stay."""

    schedules: tuple[str, ...] = _SCHEDULES
    """Retraining schedules."""

    out: pathlib.Path = pathlib.Path("runs/filters_table")
    """Folder for results.jsonl, table.md and the small networks."""


def cells(grid: Grid, seed: int) -> Iterator[Cell]:
    """The cells of one seed."""
    for fraction in grid.fractions:
        for score in grid.scores:
            for schedule in grid.schedules:
                yield dict(zip(_KEYS, (seed, fraction, score, schedule), strict=True))


def config_of(grid: Grid, seed: int) -> Config:
    """The configuration that the cells of a seed share."""
    return Config(
        data=grid.data,
        data_dir=grid.data_dir,
        model=grid.model,
        epochs=grid.epochs,
        batch_size=grid.batch_size,
        seed=seed,
    )


def markdown(grid: Grid, done: list[Cell]) -> str:
    """The table: test accuracy in percent, mean and standard deviation over the seeds."""
    import jax

    head = ["filters removed", "by", "MACs", "before retraining"]
    head += [schedule.upper() for schedule in grid.schedules]
    lines = [
        "| " + " | ".join(head) + " |",
        "|---:|---|---:|---:|" + "---:|" * len(grid.schedules),
    ]
    for fraction in grid.fractions:
        for score in grid.scores:
            ours = [c for c in done if (c["fraction"], c["score"]) == (fraction, score)]
            if not ours:
                continue
            first = {c["seed"]: c["accuracy_pruned"] for c in ours}
            row = [f"{100 * fraction:g} %", {"l1": "L1 norm"}.get(score, score)]
            row += [f"{ours[0]['macs']:,}", mean_std([100 * x for x in first.values()])]
            for schedule in grid.schedules:
                found = [100 * c["accuracy"] for c in ours if c["schedule"] == schedule]
                row.append(mean_std(found))
            lines.append("| " + " | ".join(row) + " |")
    dense = {c["seed"]: c["dense_accuracy"] for c in done}
    device = jax.devices()[0].device_kind
    lines.append("")
    lines.append(
        f"Dense: {mean_std([100 * x for x in dense.values()])} with "
        f"{done[0]['dense_macs']:,} MACs an image. Test accuracy in percent, mean ± sample "
        f"standard deviation over {len(dense)} seeds; {grid.epochs} epochs dense, "
        f"{grid.retrain_epochs} retraining; device: {device}; "
        f"{sum(c['seconds'] for c in done) / 60:.0f} minutes for the cells."
    )
    return "\n".join(lines)


def configs(grid: Grid) -> Iterator[Config]:
    """The configurations of all dense networks.

    Raises:
      ValueError: if a setting of the cells is wrong.
    """
    for score in grid.scores:
        checks.check_name("score", score, ("l1", "random"))
    for schedule in grid.schedules:
        checks.check_name("schedule", schedule, _SCHEDULES)
    for fraction in grid.fractions:
        if not 0 < fraction < 1:
            raise ValueError(f"fractions are those removed, in (0, 1); got {fraction}.")
    for seed in grid.seeds:
        yield config_of(grid, seed)


def run(grid: Grid, console: Console) -> str:
    """Runs what is missing of the grid and returns the table."""

    def begin(seed: int, dataset: "data.Dataset") -> Callable[[Cell], Cell]:
        from experiments import _filters

        config, epochs = config_of(grid, seed), grid.retrain_epochs
        dense = _filters.train_dense(config, dataset)
        return lambda cell: _filters.run_cell(
            config, cell, dense, dataset, epochs=epochs, folder=grid.out
        )

    return _cells.fill(
        grid,
        _KEYS,
        shared=config_of(grid, 0),
        retrain_epochs=grid.retrain_epochs,
        cells=cells,
        begin=begin,
        line=lambda cell: f"{cell['score']:6} {cell['schedule']:5} {cell['fraction']}",
        table=markdown,
        console=console,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    return _cells.main(Grid, configs, run, "experiments.filters_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
