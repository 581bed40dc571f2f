"""How many images a second the input pipeline makes, alone and with a network that trains on it.

    python -m experiments.bench.loading --data cifar10 --data-dir DIR

A prepared set is streamed with several numbers of worker processes and kinds of preprocessing, and
photographs of ImageNet's usual size, made here, are decoded and cropped in this process. Then a
network is trained on the stream and, for comparison, on the same set in memory.

The result goes to a JSON file and, as Markdown, beside it.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterator
from functools import partial

from rich.console import Console

from experiments.bench.common import document
from experiments.bench.loading import problems, report
from experiments.bench.loading.throughput import images_per_second


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time the input pipeline, alone and in a training loop."""

    data: str = "cifar10"
    """A prepared set of images of one size."""

    data_dir: pathlib.Path | None = None
    """Where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    workers: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of worker processes; 0 is a thread of this process."""

    preprocess: tuple[str, ...] = ("none", "crop_flip")
    """Kinds of preprocessing of the set: none, crop_flip."""

    model: str | None = "lenet_300_100"
    """The network that is trained, with the first preprocessing; None for the loader alone."""

    batch_size: int = 128
    """Images a batch."""

    repeats: int = 3
    """Timed stretches of each row; the median is reported."""

    min_seconds: float = 3.0
    """How long each stretch lasts at least, in whole batches."""

    photographs: bool = True
    """Whether to time ImageNet's preprocessing, of photographs of 500x375 pixels."""

    seed: int = 0
    """Seed of order, crops and photographs."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/loading.json")
    """File for the result; the table goes beside it, with the suffix .md."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "preprocess", problems.PREPROCESS)
    if not settings.workers:
        raise ValueError("workers is empty. Pass numbers of processes, such as 0 2.")
    document.check_least(settings, workers=0, repeats=1, min_seconds=0)


def _row(
    settings: Settings,
    batches: problems.Batches,
    what: str,
    preprocess: str,
    workers: int | None,
    warm_up: int = 4,
) -> document.Row:
    found = images_per_second(
        batches, repeats=settings.repeats, min_seconds=settings.min_seconds, warm_up=warm_up
    )
    row = {"what": what, "preprocess": preprocess, "workers": workers}
    return {**row, **dataclasses.asdict(found)}


def _stream(settings: Settings, preprocess: str, workers: int) -> Iterator[document.Row]:
    with problems.streamed(settings, preprocess, workers) as (what, batches):
        ahead = 4 * max(workers, 1)
        yield _row(settings, batches, what, preprocess, workers, warm_up=ahead)


def _loop(settings: Settings, workers: int | None) -> Iterator[document.Row]:
    with problems.trained(settings, workers) as (what, batches):
        yield _row(settings, batches, what, settings.preprocess[0], workers, warm_up=0)


def _photographs(settings: Settings) -> Iterator[document.Row]:
    for what, how, batches in problems.photographs(settings.seed):
        yield _row(settings, batches, what, how, None)


def cases(settings: Settings) -> Iterator[document.Case]:
    """What is measured, one after the other."""
    for preprocess, workers in itertools.product(settings.preprocess, settings.workers):
        measure = partial(_stream, settings, preprocess, workers)
        yield f"{settings.data}, {preprocess}, {workers} workers", measure
    for workers in (*settings.workers, None) if settings.model else ():
        where = "in memory" if workers is None else f"{workers} workers"
        yield f"{settings.model} on {settings.data}, {where}", partial(_loop, settings, workers)
    if settings.photographs:
        yield "photographs", partial(_photographs, settings)


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all rows and returns the table."""
    check(settings)
    return document.write(
        "loading",
        settings,
        cases(settings),
        markdown=report.markdown,
        console=console,
        packages=("jax", "numpy", "pillow", "grain", "array-record", "tensorflow-datasets"),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 lost worker, 2 bad input, 130 stopped)."""
    return document.main(Settings, run, name="loading", parts="rows", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
