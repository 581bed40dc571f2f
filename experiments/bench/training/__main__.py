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

import os
import sys
from collections.abc import Iterator
from functools import partial

import jax
from rich.console import Console

from experiments.bench.common import document, machine
from experiments.bench.training import measure, peaks, pytorch, report
from experiments.bench.training.settings import Settings, check
from experiments.models import prefer_eigen_convolutions


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all cases and returns the tables."""
    check(settings)
    peak = peaks.peak(settings.precision)
    runs: list[report.Row] = []

    def measured(name: str, batch: int, known: dict[str, float]) -> list[report.Row]:
        found = measure.case(name, batch, settings, peak=peak, image_seconds=known.get(name))
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
        given={"evaluated": settings.evaluated_images()},
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
