"""Tables in Markdown and CSV, targets, and what all tables must be read with."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """A table as lines. Columns are parted by "|"; those that begin with ">" are set right."""
    names = [name.strip() for name in head.split("|")]
    lines = ["| " + " | ".join(name.lstrip("> ") for name in names) + " |"]
    lines.append("|" + "|".join("---:" if name[0] == ">" else "---" for name in names) + "|")
    for row in rows:
        cells = [*map(str, row), *[""] * (len(names) - len(row))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def target(
    what: str,
    measured: float | None,
    limit: float,
    *,
    at_least: bool = False,
    interval: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What was aimed at, what was measured, and whether it is met; `None` if it was not measured.

    ``open`` is the interval of the measurement if the limit lies inside: then nothing is proven.
    """
    met = None
    if measured is not None:
        met = measured >= limit if at_least else measured <= limit
    inside = interval is not None and interval[0] < limit <= interval[1]
    return {
        "target": what,
        "sign": ">=" if at_least else "<=",
        "limit": limit,
        "measured": measured,
        "met": met,
        "open": list(interval) if interval and inside else None,
    }


def targets(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table of targets."""
    words = {True: "yes", False: "no", None: "not measured"}
    rows = []
    for t in found:
        measured = "–" if t["measured"] is None else _plain(t["measured"])
        met = words[t["met"]]
        if t["open"] is not None:
            low, high = map(_plain, t["open"])
            met += f"; not proven, the interval is {low}–{high}"
        sign = {">=": "≥", "<=": "≤"}[t["sign"]]
        rows.append([t["target"], f"{sign} {_plain(t['limit'])}", measured, met])
    return ["", *table("target | > aimed at | > measured | met", rows)]


def _plain(number: float) -> str:
    text = f"{number:,.3f}"
    return text.rstrip("0").rstrip(".")


def ms(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    if seconds is None:
        return "–"
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def machine(document: Mapping[str, Any]) -> str:
    """The machine that was measured on, and what is installed there."""
    found = document["machine"]
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in found["versions"].items())
    before, after = document["load_before"], document["load_after"]
    load = f"load {before[0]} before, {after[0]} after" if before and after else "load unknown"
    return (
        f"{found['cpus']} × {found['cpu']}, device {found['device']}; {load}. {versions}; "
        f"Python {found['python']}; commit {found['commit'] or 'unknown'}."
    )


def as_csv(rows: Sequence[Mapping[str, Any]], *, without: str) -> str:
    """The rows as CSV with a header, but for columns of an ending."""
    names = [name for name in rows[0] if not name.endswith(without)]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
