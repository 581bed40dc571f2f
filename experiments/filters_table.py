"""Filters removed at random or by their L1 norm, six retraining schedules: a table of the README.

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
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

import jaxprune as jp
from experiments import _cells, data, models
from experiments._cells import Cell, append, check_settings, mean_std, read
from experiments.config import Config
from experiments.setup import Setup, build, loop_and_evaluation, make_optimizer
from jaxprune.structured import ChannelGroups

_KEYS = ("seed", "fraction", "score", "schedule")
_SCHEDULES = ("ft", "lrw", "slr", "clr", "llr", "allr")


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid of runs behind the table of filter pruning."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs."""

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

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, data order and random filters."""

    batch_size: int = 128
    """Examples a training step."""

    out: pathlib.Path = pathlib.Path("runs/filters_table")
    """Folder for results.jsonl and table.md."""


class Dense(NamedTuple):
    """What the cells of a seed start from.

    Attributes:
      parts: the run.
      model: the network.
      variables: its parameters and statistics after dense training.
      groups: its channels.
      filters: paths of the convolutions that are pruned.
      accuracy: on the test set.
      macs: multiply-accumulates an image.
      x: example images.
    """

    parts: Setup
    model: Any
    variables: Any
    groups: ChannelGroups
    filters: tuple[str, ...]
    accuracy: float
    macs: int
    x: jax.Array


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


def filters_of(groups: ChannelGroups) -> tuple[str, ...]:
    """The convolutions whose filters nothing else makes: no shortcut adds to their channels."""
    return tuple(
        group.name
        for group in groups
        if len(made := group.role("out")) == 1 and len(groups.shapes[made[0].path]) > 2
    )


def train_dense(grid: Grid, seed: int, dataset: data.Dataset) -> Dense:
    """Trains the dense network of a seed and finds its filters."""
    config = config_of(grid, seed)
    parts = build(config, dataset=dataset)
    model = models.create(grid.model, dataset.num_classes)
    steps = jnp.arange(parts.options["pretraining_steps"])
    state, _ = parts.train(parts.state, jax.vmap(parts.pretraining)(steps))
    variables = {"params": state.params, **(state.model_state or {})}
    x, key = jnp.zeros((2, *dataset.image_shape)), jax.random.key(0)
    apply = models.training_apply(model, list(state.model_state or {}))
    groups = jp.structured.channel_groups(apply, variables, x, key)
    return Dense(
        parts,
        model,
        variables,
        groups,
        filters_of(groups),
        parts.evaluate(state)["accuracy"],
        _macs(model, variables, x),
        x,
    )


def _macs(model: Any, variables: Any, x: jax.Array) -> int:
    """Multiply-accumulates an image."""

    def inference(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=False)

    return jp.metrics.flops(inference, variables, x[:1]).macs


def run_cell(grid: Grid, cell: Cell, dense: Dense, dataset: data.Dataset) -> Cell:
    """Removes filters from a trained network and retrains what is left."""
    start, parts, groups = time.perf_counter(), dense.parts, dense.groups
    key = jax.random.fold_in(jax.random.key(cell["seed"]), 1)
    if cell["score"] == "random":
        scores = jp.structured.random(key, groups)
    else:
        scores = jp.structured.magnitude(groups, dense.variables)
    fraction: float = cell["fraction"]
    removed = jp.structured.ratios(dict.fromkeys(dense.filters, fraction))
    kept = jp.structured.select(groups, scores, allocation=removed)
    masks = jp.structured.masks(groups, kept)
    small_model, small = models.shrink(dense.model, dense.variables, masks, dense.x, key)

    config = config_of(grid, cell["seed"])
    train, evaluate = loop_and_evaluation(config, small_model, small["params"], dataset)
    state = jp.training.TrainState.create(
        small["params"],
        lambda rate: make_optimizer(config, rate),
        model_state={k: v for k, v in small.items() if k != "params"},
        masked=False,
        key=key,
    )
    pruned = evaluate(state)["accuracy"]
    rates = _rates(cell, dense, masks, grid.retrain_epochs * parts.epoch_steps)
    state, _ = train(state, rates)
    return {
        **cell,
        "dense_accuracy": dense.accuracy,
        "accuracy_pruned": pruned,
        "accuracy": evaluate(state)["accuracy"],
        "weights": sum(x.size for x in jax.tree.leaves(small["params"])),
        "dense_weights": sum(x.size for x in jax.tree.leaves(dense.variables["params"])),
        "macs": _macs(small_model, small, dense.x),
        "dense_macs": dense.macs,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _rates(cell: Cell, dense: Dense, masks: Any, steps: int) -> jax.Array:
    """The learning rate of every retraining step."""
    lengths = {
        "pretraining_steps": dense.parts.options["pretraining_steps"],
        "retraining_steps": steps,
    }
    options: dict[str, Any] = dict(lengths)
    if cell["schedule"] == "allr":
        before = dense.variables["params"]
        after = jp.apply_mask(before, masks["params"])
        # Of all weights: removed filters take those with them that read them.
        kept, _ = jp.metrics.counts(masks["params"])
        masked = sum(mask.size for mask in jax.tree.leaves(masks["params"]))
        pruned = (masked - kept) / sum(x.size for x in jax.tree.leaves(before))
        options["discount"] = jp.schedules.allr_discount(
            before, after, pruned_fraction=pruned, **lengths
        )
    schedule = jp.schedules.retraining(cell["schedule"], dense.parts.pretraining, **options)
    return jnp.asarray(jax.vmap(schedule)(jnp.arange(steps)))


def markdown(grid: Grid, done: list[Cell]) -> str:
    """The table: test accuracy in percent, mean and standard deviation over the seeds."""
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


def check(grid: Grid) -> None:
    """Raises for what can be seen wrong before anything is trained.

    Raises:
      ValueError: with the value and the repair.
    """
    for score in grid.scores:
        if score not in ("l1", "random"):
            raise ValueError(f"unknown score {score!r}. Known: l1, random.")
    for schedule in grid.schedules:
        if schedule not in _SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}. Known: {', '.join(_SCHEDULES)}.")
    for fraction in grid.fractions:
        if not 0 < fraction < 1:
            raise ValueError(f"fractions are those removed, in (0, 1); got {fraction}.")


def run(grid: Grid, console: Console) -> str:
    """Runs what is missing of the grid and returns the table."""
    check(grid)
    file = grid.out / "results.jsonl"
    # What the cells have in common, defaults included; what differs between them is in each.
    shared = dataclasses.asdict(config_of(grid, 0)) | {"retrain_epochs": grid.retrain_epochs}
    for key in ("data_dir", "run_dir", "seed", "schedule"):
        shared.pop(key, None)
    check_settings(grid.out, shared)

    dataset = None
    for seed in grid.seeds:
        done = read(file, _KEYS)
        missing = [c for c in cells(grid, seed) if tuple(c[k] for k in _KEYS) not in done]
        if not missing:
            continue
        dataset = dataset or data.load(grid.data, data_dir=grid.data_dir)
        console.print(f"seed {seed}: dense training, then {len(missing)} cells")
        dense = train_dense(grid, seed, dataset)
        for i, cell in enumerate(missing):
            result = run_cell(grid, cell, dense, dataset)
            append(file, result)
            console.print(
                f"seed {seed} {i + 1:2}/{len(missing)}  {cell['score']:6} {cell['schedule']:5}"
                f"{cell['fraction']}: {100 * result['accuracy']:.2f} % in "
                f"{result['seconds']:.0f} s",
                highlight=False,
            )
    table = markdown(grid, list(read(file, _KEYS).values()))
    (grid.out / "table.md").write_text(table + "\n")
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input, 130 interrupted)."""
    return _cells.main(Grid, run, "experiments.filters_table", arguments)


if __name__ == "__main__":
    sys.exit(main())
