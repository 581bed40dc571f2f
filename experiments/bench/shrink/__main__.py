"""How much faster networks are whose channels were removed, next to what counting promises.

    python -m experiments.bench.shrink

ResNet-20 and 56, VGG-16, ResNet-50 and the dense layers of a transformer, in inference: of every
group of channels a fraction is removed, those of the smallest L1 norm (but the channels that the
padded shortcuts of ResNet-20 and 56 tie together stay), the network is shrunk, its results are
compared with those of the masked network, and both are timed in pairs. The table has
the measured speedup over the theoretical one and the multiply-accumulates a second of both.

The result goes to a JSON file and, as Markdown, beside it.
"""

import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxprune as jp
from experiments.bench.common import document
from experiments.bench.shrink import problems, report

_CLOSE = 1e-4  # of the largest result; float32 sums of thousands of terms in another order


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time networks before and after channels are removed."""

    networks: tuple[str, ...] = ("resnet20", "resnet56", "vgg16", "resnet50", "transformer_mlp")
    """Networks: resnet20, resnet56, vgg16, resnet50, transformer_mlp."""

    fractions: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Fractions of the channels of every group that are removed, in (0, 1)."""

    round_to: int = 1
    """Multiple to which the kept channels of a group are rounded up: 8 or 16 suit some devices."""

    repeats: int = 15
    """Timed pairs, at least 6."""

    min_seconds: float = 0.1
    """How long each side of a pair runs at least, in whole calls."""

    seed: int = 0
    """Seed of weights, inputs and the order within pairs."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    out: pathlib.Path = pathlib.Path("runs/bench/shrink.json")
    """File for the result; the table goes beside it, with the suffix .md."""


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "networks", problems.problems(on_cpu=True))
    for fraction in settings.fractions:
        document.check_fraction("fractions", fraction)
    if not settings.fractions:
        raise ValueError("fractions is empty. The usual ones are 0.3 0.5 0.7.")
    document.check_least(settings, repeats=6, round_to=1, min_seconds=0)


def measure(name: str, problem: problems.Problem, settings: Settings) -> list[report.Row]:
    """Shrinks one network by every fraction and times it beside the dense one."""
    apply, variables, x = problem.apply, problem.variables, problem.x
    start = time.perf_counter()
    groups = jp.structured.channel_groups(apply, variables, x)
    grouping = time.perf_counter() - start
    scores = jp.structured.magnitude(groups, variables)
    dense = jax.jit(apply)
    dense_macs = jp.metrics.flops(apply, variables, x).macs
    rows = []
    for fraction in settings.fractions:
        kept = jp.structured.select(
            groups,
            scores,
            fraction,
            allocation=jp.structured.uniform(),
            round_to=settings.round_to,
            skip=[group.name for group in groups if not _alike(group)],
        )
        masks = jp.structured.masks(groups, kept)
        small_apply, small = jp.structured.shrink(apply, variables, masks, x)
        small_jit = jax.jit(small_apply)
        wanted = np.asarray(dense(jp.apply_mask(variables, masks), x), np.float64)
        error = np.abs(np.asarray(small_jit(small, x), np.float64) - wanted).max()
        error = float(error / np.abs(wanted).max())
        if not error <= _CLOSE:
            raise RuntimeError(
                f"{name} at {fraction:g}: small and masked results differ by {error:.1e} of the "
                "largest. No time of it is reported."
            )
        rows.append(
            report.row(
                name,
                problem.what,
                fraction,
                weights=(_size(variables), _size(small)),
                macs=(dense_macs, jp.metrics.flops(small_apply, small, x).macs),
                largest_error=error,
                grouping_seconds=grouping,
                measured=jp.metrics.compare_latency(
                    dense=(dense, (variables, x)),
                    small=(small_jit, (small, x)),
                    batch_size=x.shape[0],
                    repeats=settings.repeats,
                    min_seconds=settings.min_seconds,
                    seed=settings.seed,
                ),
            )
        )
    return rows


def _alike(group: jp.structured.Group) -> bool:
    """Whether all parameters that make a group's channels make all of them.

    The channels that padded shortcuts (option A) tie together are not alike: a fraction of them
    may be most of the narrowest stage. They stay, as in the literature.
    """
    return all(len(set(m.owners.tolist())) == group.size for m in group.role("out"))


def _size(variables: Any) -> int:
    """Trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def run(settings: Settings, *, console: Console | None = None) -> str:
    """Measures all networks and returns the table."""
    check(settings)
    backend = jax.default_backend()
    known = problems.problems(on_cpu=backend == "cpu")

    def finish(found: document.Document) -> None:
        found["targets"] = report.targets(found["results"], backend=backend)

    return document.write(
        "shrink",
        settings,
        [(n, lambda n=n: measure(n, known[n](settings.seed), settings)) for n in settings.networks],
        markdown=report.markdown,
        finish=finish,
        console=console,
        packages=("jax", "jaxlib", "numpy", "flax"),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 wrong results, 2 bad input, 130 stopped)."""
    return document.main(Settings, run, name="shrink", parts="networks", arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
