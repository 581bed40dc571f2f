"""The results of a sweep: one tidy table, a row a run and phase."""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import tasks
from experiments.config import NOT_COMPARED, as_json
from experiments.sweeps._folder import SweepFolder
from experiments.sweeps._sweep import LABEL, Run

# Columns of summary.csv that the configuration has, too.
_TWICE = ("method", "schedule", "seed")
_WHOLE = ("nonzero", "prunable", "steps", *(kind.speed for kind in tasks.KINDS.values()))
_WORDS = ("phase",)


def rows_of(folder: SweepFolder, run: Run) -> list[dict[str, Any]]:
    """The rows of a run that is done: its settings, where it ran, and one phase each.

    `final` is true of the last phase. What the run has not is `None`. Settings that change no
    number (folders, workers, devices) are left out.
    """
    path = folder.run_dir(run)
    document = json.loads((path / "config.json").read_text(encoding="utf-8"))
    settings = {k: v for k, v in as_json(run.config).items() if k not in NOT_COMPARED}
    about = {
        "run": run.id,
        LABEL: run.label,
        **settings,
        "dense_schedule": run.config.resolved_dense_schedule(),
        "dense": run.dense,
        "device": document["device"],
        "jax": document["versions"]["jax"],
        "jaxprune": document["versions"]["jaxprune"],
        "commit": document["commit"],
    }
    with (path / "summary.csv").open(newline="", encoding="utf-8") as file:
        phases = [{k: _typed(k, v) for k, v in row.items()} for row in csv.DictReader(file)]
    rows = []
    for i, phase in enumerate(phases):
        # The sparsity that was asked for is a setting; that of a phase is measured.
        measured = {k: v for k, v in phase.items() if k not in _TWICE}
        measured["phase_sparsity"] = measured.pop("sparsity")
        rows.append({**about, **measured, "cycle": i, "final": i == len(phases) - 1})
    return rows


def write(folder: SweepFolder) -> pathlib.Path | None:
    """Writes results.parquet and results.csv of all runs that are done.

    Returns:
      The Parquet file; `None` if no run is done.
    """
    import polars

    rows = [row for run in folder.runs if folder.is_done(run) for row in rows_of(folder, run)]
    if not rows:
        return None
    table = polars.DataFrame(rows, schema=_schema(rows), orient="row")
    for name, save in (("results.parquet", table.write_parquet), ("results.csv", table.write_csv)):
        fresh = folder.path / f".{name}"
        save(fresh)
        fresh.replace(folder.path / name)
    return folder.path / "results.parquet"


def read(path: pathlib.Path) -> Any:
    """The table of a sweep's folder, or of a file, as a data frame of polars.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no table of results.
    """
    import polars

    file = path / "results.parquet" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"there are no results in {path}. Run the sweep first.")
    try:
        table = polars.read_parquet(file)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{file} is no table of results ({error}).") from error
    measure = kind_of(table).measure.name
    if missing := {"run", LABEL, measure, "final"} - set(table.columns):
        raise ValueError(f"{file} is no table of results: it has no column {sorted(missing)[0]!r}.")
    return table


def kind_of(table: Any) -> tasks.Kind:
    """The task of a table of results.

    Raises:
      ValueError: if there are several, which have no measure in common, or it is not known.
    """
    names = table["task"].unique().to_list() if "task" in table.columns else [tasks.DEFAULT]
    if len(names) != 1 or names[0] not in tasks.KINDS:
        raise ValueError(
            f"the results are of the tasks {sorted(map(str, names))}, and a report is of one of "
            f"{', '.join(tasks.KINDS)}. Sweep them one by one."
        )
    return tasks.KINDS[names[0]]


def _typed(name: str, text: str) -> Any:
    if text == "" or name in _WORDS:
        return text or None
    if name in _WHOLE:
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _schema(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One type a column, whatever the runs at hand have in it."""
    import polars

    schema: dict[str, Any] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows if row.get(name) is not None]
        kinds = {type(value) for value in values}
        if kinds <= {bool}:
            schema[name] = polars.Boolean if kinds else polars.String
        elif kinds <= {int}:
            schema[name] = polars.Int64
        elif kinds <= {int, float}:
            schema[name] = polars.Float64
        else:
            schema[name] = polars.String
    return schema
