"""What the measurements say: rows, ratios, targets, and the table in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import timing as _timing
from experiments.bench.masks import baselines as _baselines
from experiments.bench.masks import first_calls as _first_calls
from experiments.bench.masks import methods as _methods

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
    outcome: _timing.Times | str,
    compiled: _timing.Compiled | None,
) -> Row:
    """One method at one size, as the JSON file holds it."""
    times = outcome if isinstance(outcome, _timing.Times) else None
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


def ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How the medians compare: baselines over ours (global), ours over the floor."""
    ours = {r["size"]: r for r in rows if r["method"] == _methods.GLOBAL}
    out = []
    for r in rows:
        name, mine = r["method"], ours.get(r["size"])
        if mine is None or name not in _baselines.BASELINES:
            continue
        pair = (mine, r) if name == _baselines.FLOOR else (r, mine)
        above, below = (x["median_seconds"] for x in pair)
        out.append(
            {
                "size": r["size"],
                "of": pair[0]["method"],
                "over": pair[1]["method"],
                "ratio": above / below if above and below else None,
            }
        )
    return out


def targets(
    rows: Sequence[Row], first_calls: Sequence[Row] = (), *, backend: str
) -> list[dict[str, Any]]:
    """What was aimed at on this kind of device, what was measured, and whether it is met.

    ``met`` is `None` where it was not measured.
    """
    found = {(r["size"], r["of"], r["over"]): r["ratio"] for r in ratios(rows)}
    by_name = {(r["size"], r["method"]): r for r in rows}
    out = []

    def add(what: str, measured: float | None, limit: float, *, at_least: bool) -> None:
        met = None
        if measured is not None:
            met = measured >= limit if at_least else measured <= limit
        out.append(
            {
                "target": what,
                "sign": ">=" if at_least else "<=",
                "limit": limit,
                "measured": measured,
                "met": met,
            }
        )

    if backend == "cpu":
        for name, limit in ((_baselines.TORCH, _TIMES_TORCH), (_baselines.SORT, _TIMES_SORT)):
            ratio = found.get((_NETWORK, name, _methods.GLOBAL))
            add(f"{_NETWORK}: time of {name} / {_methods.GLOBAL}", ratio, limit, at_least=True)
        for name in _methods.OURS:
            held = by_name.get((_NETWORK, name), {}).get("temporary_bytes_per_weight")
            what = f"{_NETWORK}: temporary bytes a weight, {name}"
            add(what, held, _TEMPORARY_BYTES, at_least=False)
        ours, numpys = (
            by_name.get((_NETWORK, name), {}).get("median_seconds")
            for name in (_methods.EAGER, _baselines.PARTITION)
        )
        ratio = ours / numpys if ours and numpys else None
        what = f"{_NETWORK}: time of {_methods.EAGER} / {_baselines.PARTITION}"
        add(what, ratio, 1.0, at_least=False)
        for what, measured, limit in _first_calls.targets(first_calls):
            add(what, measured, limit, at_least=False)
        return out
    for size in (_NETWORK, _LARGEST):
        ratio = found.get((size, _methods.GLOBAL, _baselines.FLOOR))
        what = f"{size}: time of {_methods.GLOBAL} / {_baselines.FLOOR}"
        add(what, ratio, _TIMES_FLOOR, at_least=False)
    seconds = by_name.get((_LARGEST, _methods.GLOBAL), {}).get("median_seconds")
    add(f"{_LARGEST}: seconds, {_methods.GLOBAL}", seconds, _LARGEST_SECONDS, at_least=False)
    return out


def markdown(document: Mapping[str, Any]) -> str:
    """The tables and what they were measured on, from the contents of the JSON file."""
    settings, machine = document["settings"], document["machine"]
    lines = [
        "| size | weights | method | median ms | min–max ms | compile s | temporary bytes a weight "
        "| kept | off target by |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in document["results"]:
        cells = [r["size"], f"{r['weights']:,}", r["method"]]
        if r["not_measured"]:
            cells += [r["not_measured"], "", "", "", "", ""]
        else:
            low, high = _ms(r["min_seconds"]), _ms(r["max_seconds"])
            cells += [
                _ms(r["median_seconds"]),
                f"{low}–{high}",
                "n/a" if r["compile_seconds"] is None else f"{r['compile_seconds']:.1f}",
                "n/a"
                if r["temporary_bytes_per_weight"] is None
                else f"{r['temporary_bytes_per_weight']:.3f}",
                f"{r['kept']:,}",
                f"{r['kept_too_many']:+,}" if r["kept_too_many"] else "0",
            ]
        lines.append("| " + " | ".join(cells) + " |")

    lines += ["", "| size | time of | over that of | ratio |", "|---|---|---|---:|"]
    for r in document["ratios"]:
        ratio = "–" if r["ratio"] is None else f"{r['ratio']:.1f}"
        lines.append(f"| {r['size']} | {r['of']} | {r['over']} | {ratio} |")

    if document["first_calls"]:
        lines += ["", *_first_calls.markdown(document["first_calls"])]
    lines += ["", "| target | aimed at | measured | met |", "|---|---:|---:|---|"]
    words = {True: "yes", False: "no", None: "not measured"}
    for t in document["targets"]:
        measured = "–" if t["measured"] is None else f"{t['measured']:.3g}"
        sign = {">=": "≥", "<=": "≤"}[t["sign"]]
        lines.append(
            f"| {t['target']} | {sign} {t['limit']:.3g} | {measured} | {words[t['met']]} |"
        )

    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in machine["versions"].items())
    before, after = document["load_before"], document["load_after"]
    load = f"load {before[0]} before, {after[0]} after" if before and after else "load unknown"
    untimed = "" if machine["backend"] == "cpu" else ", each after an untimed one"
    lines += [
        "",
        f"{100 * settings['sparsity']:g} % sparsity (2:4: 50 %), {settings['dtype']} scores, "
        f"medians of {settings['repeats']} runs (sort, partition and torch: "
        f"{settings['slow_repeats']}) after compilation{untimed}; numpy and torch work in "
        "float32.",
        f"{machine['cpus']} × {machine['cpu']}, device {machine['device']}; {load}. {versions}; "
        f"Python {machine['python']}; commit {machine['commit'] or 'unknown'}.",
    ]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
