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
import json
import os
import pathlib
import sys
from typing import Any, Literal

import jax
from rich.console import Console

from experiments.bench.common import document as _document
from experiments.bench.common import machine as _machine
from experiments.bench.training import measure as _training_measure
from experiments.bench.training import peaks as _training_peaks
from experiments.bench.training import problems as _training_problems
from experiments.bench.training import pytorch as _training_torch
from experiments.bench.training import report as _training_report
from experiments.models import prefer_eigen_convolutions

_LEAST_PAIRS, _MOST_PAIRS = 6, 12  # an interval of 95 % takes 6
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "torch")


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
    """Raises for what can be seen wrong before anything is measured.

    Raises:
      ValueError: with the value and the repair.
    """
    for name in settings.models:
        if name not in _training_problems.SHAPES:
            known = ", ".join(_training_problems.SHAPES)
            raise ValueError(f"unknown name {name!r} in models. Known: {known}.")
    if not settings.models or not settings.batches:
        raise ValueError("models and batches must not be empty.")
    if not 0 < settings.sparsity < 1:
        raise ValueError(
            f"sparsity is the fraction removed, in (0, 1); got {settings.sparsity}. The usual "
            "choice is 0.9."
        )
    numbers = {f"batches[{i}]": (batch, 1) for i, batch in enumerate(settings.batches)}
    numbers |= {"pairs": (settings.pairs, _LEAST_PAIRS), "images": (settings.images, 1)}
    numbers |= {"evaluated": (settings.evaluated, 1), "seed": (settings.seed, 0)}
    numbers |= {"block_seconds": (settings.block_seconds, 0)}
    numbers |= {"seconds_per_side": (settings.seconds_per_side, 0)}
    for field, (value, least) in numbers.items():
        if value is not None and not value >= least:
            raise ValueError(f"{field} is at least {least}; got {value}.")


def plan(settings: Settings) -> _training_measure.Plan:
    """How much is measured: what was asked for, and the defaults of this kind of device."""
    on_cpu = jax.default_backend() == "cpu"
    return _training_measure.Plan(
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
    """Measures all cases and writes the JSON file and the tables, after each case anew.

    Args:
      settings: the settings.
      console: where progress goes; standard output if omitted.

    Returns:
      The tables, in Markdown.

    Raises:
      ValueError, OSError: before anything is measured, for bad input.
      RuntimeError: if a network is not what it is to be; what was measured before is in the file.
    """
    console = console or Console()
    check(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    backend = jax.default_backend()
    peak = _training_peaks.peak(settings.precision)
    how_much = plan(settings)
    document: dict[str, Any] = {
        "command": _document.command("experiments.bench.training", settings),
        "settings": {
            **dataclasses.asdict(settings),
            **how_much._asdict(),
            "out": os.fspath(settings.out),
        },
        "machine": _machine.describe(_PACKAGES),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "torch_settings": _training_torch.settings(
            _training_measure.torch_device(), _machine.usable_cpus()
        ),
        "started": _document.now(),
        "load_before": _machine.load(),
        "peak": None if peak is None else peak._asdict(),
        "results": [],
        "runs": [],
    }
    table = ""
    for name in settings.models:
        image_seconds = None
        for batch in sorted(settings.batches):
            console.print(f"{name}, batch {batch} ...")
            measured = _training_measure.case(
                name, batch, how_much, peak=peak, image_seconds=image_seconds
            )
            image_seconds = measured.image_seconds
            results = [*document["results"], measured.row]
            runs = [*document["runs"], *([measured.run] if measured.run else [])]
            document.update(
                results=results,
                runs=runs,
                targets=_training_report.targets(results, runs, backend=backend),
                load_after=_machine.load(),
                finished=_document.now(),
            )
            settings.out.write_text(json.dumps(document, indent=2) + "\n")
            table = _training_report.markdown(document)
            settings.out.with_suffix(".md").write_text(table + "\n")
            settings.out.with_suffix(".csv").write_text(_training_report.as_csv(results))
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 wrong network, 2 bad input, 130 interrupted).

    A missed target is printed and is no error.
    """

    def prepared(settings: Settings, *, console: Console) -> str:
        if settings.convolutions == "eigen":
            prefer_eigen_convolutions()
        return run(settings, console=console)

    with _document.compiling_anew():
        return _document.main(
            Settings,
            prepared,
            module="experiments.bench.training",
            parts="cases",
            arguments=arguments,
        )


if __name__ == "__main__":
    sys.exit(main())
