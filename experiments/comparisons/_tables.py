"""Tables in the papers' layout: means and scatter over seeds, the best ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.comparisons._statistics import mean_std
from experiments.tasks import DEFAULT, KINDS, Measure

ACCURACY = KINDS[DEFAULT].measure

_MARKS = {1: ("**", "**"), 2: ("*", "*"), 3: ("", "³")}
_LATEX = {1: (r"\textbf{", "}"), 2: (r"\underline{", "}"), 3: (r"\textit{", "}")}


class Cell(NamedTuple):
    """Accuracy over the seeds of one setting."""

    mean: float
    std: float | None
    seeds: int


class Table(NamedTuple):
    """A table of means.

    Attributes:
      rows: the values that number the rows, and the row's name.
      columns: the values that number the columns.
      row_names: of the columns of results that they are values of.
      column_names: likewise.
      cells: by row and column; a setting without runs has none.
      measure: what they are means of.
    """

    rows: tuple[tuple[Any, ...], ...]
    columns: tuple[tuple[Any, ...], ...]
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    cells: dict[tuple[Any, ...], Cell]
    measure: Measure = ACCURACY

    def ranks(self, column: tuple[Any, ...]) -> dict[tuple[Any, ...], int]:
        """The places of the rows in a column, by their means; equal means share one."""
        means = {r: self.cells[r + column].mean for r in self.rows if r + column in self.cells}
        sign = 1 if self.measure.higher_is_better else -1
        return {
            r: 1 + sum(sign * other > sign * mean for other in means.values())
            for r, mean in means.items()
        }

    def markdown(self) -> str:
        """As Markdown: first **bold**, second *italic*, third³."""
        return _render(self, _markdown_row, _MARKS, "±", head=_markdown_head)

    def latex(self) -> str:
        r"""As LaTeX, to be put into a document with booktabs."""
        rule = "l" * len(self.row_names) + "c" * len(self.columns)
        body = _render(self, _latex_row, _LATEX, r"$\pm$", head=_latex_head)
        return f"\\begin{{tabular}}{{{rule}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"

    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds of a cell."""
        numbers = [cell.seeds for cell in self.cells.values()]
        return min(numbers), max(numbers)


def pivot(
    results: Any, rows: Sequence[str], columns: Sequence[str], measure: Measure = ACCURACY
) -> Table:
    """The table of final accuracies, or of another measure.

    Args:
      results: a data frame, see `experiments.sweeps`.
      rows: columns of the results that number the rows.
      columns: those that number the columns.
      measure: a column of the results.

    Raises:
      ValueError: if there is no such column, or no run has ended.
    """
    for name in (*rows, *columns):
        if name not in results.columns:
            raise ValueError(f"the results have no column {name!r}.")
    final = results.filter(results["final"]).to_dicts()
    if not final:
        raise ValueError("no run of these results has ended.")
    groups: dict[tuple[Any, ...], list[float]] = {}
    for run in final:
        key = tuple(run[name] for name in (*rows, *columns))
        groups.setdefault(key, []).append(run[measure.name])
    cells = {key: Cell(*mean_std(values), len(values)) for key, values in groups.items()}
    row_keys = dict.fromkeys(key[: len(rows)] for key in cells)
    column_keys = sorted({key[len(rows) :] for key in cells}, key=_order)
    return Table(tuple(row_keys), tuple(column_keys), tuple(rows), tuple(columns), cells, measure)


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((value is not None, str(type(value)), value) for value in key)


def _render(table: Table, row: Any, marks: Any, plus: str, *, head: Any) -> str:
    lines = head(table)
    for key in table.rows:
        texts = [str(value) for value in key]
        for column in table.columns:
            cell = table.cells.get(key + column)
            if cell is None:
                texts.append("–" if plus == "±" else "--")
                continue
            scale = table.measure.scale
            text = f"{scale * cell.mean:.2f}"
            text += "" if cell.std is None else f" {plus} {scale * cell.std:.2f}"
            before, after = marks.get(table.ranks(column)[key], ("", ""))
            texts.append(f"{before}{text}{after}")
        lines.append(row(texts))
    return "\n".join(lines)


def _titles(table: Table) -> list[str]:
    short = {"retrain_epochs": "epochs to retrain", "sparsity": "sparsity"}
    return [
        ", ".join(
            f"{short.get(name, name)} {value}"
            for name, value in zip(table.column_names, column, strict=True)
        )
        for column in table.columns
    ]


def _markdown_head(table: Table) -> list[str]:
    lines = [_markdown_row([*table.row_names, *_titles(table)])]
    return [*lines, "|" + "---|" * len(table.row_names) + "---:|" * len(table.columns)]


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _latex_head(table: Table) -> list[str]:
    return [_latex_row([*table.row_names, *_titles(table)]), r"\midrule"]


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(text.replace("_", r"\_").replace("%", r"\%") for text in texts) + r" \\"
