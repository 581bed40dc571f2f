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
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from experiments.bench.common import document as _document
from experiments.bench.common import machine as _machine
from experiments.bench.common import timing as _timing
from experiments.bench.masks import baselines as _baselines
from experiments.bench.masks import first_calls as _first_calls
from experiments.bench.masks import methods as _methods
from experiments.bench.masks import problems as _shapes
from experiments.bench.masks import report as _report

_LEAST_REPEATS = 7


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
    """Raises for what can be seen wrong before anything is measured.

    Raises:
      ValueError: with the value and the repair.
    """
    for name in settings.sizes or ():
        if name not in _shapes.SIZES:
            raise ValueError(f"unknown size {name!r}. Known: {', '.join(_shapes.SIZES)}.")
    if not 0 < settings.sparsity < 1:
        raise ValueError(
            f"sparsity is the fraction removed, in (0, 1); got {settings.sparsity}. The usual "
            "choice is 0.9."
        )
    for field, least in (("repeats", _LEAST_REPEATS), ("slow_repeats", 1), ("seed", 0)):
        if getattr(settings, field) < least:
            raise ValueError(f"{field} is at least {least}; got {getattr(settings, field)}.")


def measure(name: str, settings: Settings) -> list[_report.Row]:
    """Measures every method at one size.

    Args:
      name: a key of the table of sizes.
      settings: the settings.

    Returns:
      A row for each method, also for those that could not run.

    Raises:
      MiscountError: if a mask of ours keeps another number of weights than it must.
      RuntimeError: if one of ours fails, or counts differ between runs.
    """
    shapes = _shapes.SIZES[name]
    weights = _shapes.size(shapes)
    targets = _methods.targets(shapes, settings.sparsity)
    whole = targets[_methods.GLOBAL]
    exact = {**dict.fromkeys((_methods.EAGER, *_baselines.BASELINES), whole), **targets}
    reason = _no_room(weights, settings)
    if reason is not None:
        return [_report.row(name, weights, m, exact[m], reason, None) for m in _names()]

    scores = _shapes.he_scores(shapes, dtype=settings.dtype, seed=settings.seed)
    jax.block_until_ready(scores)
    methods, reasons = _prepare(scores, targets, settings)
    times = _timing.interleaved(
        methods,
        repeats=settings.repeats,
        slow_repeats=settings.slow_repeats,
        warm=jax.default_backend() != "cpu",
    )
    outcomes = {**reasons, **times}
    compiled = {method.name: method.compiled for method in methods}
    return [_report.row(name, weights, m, exact[m], outcomes[m], compiled.get(m)) for m in _names()]


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all sizes and writes the JSON file and the table, after each size anew.

    Args:
      settings: the settings.
      console: where progress goes; standard output if omitted.

    Returns:
      The table, in Markdown.

    Raises:
      ValueError, OSError: before anything is measured, for bad input.
      MiscountError, RuntimeError: as `measure`; what was measured before is in the file.
    """
    console = console or Console()
    check(settings)
    sizes = settings.sizes or _default_sizes()
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    backend = jax.default_backend()
    document: dict[str, Any] = {
        "command": _document.command("experiments.bench.masks", settings),
        "settings": {
            **dataclasses.asdict(settings),
            "sizes": sizes,
            "out": os.fspath(settings.out),
        },
        "machine": _machine.describe(),
        "started": _document.now(),
        "load_before": _machine.load(),
        "results": [],
        "first_calls": [],
    }
    table = ""
    if settings.first_calls:
        document["first_calls"] = _first_calls.measure(console.print)
    for name in sizes:
        console.print(f"size {name} ({_shapes.size(_shapes.SIZES[name]):,} weights) ...")
        results = [*document["results"], *measure(name, settings)]
        document.update(
            results=results,
            ratios=_report.ratios(results),
            targets=_report.targets(results, document["first_calls"], backend=backend),
            load_after=_machine.load(),
            finished=_document.now(),
        )
        settings.out.write_text(json.dumps(document, indent=2) + "\n")
        table = _report.markdown(document)
        settings.out.with_suffix(".md").write_text(table + "\n")
    return table


def _names() -> tuple[str, ...]:
    eager = (_methods.EAGER,) if jax.default_backend() == "cpu" else ()
    return (*_methods.OURS, *eager, *_baselines.BASELINES)


def _default_sizes() -> tuple[str, ...]:
    return tuple(n for n in _shapes.SIZES if n != "1b" or jax.default_backend() != "cpu")


def _no_room(weights: int, settings: Settings) -> str | None:
    """Why a size cannot be measured at all: scores and a mask must fit twice."""
    needed = 2 * weights * (1 + (4 if settings.dtype == "float32" else 2))
    free = _machine.free_device_bytes()
    if needed <= free:
        return None
    return f"skipped: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def _prepare(
    scores: Mapping[str, jax.Array], targets: Mapping[str, int], settings: Settings
) -> tuple[list[_timing.Method], dict[str, str]]:
    """The methods that can run, and by name the reasons of those that cannot."""
    total = sum(leaf.size for leaf in scores.values())
    removed = round(settings.sparsity * total)
    free = _machine.free_device_bytes()
    host: dict[str, np.ndarray] = {}

    def copied() -> dict[str, np.ndarray]:
        if not host:
            _timing.check_memory(4 * total, _machine.free_host_bytes())
            host.update({n: np.asarray(leaf).astype(np.float32) for n, leaf in scores.items()})
        return host

    def ours(name: str) -> _timing.Method:
        method = _methods.of_jax(name, makers[name], scores, free=free)
        return method._replace(exact=targets[name])

    def floor() -> _timing.Method:
        made = [method for method in methods if method.name == _methods.GLOBAL]
        if not made:
            raise _timing.Unavailable(f"skipped: its threshold is that of {_methods.GLOBAL}")
        threshold = _methods.lowest_kept(scores, made[0].run((scores,)))
        return _methods.of_jax(_baselines.FLOOR, _baselines.floor, threshold, scores, free=free)

    def by_sort() -> _timing.Method:
        sort = partial(_baselines.by_sort, removed=removed)
        return _methods.of_jax(_baselines.SORT, sort, scores, free=free, slow=True)

    def partition() -> _timing.Method:
        arrays = copied()
        return _baselines.partition(arrays, removed, free=_machine.free_host_bytes())

    def torch() -> _timing.Method:
        device = "cuda" if jax.default_backend() in ("gpu", "cuda") else "cpu"
        return _baselines.torch(
            copied, settings.sparsity, device=device, free_host=_machine.free_host_bytes
        )

    makers = _methods.makers(settings.sparsity)
    factories: dict[str, Callable[[], _timing.Method]] = {
        **{name: partial(ours, name) for name in _methods.OURS},
        _baselines.FLOOR: floor,
        _baselines.SORT: by_sort,
        _baselines.PARTITION: partition,
        _baselines.TORCH: torch,
    }
    if jax.default_backend() == "cpu":
        factories[_methods.EAGER] = lambda: _methods.eager(scores, settings.sparsity)
    methods: list[_timing.Method] = []
    reasons: dict[str, str] = {}
    for name, make in factories.items():
        try:
            methods.append(make())
        except _timing.Unavailable as reason:
            reasons[name] = str(reason)
    return methods, reasons


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 a wrong mask, 2 bad input, 130 interrupted).

    A missed target is printed and is no error.
    """
    with _document.compiling_anew():
        return _document.main(
            Settings,
            run,
            module="experiments.bench.masks",
            parts="sizes",
            arguments=arguments,
            failure=_timing.MiscountError,
            word="Wrong mask",
        )


if __name__ == "__main__":
    sys.exit(main())
