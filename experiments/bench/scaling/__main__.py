"""What a prune costs on many devices, counted from the compiled program.

    python -m experiments.bench.scaling

Four tables. *Messages*: the mask selection is compiled for 8 simulated devices and for weights of
a real size, of which only the shapes exist; its collectives and their bytes are read from the
optimised program. *Passes*: the same selection runs on real scores, on one device, and counts the
turns of its loops. *Steps*: the collectives and the memory of a compiled training step, with a mask
and without. *Estimate*: arithmetic from these counts and from the bandwidths and latencies written
at the top of `report.py`; nothing of it is measured. docs/scaling.md explains the tables.

It needs no accelerator. The default sizes take about five minutes on two CPU cores.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence

import jax
import tyro
from rich.console import Console

from experiments.bench.common import document
from experiments.bench.scaling import problems, report


@dataclasses.dataclass(frozen=True)
class Settings:
    """Count the messages and passes of a prune, and estimate its time."""

    weights: tuple[int, ...] = (1 << 20, 1 << 24, 1 << 27)
    """Sizes for the passes, in 4 leaves; 2**27 scores need 0.5 GB, a few times."""

    sparsities: tuple[float, ...] = (0.5, 0.9, 0.99)
    """Fractions removed for the passes; the table has the most over them."""

    networks: tuple[str, ...] = tuple(network.name for network in problems.NETWORKS)
    """Networks for messages and estimate."""

    devices: int = 8
    """Devices that are simulated for the messages; powers of 2."""

    seed: int = 0
    """Seed of the scores."""


def run(settings: Settings, console: Console) -> None:
    """Prints the four tables, in Markdown."""
    document.check_names(settings, "networks", [n.name for n in problems.NETWORKS])
    chosen = [n for n in problems.NETWORKS if n.name in settings.networks]

    def show(lines: Sequence[str]) -> None:
        console.print("\n" + "\n".join(lines), markup=False, soft_wrap=True)

    lines, counted = report.messages(chosen)
    show(lines)
    lines, turns = report.passes(settings.weights, settings.sparsities, settings.seed)
    show(lines)
    show(report.steps())
    show(report.estimates(chosen, counted, turns))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (0, or 2 for bad input)."""
    settings = tyro.cli(Settings, args=arguments, prog="python -m experiments.bench.scaling")
    console = Console(highlight=False)
    with contextlib.suppress(RuntimeError):  # the devices are there already
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", settings.devices)
    try:
        run(settings, console)
    except ValueError as error:
        console.print(f"Error: {error}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
