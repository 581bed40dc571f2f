"""The table at the end of a run: one row per phase."""

from typing import Any

from rich.table import Table

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
)


def summary_rows(records: list[PhaseRecord]) -> list[dict[str, Any]]:
    """The rows of summary.csv: test accuracies as fractions, empty where not defined."""
    return [
        {
            "phase": "dense" if r.cycle == 0 else f"cycle {r.cycle}",
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
        }
        for r in records
    ]


def table(records: list[PhaseRecord], title: str) -> Table:
    """The table for a terminal."""
    out = Table(title=title, title_justify="left")
    for name, meaning in (
        ("phase", ""),
        ("sparsity", "%"),
        ("nonzero", "weights"),
        ("pruned", "test %"),
        ("trained", "test %"),
        ("d", "ALLR"),
        ("stability", ""),
        ("time", "s"),
    ):
        header = f"{name}\n[dim]{meaning}[/dim]" if meaning else name
        out.add_column(header, justify="left" if name == "phase" else "right")

    def show(value: float | None, form: str, scale: float = 1.0) -> str:
        return "" if value is None else format(scale * value, form)

    for row in summary_rows(records):
        out.add_row(
            row["phase"],
            show(row["sparsity"], ".2f", 100),
            f"{row['nonzero']:,}",
            show(row["accuracy_pruned"], ".2f", 100),
            show(row["accuracy"], ".2f", 100),
            show(row["discount"], ".3f"),
            show(row["stability"], ".3f"),
            show(row["seconds"], ".1f"),
        )
    return out
