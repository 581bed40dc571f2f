"""The table at the end of a run: one row per phase."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.checks import fixed_sparsity
from experiments.config import ITERATIVE, UNCONTROLLED, Config
from experiments.reports._fitting import print_fitting
from experiments.reports._log import Log
from jaxprune.training import PhaseRecord

COLUMNS = (
    "phase",
    "sparsity",
    "nonzero",
    "prunable",
    "accuracy_pruned",
    "accuracy",
    "discount",
    "stability",
    "steps",
    "seconds",
    "images_per_second",
    "parameters",
    "macs",
    "speedup",
)


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
    """The rows of summary.csv: test accuracies as fractions, empty where not defined."""
    return [
        {
            "phase": r.phase,
            "sparsity": r.sparsity,
            "nonzero": r.nonzero,
            "prunable": r.prunable,
            "accuracy_pruned": None
            if r.evaluation_pruned is None
            else r.evaluation_pruned["accuracy"],
            "accuracy": r.evaluation["accuracy"],
            "discount": r.discount,
            "stability": r.stability,
            "steps": len(r.learning_rates),
            "seconds": round(r.seconds, 2),
            "images_per_second": None if not (speed := log.speeds.get(r.phase)) else round(speed),
            "parameters": None if r.left is None else r.left.parameters,
            "macs": None if r.left is None else r.left.macs,
            "speedup": log.speedups.get(r.phase),
        }
        for r in records
    ]


# Columns by what they are called here, those first that are missed least.
_DROPPABLE = ("images", "parameters", "time", "stability", "nonzero", "d", "pruned")


def print_table(records: list[PhaseRecord], title: str, log: Log, console: Console) -> None:
    """Prints the table, a row a phase; on a narrow terminal without the least columns."""
    rows = summary_rows(records, log)

    def show(name: str, form: str, scale: float = 1) -> list[str]:
        values = [row[name] for row in rows]
        return ["" if value is None else format(scale * value, form) for value in values]

    columns = {
        ("phase", ""): [row["phase"] for row in rows],
        ("sparsity", "%"): show("sparsity", ".2f", 100),
        ("nonzero", "weights"): show("nonzero", ","),
        ("pruned", "test %"): show("accuracy_pruned", ".2f", 100),
        ("trained", "test %"): show("accuracy", ".2f", 100),
        ("d", "ALLR"): show("discount", ".3f"),
        ("stability", ""): show("stability", ".3f"),
        ("parameters", "left"): show("parameters", ","),
        ("MACs", "an image"): show("macs", ","),
        ("speedup", "measured"): show("speedup", ".2f"),
        ("time", "s"): show("seconds", ".1f"),
        ("images", "/s"): show("images_per_second", ",.0f"),
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
