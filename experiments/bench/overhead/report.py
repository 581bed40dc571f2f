"""What the measurements of training steps say: rows, bounds, targets, and the tables."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import pairs as _pairs
from experiments.bench.overhead import optimizers as _optimizers

Row = dict[str, Any]

# What was aimed at, for transforms whose mask stays or moves seldom.
MOST_TIME, BYTES_A_WEIGHT, BYTES_A_LEAF = 1.03, 1, 1024
_AIMED_AT = (_optimizers.FIXED_MASK, _optimizers.GMP)


def bound(dense_seconds: float, weights: int, bytes_per_second: float) -> float:
    """The ratio of times that reading the mask alone must cost: 1 byte a prunable weight."""
    return 1 + weights / bytes_per_second / dense_seconds


def update_bound(weights: int, copies: int, itemsize: int, bytes_per_second: float) -> float:
    """The seconds that one mask update must cost beyond the step.

    Weights, gradients and moments must be known before any weight is scored, so they are read once
    more, and so is the mask; the new mask is read once more and written.

    Args:
      weights: prunable weights.
      copies: arrays of their shapes that are read: weights, gradients and moments.
      itemsize: bytes of an entry of these.
      bytes_per_second: of the memory.
    """
    return weights * (copies * itemsize + 3) / bytes_per_second


def row(
    model: str,
    what: str,
    method: str,
    *,
    weights: int,
    leaves: int,
    copies: int,
    outcome: _pairs.Pairs | str,
    updates: _pairs.Pairs | None,
    temporary_bytes: Mapping[str, int | None],
    held_bytes: Mapping[str, int | None],
    bytes_per_second: float,
    interval: int,
) -> Row:
    """One method on one model, as the JSON file holds it.

    Args:
      model: name of the model.
      what: its sizes.
      method: name of the method.
      weights: prunable weights.
      leaves: arrays that hold them.
      copies: as for `update_bound`.
      outcome: the times of the pairs, or why there are none.
      updates: single steps in pairs, an ordinary one and one that updates the mask; `None` if the
        method has no updates.
      temporary_bytes: of the compiled steps, by method.
      held_bytes: arguments, temporaries and results that reuse no argument, by method.
      bytes_per_second: of the memory.
      interval: steps between mask updates for which their cost is spread.
    """
    pairs = outcome if isinstance(outcome, _pairs.Pairs) else None
    dense = ratio = extra = bounds = spread = None
    if pairs is not None:
        dense, ratio = statistics.median(pairs.base), pairs.ratio
        bounds = (bound(dense, weights, bytes_per_second), None)
        if updates is not None:
            differences = [b - a for a, b in zip(updates.base, updates.other, strict=True)]
            extra = statistics.median(differences)
            spread = ratio.median + extra / interval / dense
            bounds = (bounds[0], update_bound(weights, copies, 4, bytes_per_second))
    allowed = BYTES_A_WEIGHT * weights + BYTES_A_LEAF * leaves
    temporary = temporary_bytes.get(method)
    before = temporary_bytes.get(_optimizers.DENSE)
    held, held_before = held_bytes.get(method), held_bytes.get(_optimizers.DENSE)
    return {
        "model": model,
        "sizes": what,
        "method": method,
        "weights": weights,
        "leaves": leaves,
        "pairs": pairs and len(pairs.base),
        "dense_seconds": dense,
        "seconds": pairs and statistics.median(pairs.other),
        "ratio": ratio and ratio.median,
        "ratio_low": ratio and ratio.low,
        "ratio_high": ratio and ratio.high,
        "ratio_bound": bounds and bounds[0],
        "update_extra_seconds": extra,
        "update_extra_seconds_bound": bounds and bounds[1],
        "ratio_with_updates": spread,
        "temporary_bytes": temporary,
        "temporary_bytes_over_dense": _over(temporary, before),
        "held_bytes_over_dense": _over(held, held_before),
        "allowed_bytes": allowed,
        "base_block_seconds": pairs and list(pairs.base),
        "block_seconds": pairs and list(pairs.other),
        "not_measured": outcome if isinstance(outcome, str) else None,
    }


def _over(held: int | None, before: int | None) -> int | None:
    return None if held is None or before is None else held - before


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was aimed at, what was measured and whether it is met, `None` where it was not measured.

    A time is met by the lower end of its interval: the whole interval must lie above the limit to
    miss it. ``up_to`` is the upper end, where that lies above the limit: then the measurement
    leaves it open.
    """
    out = []
    for r in rows:
        if r["method"] not in _AIMED_AT:
            continue
        for what, key, limit in (
            ("time over dense, lower end", "ratio_low", MOST_TIME),
            ("temporary bytes over dense", "temporary_bytes_over_dense", r["allowed_bytes"]),
        ):
            measured = r[key]
            met = None if measured is None else measured <= limit
            name = f"{r['model']}, {r['method']}: {what}"
            high = r["ratio_high"] if key == "ratio_low" else None
            up_to = high if met and high is not None and high > limit else None
            out.append(
                {"target": name, "limit": limit, "measured": measured, "met": met, "up_to": up_to}
            )
    return out


def markdown(document: Mapping[str, Any]) -> str:
    """The tables and what they were measured on, from the contents of the JSON file."""
    settings, machine = document["settings"], document["machine"]
    lines = [
        "| model | method | dense ms | ms | ratio | 95 % interval | bound "
        "| mask update: more ms | bound "
        f"| ratio, update every {settings['interval']} | temporary bytes over dense | allowed "
        "| arguments too |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in document["results"]:
        cells = [r["model"], r["method"]]
        if r["not_measured"]:
            cells += [r["not_measured"], *[""] * 10]
        else:
            cells += [
                _ms(r["dense_seconds"]),
                _ms(r["seconds"]),
                f"{r['ratio']:.3f}",
                f"{r['ratio_low']:.3f}–{r['ratio_high']:.3f}",
                f"{r['ratio_bound']:.3f}",
                _ms(r["update_extra_seconds"]),
                _ms(r["update_extra_seconds_bound"]),
                "–" if r["ratio_with_updates"] is None else f"{r['ratio_with_updates']:.3f}",
                _bytes(r["temporary_bytes_over_dense"]),
                _bytes(r["allowed_bytes"]),
                _bytes(r["held_bytes_over_dense"]),
            ]
        lines.append("| " + " | ".join(cells) + " |")

    lines += ["", "| target | at most | measured | met |", "|---|---:|---:|---|"]
    words = {True: "yes", False: "no", None: "not measured"}
    for t in document["targets"]:
        number = _bytes if t["limit"] >= BYTES_A_LEAF else "{:.3f}".format
        measured = "–" if t["measured"] is None else number(t["measured"])
        met = words[t["met"]]
        if t["up_to"] is not None:
            met += f", within the interval, which goes up to {t['up_to']:.3f}"
        lines.append(f"| {t['target']} | {number(t['limit'])} | {measured} | {met} |")

    sizes = {r["model"]: (r["sizes"], r["weights"], r["leaves"]) for r in document["results"]}
    lines.append("")
    for model, (what, weights, leaves) in sizes.items():
        lines.append(f"- {model}: {what}; {weights:,} prunable weights in {leaves} leaves.")
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in machine["versions"].items())
    before, after = document["load_before"], document["load_after"]
    load = f"load {before[0]} before, {after[0]} after" if before and after else "load unknown"
    lines += [
        "",
        f"Full training steps with {settings['optimizer']} at {100 * settings['sparsity']:g} % "
        f"sparsity, between mask updates. Ratio: the median of {settings['pairs']} interleaved "
        "pairs, and its distribution-free interval from order statistics (binomial, at least "
        "95 %). Mask update: what such a step takes more than an ordinary one. Bound: the dense "
        "step and one read of the mask; of an update one more pass over weights, gradients, "
        "moments and mask; at the measured "
        f"{document['bytes_per_second'] / 1e9:.1f} GB/s of a copy. Allowed: {BYTES_A_WEIGHT} byte "
        f"a prunable weight and {BYTES_A_LEAF} a leaf. `arguments too` adds the mask in the state.",
        f"{machine['cpus']} × {machine['cpu']}, device {machine['device']}; {load}. {versions}; "
        f"Python {machine['python']}; commit {machine['commit'] or 'unknown'}.",
    ]
    return "\n".join(lines)


def as_csv(rows: Sequence[Row]) -> str:
    """The rows without the times of single blocks, as CSV with a header."""
    names = [name for name in rows[0] if not name.endswith("block_seconds")]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _bytes(number: int | None) -> str:
    return "n/a" if number is None else f"{number:,}"
