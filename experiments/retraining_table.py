"""Six retraining schedules, side by side: the table of the README.

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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from experiments import _cells
from experiments._cells import Cell, append, check_settings, mean_std, read
from experiments.config import Config

if TYPE_CHECKING:
    import jaxprune as jp
    from experiments.setup import Setup

_KEYS = ("seed", "cycles", "sparsity", "retrain_epochs", "schedule")


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid of runs behind the table of retraining schedules."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs."""

    data_cache: str | None = None
    """Folder for decoded images, or off; default: in the user's cache folder."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

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

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights and data order."""

    batch_size: int = 128
    """Examples a training step."""

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
    file = grid.out / "results.jsonl"
    # What the cells have in common, defaults included; what differs between them is in each.
    shared = dataclasses.asdict(config_of(grid, 0))
    for key in ("data_dir", "data_cache", "compilation_cache", "run_dir", *_KEYS):
        shared.pop(key, None)
    check_settings(grid.out, shared)

    import jax
    import jax.numpy as jnp

    from experiments.setup import build

    dataset = None
    for seed in grid.seeds:
        done = read(file, _KEYS)
        missing = [c for c in cells(grid, seed) if tuple(c[k] for k in _KEYS) not in done]
        if not missing:
            continue
        dataset = dataset or _cells.load(grid, console)
        parts = build(config_of(grid, seed), dataset=dataset)
        console.print(f"seed {seed}: dense training, then {len(missing)} cells")
        steps = jnp.arange(parts.options["pretraining_steps"])
        dense, _ = parts.train(parts.state, jax.vmap(parts.pretraining)(steps))
        for i, cell in enumerate(missing):
            result = run_cell(cell, parts, dense)
            append(file, result)
            console.print(
                f"seed {seed} {i + 1:3}/{len(missing)}  {cell['schedule']:5} {cell['cycles']} "
                f"cycle(s) {cell['sparsity']} {cell['retrain_epochs']} epoch(s): "
                f"{100 * result['accuracy']:.2f} % in {result['seconds']} s",
                highlight=False,
            )
    table = markdown(grid, list(read(file, _KEYS).values()))
    (grid.out / "table.md").write_text(table + "\n")
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    return _cells.main(Grid, configs, run, "experiments.retraining_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
