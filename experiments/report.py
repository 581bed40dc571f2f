"""Reports of sweeps: tables in the papers' layout, paired differences, verdicts, plots.

    python -m experiments.report runs/retraining_schedules-cpu

writes report.md, report.tex and pictures to a folder beside the results, and prints the first.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments import papers
from experiments.errors import refused
from experiments.program import program


@dataclasses.dataclass(frozen=True)
class Options:
    """Report what a sweep has found."""

    results: tyro.conf.Positional[pathlib.Path]
    """Folder of a sweep, or its results.parquet."""

    out: pathlib.Path | None = None
    """Folder of the report; default: report, in the folder of the sweep."""

    rows: tuple[str, ...] | None = None
    """Columns of the results that number the rows of the table; default: those of the paper, or
    label."""

    columns: tuple[str, ...] | None = None
    """Columns of the results that number its columns; default: those of the paper, or sparsity."""

    compare: Literal["papers"] | None = None
    """papers: puts published accuracies beside ours where the setting is the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status (0, 2 bad input)."""
    options = tyro.cli(Options, args=arguments, prog=program("report"))
    console = Console()
    try:
        text = report(options)
    except Exception as error:
        return refused(error, console)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def report(options: Options) -> str:
    """Writes the report; returns its Markdown.

    Raises:
      FileNotFoundError: if there are no results.
      ValueError: if they are none, or lack a column.
    """
    from experiments import comparisons
    from experiments.sweeps import _results as results

    table = results.read(options.results)
    kind = results.kind_of(table)
    folder = options.results if options.results.is_dir() else options.results.parent
    paper = _paper(folder)
    rows = options.rows or (("label",) if paper is None else tuple(paper.rows))
    columns = options.columns or (("sparsity",) if paper is None else tuple(paper.columns))
    pivoted = comparisons.pivot(table, rows, columns, kind.measure)
    out = options.out or folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    title = paper.name if paper is not None else folder.name
    pictures = comparisons.draw(table, out, folder / "runs", title.replace("_", " "), kind)

    parts = [f"# {title.replace('_', ' ')}"]
    if paper is not None:
        parts.append(f"{paper.about}\n\nSource: {paper.source}.")
    parts += [pivoted.markdown(), _caption(table, pivoted)]
    published = kind.measure.name == "accuracy"  # as are the claims of the papers
    if options.compare == "papers" and published:
        parts.append(_published(table))
    if paper is not None and paper.claims and published:
        verdicts = [comparisons.judge(table, claim, columns) for claim in paper.claims]
        parts.append(_verdicts(verdicts))
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    parts.append(_made_with(table, folder))
    text = "\n\n".join(parts) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.tex").write_text(pivoted.latex() + "\n", encoding="utf-8")
    return text


def _paper(folder: pathlib.Path) -> papers.Paper | None:
    """The paper that a sweep is named after, if there is one."""
    try:
        name = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError):
        return None
    return papers.load(name) if name in papers.NAMES else None


def _caption(table: Any, pivoted: Any) -> str:
    fewest, most = pivoted.seeds()
    seeds = f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"
    scatter = (
        "mean ± sample standard deviation"
        if fewest > 1
        else "where there is one seed its value, without a scatter; else mean ± sample standard "
        "deviation"
    )
    dense = table.filter(table["phase"] == "dense").unique("dense")
    measure = pivoted.measure
    what = f"{measure.label} in percent" if measure.unit == "%" else measure.label
    said = ""
    if len(dense):
        values = [measure.scale * x for x in dense[measure.name].to_list()]
        said = f" Dense networks: {min(values):.2f} to {max(values):.2f} ({len(values)})."
    return (
        f"Test {what}, {scatter} over {seeds}; **first**, *second*, third³ of each "
        f"column by its mean.{said}"
    )


def _verdicts(verdicts: Sequence[Any]) -> str:
    lines = [
        "| claim | difference, points | 95 % interval | seeds | pairs | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for verdict in verdicts:
        found = verdict.interval
        mean = interval = seeds = "–"
        if found is not None:
            mean, seeds = f"{100 * found.mean:+.2f}", str(found.seeds)
            if found.low is not None:
                interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
        lines.append(
            f"| {verdict.claim.text} | {mean} | {interval} | {seeds} | {verdict.pairs} | "
            f"**{verdict.word}**: {verdict.why} |"
        )
    note = (
        "Differences are between runs of the same seed and setting, averaged for each seed; the "
        "interval is a bootstrap over seeds, which of few seeds is short."
    )
    return "\n".join([*lines, "", note])


def _published(table: Any) -> str:
    from experiments.papers import published

    lines = ["| setting | ours | published | source |", "|---|---:|---:|---|"]
    groups: dict[tuple[Any, ...], list[float]] = {}
    entries: dict[tuple[Any, ...], Any] = {}
    for row in table.filter(table["final"]).to_dicts():
        for entry in published.matching(row):
            key = tuple(entry["match"].items())
            groups.setdefault(key, []).append(row["accuracy"])
            entries[key] = entry
    if not groups:
        return "No published figure has the setting of one of these runs."
    for key, values in groups.items():
        setting = ", ".join(f"{name} {value}" for name, value in key)
        ours = 100 * sum(values) / len(values)
        entry = entries[key]
        theirs = 100 * entry["accuracy"]
        lines.append(f"| {setting} | {ours:.2f} | {theirs:.2f} | {entry['source']} |")
    return "\n".join(lines)


def _made_with(table: Any, folder: pathlib.Path) -> str:
    def all_of(name: str) -> str:
        return ", ".join(str(x) for x in table[name].unique().drop_nulls().sort().to_list())

    return (
        f"{table['run'].n_unique()} runs in {folder.name}; device: {all_of('device')}; jax "
        f"{all_of('jax')}, jaxprune {all_of('jaxprune')}, commit {all_of('commit') or 'unknown'}."
    )


if __name__ == "__main__":
    sys.exit(main())
