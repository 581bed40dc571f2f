"""What a prune costs on many devices, counted from the compiled program.

    python -m experiments.bench.scaling

Four tables. *Messages*: the mask selection is compiled for 8 simulated devices and for weights of
a real size, of which only the shapes exist; its collectives and their bytes are read from the
optimised program. *Passes*: the same selection runs on real scores, on one device, and counts the
turns of its loops. *Steps*: the collectives and the memory of a compiled training step, with a mask
and without. *Estimate*: arithmetic from these counts and from the bandwidths and latencies written
at the top of this file; nothing of it is measured. docs/scaling.md explains the tables.

It needs no accelerator. The default sizes take about five minutes on two CPU cores.
"""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

import jaxprune as jp
from experiments.bench.scaling.counts import (
    ACCELERATOR_POINTS,
    CPU_POINTS,
    Messages,
    Passes,
    Shapes,
    messages,
    passes,
    scores_of,
    training_step,
)

# Assumptions of the estimate. Bandwidths: of the vendors' data sheets, bytes a second. A small
# all-reduce takes 2 log2(n) hops, up a tree of n devices and down; a hop takes these seconds.
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12, "TPU v5p": 2.77e12}
HOP = 7e-6
LINK = 50e9  # bytes a second into each device, for what is gathered
DEVICES = (8, 64, 512, 4096)


def transformer(width: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """The kernels of the blocks of a transformer, four leaves a block."""
    kernels = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    return {
        f"block_{i}/{name}/kernel": shape for i in range(blocks) for name, shape in kernels.items()
    }


class Network(NamedTuple):
    """Weights of a size. What is compiled may be the same weights in fewer leaves."""

    name: str
    shapes: Shapes
    compiled: Shapes

    @property
    def weights(self) -> int:
        """How many."""
        return sum(map(math.prod, self.shapes.values()))


NETWORKS = (
    Network("1e9", transformer(4096, 5), transformer(4096, 5)),
    # 220 leaves would compile for many minutes; these have more than 2**32 weights, as all have.
    Network("1e11", transformer(12288, 55), transformer(12288, 3)),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Count the messages and passes of a prune, and estimate its time."""

    weights: tuple[int, ...] = (1 << 20, 1 << 24, 1 << 27)
    """Sizes for the passes, in 4 leaves; 2**27 scores need 0.5 GB, a few times."""

    sparsities: tuple[float, ...] = (0.5, 0.9, 0.99)
    """Fractions removed for the passes; the table has the most over them."""

    networks: tuple[str, ...] = tuple(network.name for network in NETWORKS)
    """Networks for messages and estimate."""

    devices: int = 8
    """Devices that are simulated for the messages; powers of 2."""

    seed: int = 0
    """Seed of the scores."""


class Estimate(NamedTuple):
    """A prune on paper; per device."""

    full_passes: int  # how often every score is read
    read: float  # bytes read and written in memory
    messages: int  # all-reduces
    sent: int  # bytes that the all-reduces add up
    memory: float  # seconds for ``read``
    latency: float  # seconds for ``messages``
    gathered: int  # bytes that a gather of all scores would bring to each device instead


def estimate(
    network: Network,
    count: Messages,
    turns: Passes,
    *,
    devices: int,
    bandwidth: float,
    itemsize: int,
    within: bool,
) -> Estimate:
    """Multiplies counts, sizes and assumptions."""
    n, largest = network.weights, max(map(math.prod, network.shapes.values()))
    scale = len(network.shapes) / len(network.compiled)  # bytes go with the number of leaves
    # The search; one pass to verify the sample; one over the earlier mask; one that writes.
    full = turns.search + (turns.sample > 0) + within + 1
    width = itemsize + within
    read = (full * width + 1) * n / devices + turns.ties * width * largest / devices
    number = (
        len(count.once)
        + turns.sample * len(count.sample)
        + turns.search * len(count.search)
        + turns.ties * len(count.ties)
    )
    sent = scale * (
        sum(count.once) + turns.sample * sum(count.sample) + turns.search * sum(count.search)
    ) + turns.ties * sum(count.ties)
    return Estimate(
        full_passes=full,
        read=read,
        messages=number,
        sent=round(sent),
        memory=read / bandwidth,
        latency=number * 2 * math.log2(devices) * HOP,
        gathered=itemsize * n,
    )


def run(settings: Settings, console: Console) -> None:
    """Prints the four tables, in Markdown.

    Args:
      settings: the settings.
      console: where to.
    """
    chosen = [network for network in NETWORKS if network.name in settings.networks]
    if len(chosen) != len(settings.networks):
        known = ", ".join(network.name for network in NETWORKS)
        raise ValueError(f"networks are of {known}; got {', '.join(settings.networks)}.")

    def row(*cells: Any) -> None:
        console.print("| " + " | ".join(map(str, cells)) + " |", markup=False, soft_wrap=True)

    def head(title: str, *cells: str) -> None:
        console.print(f"\n{title}\n", markup=False, soft_wrap=True)
        row(*cells)
        row(*["---"] * len(cells))

    head(
        f"Messages, counted in the program compiled for {jax.device_count()} devices: bytes of each"
        " all-reduce.",
        "network", "leaves compiled", "scores", "allocation", "within", "points", "once",
        "a turn of the sample", "a turn of the search", "a turn of ties", "others",
    )  # fmt: skip
    counted = {}
    for network in chosen:
        for dtype in ("float32", "bfloat16"):
            counted[network.name, dtype] = _message_row(row, network, dtype=dtype)
    _message_row(row, chosen[0], dtype="float32", within=False)
    _message_row(row, chosen[0], dtype="float32", points=CPU_POINTS)
    _message_row(row, chosen[0], dtype="float32", allocation="uniform")

    head(
        "Passes, counted on real scores: turns of the sample, of the search, of ties; most over "
        f"the sparsities {', '.join(map(str, settings.sparsities))}.",
        "scores", "allocation", "weights", f"{CPU_POINTS} points", f"{ACCELERATOR_POINTS} points",
    )  # fmt: skip
    turns: dict[tuple[str, str, int], Passes] = {}
    for kind, allocation in (
        ("float32", "global"),
        ("repeated", "global"),
        ("bfloat16", "global"),
        ("repeated", "uniform"),
    ):
        spread = jp.masks.uniform() if allocation == "uniform" else None
        for weights in settings.weights:
            scores = scores_of(weights, kind, settings.seed)
            for points in (CPU_POINTS, ACCELERATOR_POINTS):
                each = passes(scores, settings.sparsities, points=points, allocation=spread)
                most = Passes(*(max(column) for column in zip(*each, strict=True)))
                turns[kind, allocation, points] = most  # of the last size
            row(
                kind, allocation, f"{weights:,}",
                *(
                    ", ".join(map(str, turns[kind, allocation, points]))
                    for points in (CPU_POINTS, ACCELERATOR_POINTS)
                ),
            )  # fmt: skip

    head(
        f"A training step, compiled for {jax.device_count()} devices: bytes a device, for each "
        "parameter of the network (float32, AdamW).",
        "parameters", "mask", "collectives", "state and batch", "memory accessed", "saved in all",
    )  # fmt: skip
    for sharded in (False, True):
        for masked in (False, True):
            step = training_step(sharded=sharded, masked=masked)
            names = (f"{name} {size:.2f}" for name, size in sorted(step.collectives.items()))
            row(
                "sharded" if sharded else "whole", masked, ", ".join(names),
                f"{step.state:.3f}", f"{step.accessed:.2f}", f"{step.saved:.3f}",
            )  # fmt: skip

    head(
        f"Estimate for {ACCELERATOR_POINTS} points, global, within an earlier mask; hop "
        f"{HOP * 1e6:g} us, link {LINK / 1e9:g} GB/s. Arithmetic.",
        "network", "scores", "devices", "full passes", "GB read a device", "messages",
        "kB added up", *(f"memory on {name}" for name in BANDWIDTHS), "latency",
        "gather of all scores",
    )  # fmt: skip
    for network in chosen:
        for dtype in ("float32", "bfloat16"):
            kind = "repeated" if dtype == "float32" else dtype
            found = counted[network.name, dtype]
            # Equal scores are searched for in one leaf; the largest needs most turns.
            largest = max(map(math.prod, network.shapes.values()))
            most = turns[kind, "global", ACCELERATOR_POINTS]
            most = most._replace(ties=math.ceil(math.log(largest, 4)) + 1)
            for devices in DEVICES:
                several = [
                    estimate(
                        network, found, most, devices=devices, bandwidth=bandwidth,
                        itemsize=jnp.dtype(dtype).itemsize, within=True,
                    )
                    for bandwidth in BANDWIDTHS.values()
                ]  # fmt: skip
                one = several[0]
                row(
                    network.name, dtype, devices, one.full_passes, f"{one.read / 1e9:.3g}",
                    one.messages, f"{one.sent / 1e3:,.0f}",
                    *(f"{e.memory * 1e3:.3g} ms" for e in several),
                    f"{one.latency * 1e3:.3g} ms",
                    f"{one.gathered / 1e9:.3g} GB, {one.gathered / LINK * 1e3:,.0f} ms",
                )  # fmt: skip


def _message_row(
    row: Callable[..., None],
    network: Network,
    *,
    dtype: str,
    within: bool = True,
    points: int = ACCELERATOR_POINTS,
    allocation: str = "global",
) -> Messages:
    spread = jp.masks.uniform() if allocation == "uniform" else None
    found = messages(network.compiled, dtype=dtype, points=points, within=within, allocation=spread)
    row(
        network.name, len(network.compiled), dtype, allocation, within, points,
        *(" + ".join(map(str, sizes)) or "none" for sizes in found[:4]),
        ", ".join(found.others) or "none",
    )  # fmt: skip
    return found


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
