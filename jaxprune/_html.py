"""Tables for notebooks, which show what ``_repr_html_`` returns."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_CELL = "padding:2px 8px;text-align:{align};white-space:nowrap"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    bars: Sequence[float | None] | None = None,
) -> str:
    """An HTML table of words and numbers.

    Args:
      header: the names of its columns.
      rows: of each row a text a column.
      left: how many columns, from the first on, hold words; numbers are put to the right.
      bars: of each row a fraction in [0, 1], drawn as a bar in a column of its own, or `None`.

    Returns:
      The table; what stands in a cell is text, not HTML.
    """

    def cell(tag: str, text: str, column: int) -> str:
        style = _CELL.format(align="left" if column < left else "right")
        return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'

    lines = ["".join(cell("th", name, i) for i, name in enumerate(header))]
    if bars is not None:
        lines[0] += "<th></th>"
    for number, row in enumerate(rows):
        line = "".join(cell("td", text, i) for i, text in enumerate(row))
        if bars is not None:
            line += f"<td>{_bar(bars[number])}</td>"
        lines.append(line)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="border-collapse:collapse">\n{body}\n</table>'


def _bar(fraction: float | None) -> str:
    if fraction is None:
        return ""
    # Both colours are seen on a light page and on a dark one.
    return (
        '<div style="width:120px;height:10px;background:#8884">'
        f'<div style="width:{100 * fraction:.4g}%;height:10px;background:#0072B2"></div></div>'
    )
