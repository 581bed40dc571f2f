"""Images a second of training: ours under a mask, a dense loop by hand, and PyTorch.

    python -m experiments.bench.training

LeNet-300-100 on images of MNIST's shape, ResNet-20 and 56 on images of CIFAR's, batches of 128 and
1024, all data in the memory of the device. Ours is `make_loop` on a state under a fixed mask; the
dense loop does the same without a mask, written by hand; PyTorch (the extra `bench`) prunes with
`torch.nn.utils.prune` and loops in Python. Blocks of steps are timed in pairs with ours. Next to
the ratios stand the share of the device's peak, and what a whole run (200 epochs dense, then IMP in
three cycles of 10) spends beside the training steps of these 230 epochs.

The result goes to a JSON file and, as Markdown and CSV, beside it. The default run takes about
eight minutes on two quiet CPU cores, where the ResNets with batches of 1024 are skipped.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Literal

import jax
from rich.console import Console

from experiments.bench.common import document, machine
from experiments.bench.training import measure, peaks, problems, pytorch, report
from experiments.models import prefer_eigen_convolutions

_LEAST_PAIRS, _MOST_PAIRS = 6, 12  # an interval of 95 % takes 6


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time training loops."""

    models: tuple[str, ...] = ("lenet_300_100", "resnet20", "resnet56")
    """Models: lenet_300_100, resnet20, resnet56."""

    batches: tuple[int, ...] = (128, 1024)
    """Images in a batch."""

    pairs: int | None = None
    """Pairs of ours with each other loop, at least 6. Default: what seconds_per_side allows of 6 to
    12."""

    block_seconds: float = 0.5
    """How long a side of a pair runs at least, in whole steps."""

    seconds_per_side: float = 100.0
    """How long our side of the pairs may take; a case is skipped if a first step says that it would
    take longer."""

    images: int = 45_000
    """Training images of each shape, at least those of a batch."""

    evaluated: int | None = None
    """Images that are evaluated for the parts of a whole run; the time is scaled to 10,000.
    Default: 1,000 on a CPU, 10,000 elsewhere."""

    sparsity: float = 0.9
    """Fraction removed, in (0, 1)."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32. PyTorch uses autocast for bfloat16."""

    convolutions: Literal["eigen", "default"] = "eigen"
    """How XLA computes convolutions on a CPU: by Eigen, or as jaxlib does by default, which is
    slower. Other devices ignore it."""

    seed: int = 0
    """Seed of parameters, data and the order within pairs."""

    out: pathlib.Path = pathlib.Path("runs/bench/training.json")
    """File for the result; the tables go beside it, with the suffixes .md and .csv."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "models", problems.SHAPES)
    if not settings.batches:
        raise ValueError("batches is empty. The usual ones are 128 1024.")
    document.check_fraction("sparsity", settings.sparsity)
    document.check_least(settings, batches=1, pairs=_LEAST_PAIRS, images=1, evaluated=1, seed=0)
    document.check_least(settings, block_seconds=0, seconds_per_side=0)


def plan(settings: Settings) -> measure.Plan:
    """How much is measured: what was asked for, and the defaults of this kind of device."""
    on_cpu = jax.default_backend() == "cpu"
    return measure.Plan(
        pairs=(settings.pairs, settings.pairs) if settings.pairs else (_LEAST_PAIRS, _MOST_PAIRS),
        block_seconds=settings.block_seconds,
        seconds_per_side=settings.seconds_per_side,
        images=settings.images,
        evaluated=settings.evaluated or (1_000 if on_cpu else 10_000),
        sparsity=settings.sparsity,
        precision=settings.precision,
        seed=settings.seed,
    )


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all cases and returns the tables."""
    check(settings)
    peak, how_much = peaks.peak(settings.precision), plan(settings)
    runs: list[report.Row] = []

    def measured(name: str, batch: int, known: dict[str, float]) -> list[report.Row]:
        found = measure.case(name, batch, how_much, peak=peak, image_seconds=known.get(name))
        known[name] = found.image_seconds
        runs.extend([found.run] if found.run else [])
        return [found.row]

    def cases() -> Iterator[document.Case]:
        known: dict[str, float] = {}
        for name in settings.models:
            for batch in sorted(settings.batches):
                yield f"{name}, batch {batch}", partial(measured, name, batch, known)

    def finish(found: document.Document) -> None:
        backend = jax.default_backend()
        found["targets"] = report.targets(found["results"], runs, backend=backend)

    return document.write(
        "training",
        settings,
        cases(),
        markdown=report.markdown,
        finish=finish,
        console=console,
        packages=("jax", "jaxlib", "numpy", "optax", "flax", "torch"),
        given=how_much._asdict(),
        facts={
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "torch_settings": pytorch.settings(measure.torch_device(), machine.usable_cpus()),
            "peak": None if peak is None else peak._asdict(),
            "runs": runs,
        },
        csv_without="_blocks",
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 wrong network, 2 bad input, 130 stopped)."""

    def prepared(settings: Settings, *, console: Console) -> str:
        if settings.convolutions == "eigen":
            prefer_eigen_convolutions()
        return run(settings, console=console)

    with document.compiling_anew():
        return document.main(
            Settings, prepared, name="training", parts="cases", arguments=arguments
        )


if __name__ == "__main__":
    sys.exit(main())
