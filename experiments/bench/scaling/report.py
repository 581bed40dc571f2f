"""The four tables, each counted or computed as it is made."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments.bench.common.tables import table
from experiments.bench.scaling import counts
from experiments.bench.scaling.counts import ACCELERATOR_POINTS, CPU_POINTS, Messages, Passes
from experiments.bench.scaling.problems import Network

# Assumptions of the estimate. Bandwidths: of the vendors' data sheets, bytes a second. A small
# all-reduce takes 2 log2(n) hops, up a tree of n devices and down; a hop takes these seconds.
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12, "TPU v5p": 2.77e12}
HOP = 7e-6
LINK = 50e9  # bytes a second into each device, for what is gathered
DEVICES = (8, 64, 512, 4096)

_DTYPES = ("float32", "bfloat16")


def _allocation(name: str) -> Any:
    return jp.masks.uniform() if name == "uniform" else None


def messages(
    networks: Sequence[Network],
) -> tuple[list[str], dict[tuple[str, str], Messages]]:
    """The table of messages, and those of each network and dtype with an earlier mask."""
    cases: list[tuple[Network, str, str, bool, int]] = [
        *((n, dtype, "global", True, ACCELERATOR_POINTS) for n in networks for dtype in _DTYPES),
        (networks[0], "float32", "global", False, ACCELERATOR_POINTS),
        (networks[0], "float32", "global", True, CPU_POINTS),
        (networks[0], "float32", "uniform", True, ACCELERATOR_POINTS),
    ]
    rows, found = [], {}
    for network, dtype, allocation, within, points in cases:
        of = counts.messages(
            network.compiled,
            dtype=dtype,
            points=points,
            within=within,
            allocation=_allocation(allocation),
        )
        found.setdefault((network.name, dtype), of)
        sizes = (" + ".join(map(str, part)) or "none" for part in of[:4])
        first = (network.name, len(network.compiled), dtype, allocation, within, points)
        rows.append((*first, *sizes, ", ".join(of.others) or "none"))
    title = (
        f"Messages, counted in the program compiled for {jax.device_count()} devices: bytes of each"
        " all-reduce."
    )
    head = (
        "network | leaves compiled | scores | allocation | within | points | once "
        "| a turn of the sample | a turn of the search | a turn of ties | others"
    )
    return [title, "", *table(head, rows)], found


def passes(
    sizes: Sequence[int], sparsities: Sequence[float], seed: int
) -> tuple[list[str], dict[str, Passes]]:
    """The table of passes, and by kind of scores the most turns on an accelerator, global."""
    rows, found = [], {}
    kinds = ("float32", "repeated", "bfloat16")
    for kind, allocation in (*((kind, "global") for kind in kinds), ("repeated", "uniform")):
        for weights in sizes:
            scores, most = counts.scores_of(weights, kind, seed), []
            for points in (CPU_POINTS, ACCELERATOR_POINTS):
                each = counts.passes(
                    scores, sparsities, points=points, allocation=_allocation(allocation)
                )
                most.append(Passes(*map(max, zip(*each, strict=True))))
            if allocation == "global":
                found[kind] = most[-1]  # of the last size
            turns = (", ".join(map(str, one)) for one in most)
            rows.append((kind, allocation, f"{weights:,}", *turns))
    title = (
        "Passes, counted on real scores: turns of the sample, of the search, of ties; most over "
        f"the sparsities {', '.join(map(str, sparsities))}."
    )
    points = f"{CPU_POINTS} points | {ACCELERATOR_POINTS} points"
    return [title, "", *table(f"scores | allocation | weights | {points}", rows)], found


def steps() -> list[str]:
    """The table of training steps."""
    rows = []
    for sharded in (False, True):
        for masked in (False, True):
            step = counts.training_step(sharded=sharded, masked=masked)
            names = (f"{name} {size:.2f}" for name, size in sorted(step.collectives.items()))
            numbers = (f"{step.state:.3f}", f"{step.accessed:.2f}", f"{step.saved:.3f}")
            rows.append(("sharded" if sharded else "whole", masked, ", ".join(names), *numbers))
    title = (
        f"A training step, compiled for {jax.device_count()} devices: bytes a device, for each "
        "parameter of the network (float32, AdamW)."
    )
    head = "parameters | mask | collectives | state and batch | memory accessed | saved in all"
    return [title, "", *table(head, rows)]


class Estimate(NamedTuple):
    """A prune on paper; per device."""

    full_passes: int  # how often every score is read
    read: float  # bytes read and written in memory
    messages: int  # all-reduces
    sent: int  # bytes that the all-reduces add up
    latency: float  # seconds for ``messages``
    gathered: int  # bytes that a gather of all scores would bring to each device instead


def estimate(
    network: Network, count: Messages, turns: Passes, *, devices: int, itemsize: int, within: bool
) -> Estimate:
    """Multiplies counts, sizes and assumptions."""
    n = network.weights
    # The search; one pass to verify the sample; one over the earlier mask; one that writes.
    full = turns.search + (turns.sample > 0) + within + 1
    width = itemsize + within
    often = (1, *turns)
    number = sum(t * len(part) for t, part in zip(often, count[:4], strict=True))
    once, sample, search, ties = (t * sum(part) for t, part in zip(often, count[:4], strict=True))
    scale = len(network.shapes) / len(network.compiled)  # bytes go with the number of leaves
    return Estimate(
        full_passes=full,
        read=((full * width + 1) * n + turns.ties * width * network.largest) / devices,
        messages=number,
        sent=round(scale * (once + sample + search) + ties),
        latency=number * 2 * math.log2(devices) * HOP,
        gathered=itemsize * n,
    )


def estimates(
    networks: Sequence[Network],
    counted: Mapping[tuple[str, str], Messages],
    turns: Mapping[str, Passes],
) -> list[str]:
    """The table of estimates: arithmetic, nothing of it is measured."""
    title = (
        f"Estimate for {ACCELERATOR_POINTS} points, global, within an earlier mask; hop "
        f"{HOP * 1e6:g} us, link {LINK / 1e9:g} GB/s. Arithmetic."
    )
    memory = " | ".join(f"memory on {name}" for name in BANDWIDTHS)
    head = (
        "network | scores | devices | full passes | GB read a device | messages | kB added up "
        f"| {memory} | latency | gather of all scores"
    )
    return [title, "", *table(head, _estimates(networks, counted, turns))]


def _estimates(
    networks: Sequence[Network],
    counted: Mapping[tuple[str, str], Messages],
    turns: Mapping[str, Passes],
) -> Iterator[tuple[object, ...]]:
    for network in networks:
        for dtype in _DTYPES:
            # Equal scores are searched for in one leaf; the largest needs most turns.
            ties = math.ceil(math.log(network.largest, 4)) + 1
            most = turns["repeated" if dtype == "float32" else dtype]._replace(ties=ties)
            count, itemsize = counted[network.name, dtype], jnp.dtype(dtype).itemsize
            for devices in DEVICES:
                e = estimate(network, count, most, devices=devices, itemsize=itemsize, within=True)
                yield (
                    network.name,
                    dtype,
                    devices,
                    e.full_passes,
                    f"{e.read / 1e9:.3g}",
                    e.messages,
                    f"{e.sent / 1e3:,.0f}",
                    *(f"{e.read / each * 1e3:.3g} ms" for each in BANDWIDTHS.values()),
                    f"{e.latency * 1e3:.3g} ms",
                    f"{e.gathered / 1e9:.3g} GB, {e.gathered / LINK * 1e3:,.0f} ms",
                )
