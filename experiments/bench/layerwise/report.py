"""What the measurements of layer-wise methods say: rows, targets, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.common import tables

Row = dict[str, Any]

# Pairs of a better and a worse (method, refit) of each matrix, pattern and seed, and the share of
# the cells in which the first has the smaller error on inputs that were not seen.
ORDER = (
    (("wanda", False), ("magnitude", False), 1.0),
    (("sparsegpt", False), ("wanda", False), 1.0),
    (("admm", False), ("sparsegpt", False), 1.0),
    (("alps", False), ("admm", False), 1.0),
    (("wanda", True), ("sparsegpt", False), 0.7),
    (("swaps", True), ("alps", False), 0.7),
    (("alps", True), ("alps", False), 0.7),
)
HALVED = 0.5  # what swaps leave of Wanda's error at most, in the median


def name(method: str, refit: bool) -> str:
    """How a row is called."""
    return f"{method} + refit" if refit else method


def row(
    inputs: int,
    outputs: int,
    pattern: str,
    seed: int,
    method: str,
    refit: bool,
    *,
    zeros: float,
    error: float,
    held_out: float,
    seconds: float,
    first_seconds: float,
) -> Row:
    """One method on one matrix, as the JSON file holds it.

    Args:
      inputs: of the kernel.
      outputs: of the kernel.
      pattern: its name.
      seed: of the matrix.
      method: its name.
      refit: whether exact least squares follow.
      zeros: fraction of the weights removed.
      error: relative, on the inputs that the method saw.
      held_out: relative, on others.
      seconds: of the second call, refit included.
      first_seconds: of the first, with compilation where it is the first of its program.
    """
    return {
        "inputs": inputs,
        "outputs": outputs,
        "pattern": pattern,
        "seed": seed,
        "method": name(method, refit),
        "zeros": zeros,
        "error": error,
        "held_out": held_out,
        "seconds": seconds,
        "first_seconds": first_seconds,
    }


def _cells(rows: Sequence[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for r in rows:
        key = (r["inputs"], r["outputs"], r["pattern"], r["seed"])
        found.setdefault(key, {})[r["method"]] = r
    return found


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was aimed at, and in which share of the cells it is met."""
    out, cells = [], _cells(rows).values()
    for better, worse, share in ORDER:
        a, b = name(*better), name(*worse)
        both = [cell for cell in cells if a in cell and b in cell]
        won = [cell[a]["held_out"] < cell[b]["held_out"] for cell in both]
        measured = sum(won) / len(won) if won else None
        met = None if measured is None else measured >= share
        what = f"{a} below {b} on other inputs, share of cells"
        out.append({"target": what, "limit": share, "measured": measured, "met": met})
    left = sorted(
        cell["swaps"]["error"] / cell["wanda"]["error"]
        for cell in cells
        if "swaps" in cell and "wanda" in cell
    )
    measured = left[len(left) // 2] if left else None
    met = None if measured is None else measured <= HALVED
    what = "error of swaps over Wanda's, median (at most)"
    out.append({"target": what, "limit": HALVED, "measured": measured, "met": met})
    return out


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The tables as lines."""
    rows = [
        (
            f"{r['inputs']} x {r['outputs']}",
            r["pattern"],
            r["seed"],
            r["method"],
            f"{r['zeros']:.4f}",
            f"{r['error']:.5f}",
            f"{r['held_out']:.5f}",
            f"{r['seconds']:.2f}",
            f"{r['first_seconds']:.2f}",
        )
        for r in document["results"]
    ]
    head = (
        "matrix | pattern | >seed | method | >zeros | >error | >error on other inputs | "
        ">seconds | >first call"
    )
    aims = [
        (
            t["target"],
            t["limit"],
            "–" if t["measured"] is None else f"{t['measured']:.3f}",
            {True: "yes", False: "no", None: "not measured"}[t["met"]],
        )
        for t in document["targets"]
    ]
    return [
        *tables.table(head, rows),
        "",
        "Errors are relative: what the pruned kernel's outputs lose over the dense outputs, both "
        "squared and summed. A first call compiles where its program is new; patterns of one "
        "kind share one.",
        "",
        *tables.table("target | >limit | >measured | met", aims),
        "",
        tables.machine(document),
    ]
