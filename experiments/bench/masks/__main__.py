"""How fast a mask is made, and in how much memory, beside what else makes one.

    python -m experiments.bench.masks

Scores are the magnitudes of He-normal weights. Masks of this library are made from them by one
compiled call; in the same process, in turns with it, by PyTorch's `global_unstructured` (with the
extra `bench`), by a compiled sort, by NumPy's partition, and by one comparison with a threshold
that is already known, which is the floor. How many weights each of them keeps stands next to its
time. First calls are measured apart, each in a process of its own, because compiling is most of
what they take. Targets are printed with what was measured, met or not.

The result goes to a JSON file and, as Markdown, beside it. Close what else runs on the machine: the
load average is recorded, but it does not correct a time. The default sizes take about five minutes
on two CPU cores.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Literal

import jax
from rich.console import Console

from experiments.bench.common import document, machine, timing
from experiments.bench.masks import first_calls, methods, problems, report


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time what makes a mask, at several sizes."""

    sizes: tuple[str, ...] | None = None
    """Sizes: 1m (one leaf), 10m (ten leaves), resnet50 (25.5 million in 54 leaves), 1b (eight
    leaves). Default: 1m 10m resnet50, and on an accelerator 1b; on a CPU ask for 1b. A size or a
    method for which memory is short is skipped, and the table says so."""

    sparsity: float = 0.9
    """Fraction removed, in (0, 1); 2:4 fixes its own."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the scores; NumPy and PyTorch get the same values as float32."""

    repeats: int = 7
    """Runs of each method, at least 7."""

    slow_repeats: int = 7
    """Runs of the sort, NumPy and PyTorch, which take seconds each at 25 million weights."""

    first_calls: bool = True
    """Measure the first calls as well, in some twenty processes: about three minutes on a CPU."""

    seed: int = 0
    """Seed of the scores."""

    out: pathlib.Path = pathlib.Path("runs/bench/masks.json")
    """File for the result; the table goes beside it, with the suffix .md."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    if settings.sizes is not None:
        document.check_names(settings, "sizes", problems.SIZES)
    document.check_fraction("sparsity", settings.sparsity)
    document.check_least(settings, repeats=7, slow_repeats=1, seed=0)


def measure(name: str, settings: Settings) -> list[report.Row]:
    """Measures every method at one size.

    Returns:
      A row for each method, also for those that could not run.
    """
    shapes = problems.SIZES[name]
    weights, exact = problems.size(shapes), methods.targets(shapes, settings.sparsity)
    names, compiled = methods.names(), {}
    try:
        # Scores and a mask must fit twice.
        itemsize = 4 if settings.dtype == "float32" else 2
        timing.check_memory(2 * weights * (1 + itemsize), machine.free_device_bytes())
    except timing.Unavailable as reason:
        outcomes = dict.fromkeys(names, str(reason))
    else:
        scores = problems.he_scores(shapes, dtype=settings.dtype, seed=settings.seed)
        ready, reasons = methods.prepare(jax.block_until_ready(scores), exact, settings.sparsity)
        outcomes = reasons | timing.interleaved(
            ready,
            repeats=settings.repeats,
            slow_repeats=settings.slow_repeats,
            warm=jax.default_backend() != "cpu",
        )
        compiled = {method.name: method.compiled for method in ready}
    return [report.row(name, weights, m, exact[m], outcomes[m], compiled.get(m)) for m in names]


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all sizes and returns the tables."""
    check(settings)
    console = console or Console()
    sizes, first = settings.sizes or _default_sizes(), []
    if settings.first_calls:
        first = first_calls.measure(console.print)

    def cases() -> Iterator[document.Case]:
        for name in sizes:
            weights = problems.size(problems.SIZES[name])
            yield f"size {name} ({weights:,} weights)", partial(measure, name, settings)

    def finish(found: document.Document) -> None:
        rows, backend = found["results"], jax.default_backend()
        found["ratios"] = report.ratios(rows)
        found["targets"] = report.targets(rows, first, backend=backend)

    return document.write(
        "masks",
        settings,
        cases(),
        markdown=report.markdown,
        finish=finish,
        console=console,
        given={"sizes": sizes},
        facts={"first_calls": first},
    )


def _default_sizes() -> tuple[str, ...]:
    return tuple(n for n in problems.SIZES if n != "1b" or jax.default_backend() != "cpu")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 a wrong mask, 2 bad input, 130 stopped)."""
    with document.compiling_anew():
        return document.main(
            Settings,
            run,
            name="masks",
            parts="sizes",
            arguments=arguments,
            failure=timing.MiscountError,
            word="Wrong mask",
        )


if __name__ == "__main__":
    sys.exit(main())
