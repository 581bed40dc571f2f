"""Accuracy over sparsity, from a table of results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprune.plots._style import COLOURS, axes_of, line_style


def over_sparsity(
    results: Any,
    *,
    y: str = "accuracy",
    x: str = "sparsity",
    by: str | None = None,
    scale: tuple[float, float] = (100.0, 100.0),
    labels: tuple[str, str] | None = None,
    colours: Mapping[Any, str] | None = None,
    title: str = "",
    axes: Any = None,
) -> Any:
    """Draws accuracy over sparsity: a line a method, the mean over seeds in a band of one std.

    Rows with the same ``x`` and ``by`` are taken for seeds of one setting; the band is their sample
    standard deviation. Rows that lack one of the columns (`None` or NaN) are left out.

    Args:
      results: rows as dictionaries, or a data frame of pandas or polars. The rows of
        ``RunResult.to_dicts()`` will do, and those of the ``results.csv`` of a sweep.
      y: the column upwards.
      x: the column to the right.
      by: the column whose values are the lines; one line if omitted.
      scale: what ``x`` and ``y`` are multiplied with; by default fractions are shown in percent.
      labels: of the axes; made of the names if omitted.
      colours: by value of ``by``, for pictures side by side that do not have the same lines.
      title: above the picture.
      axes: where to draw; a figure of its own if omitted.

    Returns:
      The figure.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if no row has all columns; with the columns that there are.

    Example:
      >>> import jaxprune as jp
      >>> rows = [
      ...     {"schedule": "allr", "sparsity": 0.5, "accuracy": 0.94},
      ...     {"schedule": "allr", "sparsity": 0.9, "accuracy": 0.92},
      ...     {"schedule": "ft", "sparsity": 0.9, "accuracy": 0.88},
      ... ]
      >>> picture = jp.plots.over_sparsity(rows, by="schedule")
      >>> [line.get_label() for line in picture.axes[0].lines]
      ['allr', 'ft']
    """
    rows = _rows(results)
    columns = [c for c in (x, y, by) if c is not None]
    found = [row for row in rows if all(_is_there(row.get(column)) for column in columns)]
    if not found:
        known = list(dict.fromkeys(name for row in rows for name in row))
        raise ValueError(f"no row has the columns {columns}. Its columns are {known}.")
    axes = axes_of(axes)
    lines: dict[Any, dict[Any, list[float]]] = {}
    for row in found:
        points = lines.setdefault(None if by is None else row[by], {})
        points.setdefault(row[x], []).append(scale[1] * row[y])
    for i, (name, points) in enumerate(lines.items()):
        places = sorted(points)
        mean = [statistics.fmean(points[p]) for p in places]
        spread = [statistics.stdev(points[p]) if len(points[p]) > 1 else 0.0 for p in places]
        at = [scale[0] * p for p in places]
        colour = COLOURS[i % len(COLOURS)] if colours is None else colours[name]
        style = line_style(i)
        axes.plot(
            at,
            mean,
            style,
            marker="o",
            markersize=4,
            color=colour,
            label=None if by is None else str(name),
        )
        low = [m - s for m, s in zip(mean, spread, strict=True)]
        high = [m + s for m, s in zip(mean, spread, strict=True)]
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    several = any(len(seeds) > 1 for points in lines.values() for seeds in points.values())
    right, up = labels or ("sparsity: weights removed (%)" if x == "sparsity" else x, f"{y} (%)")
    axes.set_xlabel(right)
    axes.set_ylabel(f"{up}, mean ± std over seeds" if several and labels is None else up)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if by is not None:
        axes.legend(fontsize=8)
    return axes.figure


def _rows(results: Any) -> Sequence[Mapping[str, Any]]:
    """The rows of a data frame; of pandas and polars, which name them by different words."""
    if hasattr(results, "to_dicts"):
        return results.to_dicts()
    if hasattr(results, "to_dict"):
        return results.to_dict("records")
    return list(results)


def _is_there(value: Any) -> bool:
    return value is not None and value == value  # NaN equals nothing
