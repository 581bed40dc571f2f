"""What a prune costs on many devices, counted from the compiled program.

    python -m experiments.bench.scaling

Three tables. *Messages*: the mask selection is compiled for 8 simulated devices and for weights of
a real size, of which only the shapes exist; its collectives and their bytes are read from the
optimised program. *Passes*: the same selection runs on real scores, on one device, and counts the
turns of its loops. *Estimate*: arithmetic from these counts and from the bandwidths and latencies
written at the top of this file; nothing of it is measured. docs/scaling.md explains the tables.

It needs no accelerator. The default sizes take about three minutes on two CPU cores.
"""

import collections
import contextlib
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

import jaxprune as jp
from jaxprune.masks import _bracket, _engine, _ties

# Assumptions of the estimate. Bandwidths: of the vendors' data sheets, bytes a second. Latency: of
# one hop of a small all-reduce, in seconds; a ring or tree of n devices takes 2 log2(n) hops.
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12, "TPU v5p": 2.77e12}
HOP = 7e-6
LINK = 50e9  # bytes a second into each device, for what is gathered
DEVICES = (8, 64, 512, 4096)
CPU_POINTS, ACCELERATOR_POINTS = _bracket._POINTS_CPU, _bracket._POINTS_ACCELERATOR

_ITEM = {"pred": 1, "u8": 1, "s8": 1, "u16": 2, "bf16": 2, "u32": 4, "s32": 4, "f32": 4, "u64": 8}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"

Shapes = Mapping[str, tuple[int, ...]]


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


class Messages(NamedTuple):
    """Collectives of a compiled program, each as its bytes on one device, by where it stands.

    Attributes:
      once: outside of any loop.
      sample: in the search of the sample, for every turn.
      search: in the search of the threshold, for every turn.
      ties: in the search of a position among equal scores, for every turn; of the first leaf.
      others: names of collectives that are no all-reduce.
    """

    once: tuple[int, ...]
    sample: tuple[int, ...]
    search: tuple[int, ...]
    ties: tuple[int, ...]
    others: tuple[str, ...]


class Passes(NamedTuple):
    """Turns of the loops in one prune.

    Attributes:
      sample: of the search of the sample.
      search: of the search of the threshold.
      ties: of the searches of a position among equal scores, of all leaves together.
    """

    sample: int
    search: int
    ties: int


@contextlib.contextmanager
def _selection(points: int) -> Iterator[None]:
    """The selection as an accelerator or a CPU has it, traced anew and not kept."""
    with (
        mock.patch.object(_bracket, "_POINTS_CPU", points),
        mock.patch.object(_bracket, "_POINTS_ACCELERATOR", points),
        mock.patch.object(_engine, "masks_of", _engine.masks_of.__wrapped__),
    ):
        yield


def messages(
    shapes: Shapes, *, dtype: str, points: int, within: bool, allocation: Any = None
) -> Messages:
    """Compiles a prune for all devices of this process and reads its collectives.

    Args:
      shapes: the leaves; each is cut as `fully_sharded` cuts parameters.
      dtype: of the scores.
      points: thresholds a pass.
      within: whether there is an earlier mask.
      allocation: global if omitted.

    Returns:
      The collectives.
    """
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rule = jp.training.fully_sharded(mesh)

    def arrays(of: str) -> dict[str, Any]:
        placed = {}
        for path, shape in shapes.items():
            where = NamedSharding(mesh, rule(path, np.broadcast_to(np.int8(0), shape)))
            placed[path] = jax.ShapeDtypeStruct(shape, jnp.dtype(of), sharding=where)
        return placed

    def make(scores: Any, before: Any) -> Any:
        return jp.masks.make_with_info(scores, 0.9, within=before, allocation=allocation)

    with _selection(points):
        before = arrays("bool") if within else None
        text = jax.jit(make).lower(arrays(dtype), before).compile().as_text()
    return read_messages(text)


def read_messages(text: str) -> Messages:
    """Reads the collectives of an optimised program."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    others: list[str] = []
    loops: list[tuple[str, bool]] = []
    computation = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and line.endswith("{"):
            computation = "" if line.startswith("ENTRY") else re.split(r"[\s(]", line)[0].strip("%")
        if body := re.search(r" while\(.*body=%?([\w.\-]+)", line):
            loops.append((body[1], "jit(position)" in line))
        if call := re.search(rf"= (.*?) ({_COLLECTIVES})(?:-start)?\(", line):
            found[computation].append(_bytes(call[1]))
            if call[2] != "all-reduce":
                others.append(call[2])
    once = tuple(found.pop("", ()))
    searches = [tuple(found.get(body, ())) for body, ties in loops if not ties]
    positions = [tuple(found.get(body, ())) for body, ties in loops if ties]
    return Messages(
        once=once,
        sample=searches[0] if len(searches) > 1 else (),
        search=searches[-1] if searches else (),
        ties=positions[0] if positions else (),
        others=tuple(others),
    )


def _bytes(types: str) -> int:
    """The bytes of one array, ``u32[3,1]{1,0}``, or of a tuple of them."""
    total = 0
    for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", types):
        total += _ITEM[kind] * math.prod(int(n) for n in axes.split(",") if n)
    return total


def passes(
    scores: Any, sparsity: float, *, points: int, within: Any = None, allocation: Any = None
) -> Passes:
    """Makes a mask of real scores and counts the turns of the loops on the way.

    Args:
      scores: the scores.
      sparsity: fraction removed.
      points: thresholds a pass.
      within: an earlier mask.
      allocation: global if omitted.

    Returns:
      The turns. Every one of them reads each score once; those of ties read one leaf.
    """
    turns: list[tuple[str, int]] = []
    while_loop = jax.lax.while_loop

    def counting(condition: Callable[..., Any], body: Callable[..., Any], start: Any) -> Any:
        place = "ties" if "position" in condition.__qualname__ else f"search {len(searches)}"
        if place != "ties":
            searches.append(place)
        number, end = while_loop(
            lambda carry: condition(carry[1]),
            lambda carry: (carry[0] + 1, body(carry[1])),
            (jnp.int32(0), start),
        )
        jax.debug.callback(lambda n: turns.append((place, int(n))), number)
        return end

    searches: list[str] = []
    with (
        _selection(points),
        mock.patch.object(_ties, "position", _ties.position.__wrapped__),
        mock.patch.object(jax.lax, "while_loop", counting),
    ):
        mask, info = jax.jit(
            lambda s, m: jp.masks.make_with_info(s, sparsity, within=m, allocation=allocation)
        )(scores, within)
        jax.block_until_ready(mask)
        jax.effects_barrier()
    info.check()
    total: dict[str, int] = collections.defaultdict(int)
    for place, number in turns:
        total[place] += number
    return Passes(
        sample=total[searches[0]] if len(searches) > 1 else 0,
        search=total[searches[-1]],
        ties=total["ties"],
    )


def scores_of(weights: int, kind: str, seed: int) -> dict[str, jax.Array]:
    """Magnitudes of normal weights in 4 leaves: "float32", "bfloat16", or "repeated".

    Repeated are float32 of which each value is there 16 times: as among very many weights, no
    threshold has exactly k scores below it.
    """
    number = weights // 4
    leaves = {}
    for i in range(4):
        draw = jax.random.fold_in(jax.random.key(seed), i)
        if kind == "repeated":
            few = jax.random.normal(draw, (number // 16, 1))
            leaf = jnp.broadcast_to(few, (number // 16, 16)).reshape(-1)
        else:
            leaf = jax.random.normal(draw, (number,)).astype(kind)
        leaves[f"{i}/kernel"] = jnp.abs(leaf).reshape(-1, 64)
    return leaves


class Estimate(NamedTuple):
    """A prune on paper; per device.

    Attributes:
      full_passes: how often every score is read.
      read: bytes read and written in memory.
      messages: all-reduces.
      sent: bytes that the all-reduces add up.
      memory: seconds for ``read``.
      latency: seconds for ``messages``.
      gathered: bytes that a gather of all scores would bring to each device instead.
    """

    full_passes: int
    read: float
    messages: int
    sent: int
    memory: float
    latency: float
    gathered: int


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
    # The search; one pass for what equals the threshold; one to verify the sample; one over the
    # earlier mask; one that writes.
    full = turns.search + 1 + (turns.sample > 0) + within + 1
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
    """Prints the three tables, in Markdown.

    Args:
      settings: the settings.
      console: where to.

    Raises:
      ValueError: if a network is unknown.
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
    for options in ({"within": False}, {"points": CPU_POINTS}, {"allocation": "uniform"}):
        _message_row(row, chosen[0], dtype="float32", **options)

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
                each = [
                    passes(scores, s, points=points, allocation=spread) for s in settings.sparsities
                ]
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
                    one.messages, f"{one.sent / 1e3:.3g}",
                    *(f"{e.memory * 1e3:.3g} ms" for e in several),
                    f"{one.latency * 1e3:.3g} ms",
                    f"{one.gathered / 1e9:.3g} GB, {one.gathered / LINK:.3g} s",
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
