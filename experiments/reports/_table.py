"""The table at the end of a run: one row per phase."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.checks import fixed_sparsity
from experiments.config import ITERATIVE, UNCONTROLLED, Config
from experiments.reports._fitting import print_fitting
from experiments.reports._log import Log
from experiments.tasks import DEFAULT, KINDS, Kind
from jaxprune.training import PhaseRecord


def columns(kind: Kind) -> tuple[str, ...]:
    """The columns of summary.csv, without those that tell runs apart."""
    measures = (name for m in kind.measures for name in (f"{m.name}_pruned", m.name))
    return (
        "phase",
        "sparsity",
        "nonzero",
        "prunable",
        *measures,
        "discount",
        "stability",
        "steps",
        "seconds",
        kind.speed,
        "parameters",
        "macs",
        "speedup",
    )


COLUMNS = columns(KINDS[DEFAULT])
"""Those of image classification."""


def about(config: Config) -> dict[str, Any]:
    """What every row of summary.csv says of its run; empty where the method has no such thing."""
    iterative, target = config.method in ITERATIVE, fixed_sparsity(config)
    if target is None and config.method not in (*UNCONTROLLED, "dense"):
        target = config.sparsity
    return {
        "method": config.method,
        "schedule": config.schedule if iterative else None,
        "seed": config.seed,
        "target": target,
    }


def summary_rows(records: list[PhaseRecord], log: Log) -> list[dict[str, Any]]:
    """The rows of summary.csv: measures of the test set as they are, empty where not defined."""
    return [
        {
            "phase": r.phase,
            "sparsity": r.sparsity,
            "nonzero": r.nonzero,
            "prunable": r.prunable,
            **_measured(r, log.kind),
            "discount": r.discount,
            "stability": r.stability,
            "steps": len(r.learning_rates),
            "seconds": round(r.seconds, 2),
            log.kind.speed: None if not (speed := log.speeds.get(r.phase)) else round(speed),
            "parameters": None if r.left is None else r.left.parameters,
            "macs": None if r.left is None else r.left.macs,
            "speedup": log.speedups.get(r.phase),
        }
        for r in records
    ]


def _measured(record: PhaseRecord, kind: Kind) -> dict[str, Any]:
    pruned = record.evaluation_pruned
    values: dict[str, Any] = {}
    for name in (measure.name for measure in kind.measures):
        values[f"{name}_pruned"] = None if pruned is None else pruned[name]
        values[name] = record.evaluation[name]
    return values


# Columns by what they are called here, those first that are missed least.
_DROPPABLE = (
    "images",
    "sentences",
    "sequences",
    "parameters",
    "time",
    "stability",
    "nonzero",
    "d",
    "pruned",
)


def print_table(
    records: list[PhaseRecord], title: str, log: Log, console: Console, note: str | None = None
) -> None:
    """Prints the table, a row a phase; on a narrow terminal without the least columns."""
    rows, measure = summary_rows(records, log), log.kind.measure
    of_test = f"test {measure.unit or measure.short}"

    def show(name: str, form: str, scale: float = 1) -> list[str]:
        values = [row[name] for row in rows]
        return ["" if value is None else format(scale * value, form) for value in values]

    columns = {
        ("phase", ""): [row["phase"] for row in rows],
        ("sparsity", "%"): show("sparsity", ".2f", 100),
        ("nonzero", "weights"): show("nonzero", ","),
        ("pruned", of_test): show(f"{measure.name}_pruned", ".2f", measure.scale),
        ("trained", of_test): show(measure.name, ".2f", measure.scale),
        ("d", "ALLR"): show("discount", ".3f"),
        ("stability", ""): show("stability", ".3f"),
        ("parameters", "left"): show("parameters", ","),
        ("MACs", "an image"): show("macs", ","),
        ("speedup", "measured"): show("speedup", ".2f"),
        ("time", "s"): show("seconds", ".1f"),
        (log.kind.examples, "/s"): show(log.kind.speed, ",.0f"),
    }
    columns = {header: cells for header, cells in columns.items() if any(cells)}

    def make(gone: frozenset[str]) -> Table:
        out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown = {header: cells for header, cells in columns.items() if header[0] not in gone}
        for name, unit in shown:
            header = f"{name}\n[dim]{unit}[/dim]" if unit else name
            out.add_column(header, justify="left" if name == "phase" else "right", no_wrap=True)
        for cells in zip(*shown.values(), strict=True):
            out.add_row(*cells)
        if gone:
            named = [name for name, _ in columns if name in gone]
            out.caption, out.caption_justify = f"No room for {', '.join(named)}.", "left"
        return out

    print_fitting(console, make, _DROPPABLE)
    if note is not None:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
