"""What the measurements of training steps say: rows, bounds, targets, and the tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import tables
from experiments.bench.common.pairs import Pairs
from experiments.bench.overhead import optimizers

Row = dict[str, Any]

# What was aimed at, for transforms whose mask stays or moves seldom.
MOST_TIME, BYTES_A_WEIGHT, BYTES_A_LEAF = 1.03, 1, 1024
_AIMED_AT = (optimizers.FIXED_MASK, optimizers.GMP)


def bound(dense_seconds: float, weights: int, bytes_per_second: float) -> float:
    """The ratio of times that reading the mask alone must cost: 1 byte a prunable weight."""
    return 1 + weights / bytes_per_second / dense_seconds


def update_bound(weights: int, copies: int, itemsize: int, bytes_per_second: float) -> float:
    """The seconds that one mask update must cost beyond the step.

    Weights, gradients and moments (``copies``) must be known before any weight is scored, so they
    are read once more, and so is the mask; the new mask is read once more and written.
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
    pairs: Pairs,
    updates: Pairs | None,
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
      pairs: the times.
      updates: single steps in pairs, an ordinary one and one that updates the mask; `None` if the
        method has no updates.
      temporary_bytes: of the compiled steps, by method.
      held_bytes: arguments, temporaries and results that reuse no argument, by method.
      bytes_per_second: of the memory.
      interval: steps between mask updates for which their cost is spread.
    """
    dense, ratio = statistics.median(pairs.base), pairs.ratio
    extra = extra_bound = spread = None
    if updates is not None:
        extra = statistics.median(b - a for a, b in zip(updates.base, updates.other, strict=True))
        spread = ratio.median + extra / interval / dense
        extra_bound = update_bound(weights, copies, 4, bytes_per_second)

    def over_dense(held: Mapping[str, int | None]) -> int | None:
        ours, before = held.get(method), held.get(optimizers.DENSE)
        return None if ours is None or before is None else ours - before

    return {
        "model": model,
        "sizes": what,
        "method": method,
        "weights": weights,
        "leaves": leaves,
        "pairs": len(pairs.base),
        "dense_seconds": dense,
        "seconds": statistics.median(pairs.other),
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "ratio_bound": bound(dense, weights, bytes_per_second),
        "update_extra_seconds": extra,
        "update_extra_seconds_bound": extra_bound,
        "ratio_with_updates": spread,
        "temporary_bytes": temporary_bytes.get(method),
        "temporary_bytes_over_dense": over_dense(temporary_bytes),
        "held_bytes_over_dense": over_dense(held_bytes),
        "allowed_bytes": BYTES_A_WEIGHT * weights + BYTES_A_LEAF * leaves,
        "base_block_seconds": list(pairs.base),
        "block_seconds": list(pairs.other),
    }


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was aimed at, what was measured and whether it is met.

    A time is met by the lower end of its interval: the whole interval must lie above the limit to
    miss it.
    """
    out = []
    for r in rows:
        if r["method"] in _AIMED_AT:
            name, interval = f"{r['model']}, {r['method']}", (r["ratio_low"], r["ratio_high"])
            what = f"{name}: time over dense, lower end"
            out.append(tables.target(what, r["ratio_low"], MOST_TIME, interval=interval))
            what, key = f"{name}: temporary bytes over dense", "temporary_bytes_over_dense"
            out.append(tables.target(what, r[key], r["allowed_bytes"]))
    return out


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The tables and what they were measured on, from the contents of the JSON file."""
    settings, rows = document["settings"], document["results"]
    lines = tables.table(
        "model | method | > dense ms | > ms | > ratio | > 95 % interval | > bound "
        "| > mask update: more ms | > bound "
        f"| > ratio, update every {settings['interval']} | > temporary bytes over dense "
        "| > allowed | > arguments too",
        [_cells(r) for r in rows],
    )
    lines += [*tables.targets(document["targets"]), ""]
    sizes = {r["model"]: (r["sizes"], r["weights"], r["leaves"]) for r in rows}
    for model, (what, weights, leaves) in sizes.items():
        lines.append(f"- {model}: {what}; {weights:,} prunable weights in {leaves} leaves.")
    return [
        *lines,
        "",
        f"Full training steps with {settings['optimizer']} at {100 * settings['sparsity']:g} % "
        f"sparsity, between mask updates. Ratio: the median of {settings['pairs']} interleaved "
        "pairs, and its distribution-free interval from order statistics (binomial, at least "
        "95 %). Mask update: what such a step takes more than an ordinary one. Bound: the dense "
        "step and one read of the mask; of an update one more pass over weights, gradients, "
        "moments and mask; at the measured "
        f"{document['bytes_per_second'] / 1e9:.1f} GB/s of a copy. Allowed: {BYTES_A_WEIGHT} byte "
        f"a prunable weight and {BYTES_A_LEAF} a leaf. `arguments too` adds the mask in the state.",
        tables.machine(document),
    ]


def _cells(r: Row) -> list[str]:
    numbers = ("temporary_bytes_over_dense", "allowed_bytes", "held_bytes_over_dense")
    return [
        r["model"],
        r["method"],
        tables.ms(r["dense_seconds"]),
        tables.ms(r["seconds"]),
        f"{r['ratio']:.3f}",
        f"{r['ratio_low']:.3f}–{r['ratio_high']:.3f}",
        f"{r['ratio_bound']:.3f}",
        tables.ms(r["update_extra_seconds"]),
        tables.ms(r["update_extra_seconds_bound"]),
        "–" if r["ratio_with_updates"] is None else f"{r['ratio_with_updates']:.3f}",
        *("n/a" if r[name] is None else f"{r[name]:,}" for name in numbers),
    ]
