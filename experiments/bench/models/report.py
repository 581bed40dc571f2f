"""The table of models: rows as lines, and the page that holds it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.bench.common import tables

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
REASONS = 3


def markdown(document: Mapping[str, Any]) -> list[str]:
    """The table and what it was measured on, from the contents of the JSON file."""
    rows = document["results"]
    left_out = document.get("left_out", {})
    skipped = "; ".join(f"{name}: {why}" for name, why in left_out.items())
    return [
        *tables.table(
            "model | inputs | > parameters | > on channels that can go | > left at a half "
            "| what cannot go, and why | > largest error | > analysis, s | > MACs, dense / small "
            "| > time, dense / small",
            map(_cells, rows),
        ),
        "",
        f"{len(rows)} models.{f' Left out: {skipped}.' if skipped else ''}",
        tables.machine(document),
    ]


def _cells(r: Mapping[str, Any]) -> list[str]:
    theory = r["theoretical_speedup"]
    speed = "–"
    if r["speedup"] is not None:
        speed = f"{r['speedup']:.2f} ({r['speedup_low']:.2f}–{r['speedup_high']:.2f})"
    return [
        r["model"],
        r["inputs"],
        f"{r['parameters']:,}",
        percent(r["removable"]),
        percent(r["left_at_half"]),
        because(r["reasons"]),
        f"{r['largest_error']:.0e}",
        f"{r['seconds']:.1f}",
        "–" if theory is None else f"{theory:.2f}",
        speed,
    ]


def percent(fraction: float) -> str:
    """A fraction in percent; what is not all is not rounded to all."""
    shown = f"{100 * fraction:.1f} %"
    return "> 99.9 %" if shown == "100.0 %" and fraction < 1 else shown


def because(reasons: Any) -> str:
    """The reasons that hold the most parameters, each with its share."""
    shown = [f"{_share(share)} {text}" for text, share in reasons[:REASONS]]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more > 0 else "")


def _share(fraction: float) -> str:
    return "< 0.1 %" if fraction < 0.0005 else f"{100 * fraction:.1f} %"


def put_into(page: pathlib.Path, table: str) -> None:
    """Replaces what lies between the two marks of a page.

    Raises:
      ValueError: if the page has not both marks, each once.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} does not hold {BEGIN} and then {END}, once each. Add both lines.")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{table}\n{after}")
