"""How many images a second the input pipeline makes, alone and with a network that trains on it.

    python -m experiments.bench.loading --data cifar10 --data-dir DIR

A prepared set is streamed with several numbers of worker processes and kinds of preprocessing, and
photographs of ImageNet's usual size, made here, are decoded and cropped in this process. Then a
network is trained on the stream and, for comparison, on the same set in memory.

The result goes to a JSON file and, as Markdown, beside it.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console

from experiments import data
from experiments.bench.common import document as _document
from experiments.bench.common import machine as _machine
from experiments.bench.loading import loop as _loading_loop
from experiments.bench.loading import report as _loading_report
from experiments.bench.loading import throughput as _throughput

_PACKAGES = ("jax", "numpy", "pillow", "grain", "array-record", "tensorflow-datasets")
_PREPROCESS: dict[str, data.Preprocess | None] = {"none": None, "crop_flip": data.PadCropFlip()}
_PHOTOGRAPH = (375, 500)  # height and width, in pixels: ImageNet's most frequent size
_PHOTOGRAPHS = 20
_GRAIN = 12.0  # makes 112 kB, about the mean of ImageNet's training images


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
    """Raises for what can be seen wrong before anything is measured.

    Raises:
      ValueError: with the value and the repair.
    """
    for name in settings.preprocess:
        if name not in _PREPROCESS:
            raise ValueError(
                f"unknown name {name!r} in preprocess. Known: {', '.join(_PREPROCESS)}."
            )
    if not settings.workers or min(settings.workers) < 0 or not settings.preprocess:
        raise ValueError(
            "workers and preprocess must not be empty, and workers not negative; got "
            f"{settings.workers} and {settings.preprocess}."
        )
    if settings.repeats < 1 or settings.min_seconds < 0:
        raise ValueError(
            "repeats is at least 1 and min_seconds at least 0; got "
            f"{settings.repeats} and {settings.min_seconds}."
        )


def measure_stream(settings: Settings, preprocess: str, workers: int) -> list[dict[str, Any]]:
    """The row of a streamed set."""
    stream = data.make_stream(
        settings.data,
        data_dir=settings.data_dir,
        batch_size=settings.batch_size,
        seed=settings.seed,
        preprocess=_PREPROCESS[preprocess],
        workers=workers,
    )
    with contextlib.closing(stream()) as batches:
        found = _throughput.images_per_second(
            batches,
            repeats=settings.repeats,
            min_seconds=settings.min_seconds,
            warm_up=4 * max(workers, 1),
        )
    height, width, channels = stream.image_shape
    what = f"{settings.data}, {height}x{width}x{channels}"
    row = {"what": what, "preprocess": preprocess, "workers": workers}
    return [{**row, **dataclasses.asdict(found)}]


def measure_loop(settings: Settings, workers: int | None) -> list[dict[str, Any]]:
    """The row of a network trained on the set, streamed or, without ``workers``, in memory."""
    assert settings.model is not None
    row = _loading_loop.measure(
        settings.data,
        model=settings.model,
        data_dir=settings.data_dir,
        batch_size=settings.batch_size,
        preprocess=settings.preprocess[0],
        workers=workers,
        seed=settings.seed,
        repeats=settings.repeats,
        min_seconds=settings.min_seconds,
    )
    return [row]


def measure_photographs(settings: Settings) -> list[dict[str, Any]]:
    """Rows of ImageNet's preprocessing of one photograph after another, in this process."""
    from PIL import Image

    rng = np.random.default_rng(settings.seed)
    photographs = [_photograph(rng) for _ in range(_PHOTOGRAPHS)]
    kilobytes = statistics.mean(map(len, photographs)) / 1000
    kinds = {
        "decode": lambda image, rng: image,
        "decode, random crop, flip": data.RandomResizedCrop(),
        "decode, resize, centre crop": data.ResizeCentreCrop(),
    }

    def one_by_one(preprocess: data.Preprocess) -> Iterator[dict[str, Any]]:
        while True:
            for photograph in photographs:
                image = np.asarray(Image.open(io.BytesIO(photograph)))
                yield {"image": preprocess(image, rng)[None], "label": [0]}

    height, width = _PHOTOGRAPH
    what = f"JPEG, {height}x{width}x3, {kilobytes:.0f} kB"
    rows = []
    for name, preprocess in kinds.items():
        found = _throughput.images_per_second(
            one_by_one(preprocess), repeats=settings.repeats, min_seconds=settings.min_seconds
        )
        row = {"what": what, "preprocess": name, "workers": None}
        rows.append({**row, **dataclasses.asdict(found)})
    return rows


def _photograph(rng: np.random.Generator) -> bytes:
    """Coloured clouds with grain: about the bytes, and so the decoding time, of a photograph."""
    from PIL import Image

    height, width = _PHOTOGRAPH
    clouds = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    clouds = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grainy = np.clip(clouds + rng.normal(0, _GRAIN, (height, width, 1)), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(grainy).save(encoded, format="JPEG", quality=95)
    return encoded.getvalue()


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all rows and writes the JSON file and the table, after each row anew.

    Args:
      settings: the settings.
      console: where progress goes; standard output if omitted.

    Returns:
      The table, in Markdown.

    Raises:
      ValueError, OSError: before anything is measured, for bad input.
    """
    console = console or Console()
    check(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    given = {**dataclasses.asdict(settings), "out": os.fspath(settings.out)}
    if settings.data_dir is not None:
        given["data_dir"] = os.fspath(settings.data_dir)
    document: dict[str, Any] = {
        "command": _document.command("experiments.bench.loading", settings),
        "settings": given,
        "machine": _machine.describe(_PACKAGES),
        "started": _document.now(),
        "load_before": _machine.load(),
        "results": [],
    }
    table = ""
    for name, measure in _measurements(settings):
        console.print(f"{name} ...")
        document["results"] += measure()
        document.update(load_after=_machine.load(), finished=_document.now())
        settings.out.write_text(json.dumps(document, indent=2) + "\n")
        table = _loading_report.markdown(document)
        settings.out.with_suffix(".md").write_text(table + "\n")
    return table


def _measurements(settings: Settings) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    for preprocess, workers in itertools.product(settings.preprocess, settings.workers):
        measure = functools.partial(measure_stream, settings, preprocess, workers)
        yield f"{settings.data}, {preprocess}, {workers} workers", measure
    for workers in (*settings.workers, None) if settings.model else ():
        where = "in memory" if workers is None else f"{workers} workers"
        yield (
            f"{settings.model} on {settings.data}, {where}",
            functools.partial(measure_loop, settings, workers),
        )
    if settings.photographs:
        yield "photographs", functools.partial(measure_photographs, settings)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 lost worker, 2 bad input, 130 stopped)."""
    return _document.main(
        Settings, run, module="experiments.bench.loading", parts="rows", arguments=arguments
    )


if __name__ == "__main__":
    sys.exit(main())
