"""What the measurements of masks say: rows, ratios, targets, and the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import tables
from experiments.bench.common.timing import Compiled, Times
from experiments.bench.masks import first_calls, methods

Row = dict[str, Any]

# What was aimed at, on the network these are stated for and on the largest size.
_NETWORK, _LARGEST = "resnet50", "1b"
_TIMES_TORCH, _TIMES_SORT, _TEMPORARY_BYTES = 10.0, 25.0, 2.0
_TIMES_FLOOR, _LARGEST_SECONDS = 8.0, 0.050


def row(
    size: str,
    weights: int,
    name: str,
    target: int,
    outcome: Times | str,
    compiled: Compiled | None,
) -> Row:
    """One method at one size, as the JSON file holds it."""
    times = outcome if isinstance(outcome, Times) else None
    memory = None if compiled is None else compiled.temporary_bytes
    return {
        "size": size,
        "weights": weights,
        "method": name,
        "median_seconds": times and times.median,
        "min_seconds": times and min(times.seconds),
        "max_seconds": times and max(times.seconds),
        "seconds": times and list(times.seconds),
        "compile_seconds": compiled and compiled.seconds,
        "temporary_bytes": memory,
        "temporary_bytes_per_weight": None if memory is None else memory / weights,
        "target_kept": target,
        "kept": times and times.kept,
        "kept_too_many": times and times.kept - target,
        "not_measured": outcome if isinstance(outcome, str) else None,
    }


def ratios(rows: Sequence[Row]) -> list[Row]:
    """How the medians compare: baselines over ours (global), ours over the floor."""
    ours = {r["size"]: r for r in rows if r["method"] == methods.GLOBAL}
    out = []
    for r in rows:
        mine = ours.get(r["size"])
        if mine is None or r["method"] not in methods.BASELINES:
            continue
        a, b = (mine, r) if r["method"] == methods.FLOOR else (r, mine)
        above, below = a["median_seconds"], b["median_seconds"]
        ratio = above / below if above and below else None
        out.append({"size": r["size"], "of": a["method"], "over": b["method"], "ratio": ratio})
    return out


def targets(rows: Sequence[Row], first: Sequence[Row] = (), *, backend: str) -> list[Row]:
    """What was aimed at on this kind of device, what was measured, and whether it is met."""
    by_name = {(r["size"], r["method"]): r for r in rows}

    def of(size: str, name: str, key: str = "median_seconds") -> float | None:
        return by_name.get((size, name), {}).get(key)

    def over(size: str, above: str, below: str) -> float | None:
        a, b = of(size, above), of(size, below)
        return a / b if a and b else None

    if backend != "cpu":
        seconds = of(_LARGEST, methods.GLOBAL)
        return [
            *(
                tables.target(
                    f"{size}: time of {methods.GLOBAL} / {methods.FLOOR}",
                    over(size, methods.GLOBAL, methods.FLOOR),
                    _TIMES_FLOOR,
                )
                for size in (_NETWORK, _LARGEST)
            ),
            tables.target(f"{_LARGEST}: seconds, {methods.GLOBAL}", seconds, _LARGEST_SECONDS),
        ]
    return [
        *(
            tables.target(
                f"{_NETWORK}: time of {name} / {methods.GLOBAL}",
                over(_NETWORK, name, methods.GLOBAL),
                limit,
                at_least=True,
            )
            for name, limit in ((methods.TORCH, _TIMES_TORCH), (methods.SORT, _TIMES_SORT))
        ),
        *(
            tables.target(
                f"{_NETWORK}: temporary bytes a weight, {name}",
                of(_NETWORK, name, "temporary_bytes_per_weight"),
                _TEMPORARY_BYTES,
            )
            for name in methods.OURS
        ),
        tables.target(
            f"{_NETWORK}: time of {methods.EAGER} / {methods.PARTITION}",
            over(_NETWORK, methods.EAGER, methods.PARTITION),
            1.0,
        ),
        *(tables.target(*each) for each in first_calls.targets(first)),
    ]


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The tables and what they were measured on, from the contents of the JSON file."""
    settings = document["settings"]
    lines = tables.table(
        "size | > weights | method | > median ms | > min–max ms | > compile s "
        "| > temporary bytes a weight | > kept | > off target by",
        [_cells(r) for r in document["results"]],
    )
    found = [
        (r["size"], r["of"], r["over"], "–" if r["ratio"] is None else f"{r['ratio']:.1f}")
        for r in document["ratios"]
    ]
    lines += ["", *tables.table("size | time of | over that of | > ratio", found)]
    if document["first_calls"]:
        head = "first call, in a fresh process | > s | > programs compiled | > peak memory MB"
        lines += ["", *tables.table(head, map(first_calls.cells, document["first_calls"]))]
    untimed = "" if document["machine"]["backend"] == "cpu" else ", each after an untimed one"
    return [
        *lines,
        *tables.targets(document["targets"]),
        "",
        f"{100 * settings['sparsity']:g} % sparsity (2:4: 50 %), {settings['dtype']} scores, "
        f"medians of {settings['repeats']} runs (sort, partition and torch: "
        f"{settings['slow_repeats']}) after compilation{untimed}; numpy and torch work in "
        "float32.",
        tables.machine(document),
    ]


def _cells(r: Row) -> list[str]:
    first = [r["size"], f"{r['weights']:,}", r["method"]]
    if r["not_measured"]:
        return [*first, r["not_measured"]]
    compiling, held = r["compile_seconds"], r["temporary_bytes_per_weight"]
    return [
        *first,
        tables.ms(r["median_seconds"]),
        f"{tables.ms(r['min_seconds'])}–{tables.ms(r['max_seconds'])}",
        "n/a" if compiling is None else f"{compiling:.1f}",
        "n/a" if held is None else f"{held:.3f}",
        f"{r['kept']:,}",
        f"{r['kept_too_many']:+,}" if r["kept_too_many"] else "0",
    ]
