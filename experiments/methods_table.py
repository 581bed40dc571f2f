"""BIMP beside the pruning-stable methods it is compared with: the table of docs/results.md.

Zimmer et al., ICLR 2023: does a plain budgeted prune-and-retrain keep up with methods that weave
pruning into training? Here LeNet-5 on Fashion-MNIST, every method for the same number of epochs
with the same optimizer and the same linear learning rate, to 90, 95 and 98 %.

    python -m experiments.methods_table --data-dir DIR

STR, CS and DST do not control their sparsity. Each runs with three values of the hyperparameter
that drives it, and its rows stand under the sparsity that came out.

Every cell is written as soon as it is done, and a run that was stopped goes on where it was; the
table is made from what is there. No learning rate was tuned for any method.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments import _cells
from experiments._cells import Cell, mean_std
from experiments.config import Config

if TYPE_CHECKING:
    import numpy as np

    from experiments import data

_KEYS = ("seed", "method", "level")
# What sets the sparsity of methods that do not control it: the option, and its symbol.
_DIALS = {
    "str": ("weight_decay", "weight decay"),
    "cs": ("initial", "s₀"),
    "dst": ("penalty", "α"),
}


@dataclasses.dataclass(frozen=True)
class Grid(_cells.Settings):
    """The grid of runs behind the table of methods."""

    data: str = "fashion_mnist"
    """Data set."""

    model: str = "lenet5"
    """Network."""

    epochs: int = 3
    """Length of every run, in epochs."""

    cycles: int = 2
    """Prunings of BIMP, which trains dense for `epochs - cycles` epochs and then retrains for one
    epoch after each pruning."""

    sparsities: tuple[float, ...] = (0.90, 0.95, 0.98)
    """Final sparsities of the methods that control it."""

    methods: tuple[str, ...] = ("bimp", "gmp", "gsm", "lc", "dpf", "dnw", "str", "cs", "dst")
    """Methods."""

    str_weight_decay: tuple[float, ...] = (6e-3, 1e-2, 1.2e-2)
    """Weight decays of STR, of weights and thresholds."""

    str_initial: float = -3.0
    """Initial thresholds of STR, before the sigmoid."""

    cs_initial: tuple[float, ...] = (-0.01, -0.025, -0.05)
    """Initial gates of CS, before the sigmoid."""

    dst_penalty: tuple[float, ...] = (1e-3, 2e-3, 3e-3)
    """Penalties of DST."""

    learning_rate: float = 0.05
    """First learning rate of all methods; it falls linearly to 0."""

    out: pathlib.Path = pathlib.Path("runs/methods_table")
    """Folder for results.jsonl and table.md."""

    def levels(self, method: str) -> tuple[float, ...]:
        """What a method is run with: sparsities, or values of what drives its sparsity."""
        free = {"str": self.str_weight_decay, "cs": self.cs_initial, "dst": self.dst_penalty}
        return (0.0,) if method == "dense" else free.get(method, self.sparsities)


def cells(grid: Grid, seed: int) -> Iterator[Cell]:
    """The cells of one seed: dense training first, then level by level."""
    rows = [("dense", 0.0)]
    for i in range(max(len(grid.levels(method)) for method in grid.methods)):
        rows += [(m, grid.levels(m)[i]) for m in grid.methods if i < len(grid.levels(m))]
    for method, level in rows:
        yield dict(zip(_KEYS, (seed, method, level), strict=True))


def config_of(grid: Grid, cell: Cell) -> Config:
    """The configuration of a cell."""
    method, level = cell["method"], cell["level"]
    options: dict[str, Any] = {"method": method}
    if method in _DIALS:
        options[_DIALS[method][0]] = level
        if method == "str":
            options["initial"] = grid.str_initial
    elif method != "dense":
        options["sparsity"] = level
    return Config(
        data=grid.data,
        data_dir=grid.data_dir,
        model=grid.model,
        epochs=grid.epochs - grid.cycles,
        cycles=grid.cycles,
        retrain_epochs=1,
        dense_schedule="linear",
        learning_rate=grid.learning_rate,
        batch_size=grid.batch_size,
        seed=cell["seed"],
        **options,
    )


def run_cell(grid: Grid, cell: Cell, dataset: "data.Dataset") -> Cell:
    """Trains one cell."""
    from experiments import reports
    from experiments.setup import build, prune_and_retrain

    start, config = time.perf_counter(), config_of(grid, cell)
    parts = build(config, dataset=dataset)
    speed = reports.Speed(config.batch_size)

    def on_chunk(first_step: int, rates: "np.ndarray", metrics: Any) -> None:
        del first_step, metrics  # only the time counts here
        speed.chunk(len(rates))

    train = parts.train._replace(on_chunk=on_chunk)
    result = prune_and_retrain(config, parts, train=train)
    before, last = result.records[-2:]
    return {
        **cell,
        "accuracy": last.evaluation["accuracy"],
        "accuracy_before": before.evaluation["accuracy"],
        "accuracy_pruned": (last.evaluation_pruned or last.evaluation)["accuracy"],
        "nonzero": last.nonzero,
        "sparsity": last.sparsity,
        "images_per_second": speed.images_per_second(),
        "seconds": round(time.perf_counter() - start, 2),
    }


def markdown(grid: Grid, done: list[Cell]) -> str:
    """The table: mean and standard deviation over the seeds, a row a method and level."""
    import jax

    head = ["method", "set to", "sparsity %", "test %", "before the last prune", "images/s"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---:|---:|---:|---:|"]
    for method in ("dense", *grid.methods):
        for level in grid.levels(method):
            found = [c for c in done if (c["method"], c["level"]) == (method, level)]
            if not found:
                continue
            row = [method.upper().replace("DENSE", "dense"), _setting(method, level)]
            row.append(mean_std([100 * c["sparsity"] for c in found]))
            row.append(mean_std([100 * c["accuracy"] for c in found]))
            row.append(mean_std([100 * c["accuracy_before"] for c in found]))
            row.append(f"{statistics.median(c['images_per_second'] or 0 for c in found):,.0f}")
            lines.append("| " + " | ".join(row) + " |")
    seeds = {c["seed"] for c in done}
    lines.append("")
    lines.append(
        f"Mean ± sample standard deviation over {len(seeds)} seeds, {grid.epochs} epochs each; "
        f"images/s: median; device: {jax.devices()[0].device_kind}; "
        f"{sum(c['seconds'] for c in done) / 60:.0f} minutes in all."
    )
    return "\n".join(lines)


def _setting(method: str, level: float) -> str:
    if method == "dense":
        return ""
    if method in _DIALS:
        return f"{_DIALS[method][1]} = {level:g}"
    return f"{100 * level:g} %"


def configs(grid: Grid) -> Iterator[Config]:
    """The configurations of all cells.

    Raises:
      ValueError: if there can be none.
    """
    if not 0 < grid.cycles < grid.epochs:
        raise ValueError(f"cycles={grid.cycles} leaves no dense epoch of epochs={grid.epochs}.")
    for seed in grid.seeds:
        for cell in cells(grid, seed):
            yield config_of(grid, cell)


def run(grid: Grid, console: Console) -> str:
    """Runs what is missing of the grid and returns the table."""

    def line(cell: Cell) -> str:
        setting = _setting(cell["method"], cell["level"])
        return f"{cell['method']:6} {setting:10} {100 * cell['sparsity']:6.2f} % sparse"

    return _cells.fill(
        grid,
        _KEYS,
        shared=config_of(grid, {"seed": 0, "method": "dense", "level": 0.0}),
        # What levels are made of. Weight decay is not among them: STR's is its level, but that of
        # all others is a default, and in common.
        varied=("sparsity", "penalty", "initial"),
        str_initial=grid.str_initial,
        cells=cells,
        begin=lambda _, dataset: lambda cell: run_cell(grid, cell, dataset),
        line=line,
        table=markdown,
        console=console,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    return _cells.main(Grid, configs, run, "experiments.methods_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
