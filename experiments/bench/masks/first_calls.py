"""First calls: what somebody waits for who prunes for the first time, a fresh process each."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.bench.masks import first_call as _first_call

Row = dict[str, Any]

# Of each case the median of so many processes, taken in turns.
_REPEATS = 3


def measure(say: Callable[[str], None], cases: Sequence[str] | None = None) -> list[Row]:
    """Runs every case in processes of its own, without the compilation cache.

    Args:
      say: gets a line before each round.
      cases: names of `_first_call.CASES`; all if omitted.

    Returns:
      A row a case.

    Raises:
      RuntimeError: if a case fails.
    """
    names = list(_first_call.CASES if cases is None else cases)
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    for i in range(_REPEATS):
        say(f"first calls, round {i + 1} of {_REPEATS} ...")
        for name in names:
            found[name].append(_run(name))
    return [_row(name, runs) for name, runs in found.items()]


def _run(name: str) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "experiments.bench.masks.first_call", name]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the first call {name!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    if "missing" in runs[0]:
        return {"case": name, "not_measured": f"{runs[0]['missing']} is not installed"}
    seconds = [run["seconds"] for run in runs]
    return {
        "case": name,
        "not_measured": None,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "programs": runs[0]["programs"],
        "peak_bytes": max(run["peak_bytes"] for run in runs),
    }


def targets(rows: Sequence[Row]) -> list[tuple[str, float | None, float]]:
    """What was aimed at on a CPU: the words, what was measured (`None`: not), the upper limit."""
    seconds = {row["case"]: row.get("median_seconds") for row in rows}
    peaks = {row["case"]: row.get("peak_bytes") for row in rows}

    def over(above: str, below: str) -> float | None:
        a, b = seconds.get(above), seconds.get(below)
        return a / b if a and b else None

    many = "1,000 leaves of 64 x 64"
    gigabytes = [peak / 1e9 for name, peak in peaks.items() if peak and name.startswith(many)]
    return [
        ("first prune of ResNet-50 / PyTorch's", over("ResNet-50", "ResNet-50, PyTorch"), 1 / 3),
        ("first prune of ResNet-50, seconds", seconds.get("ResNet-50"), 1.0),
        ("compiling a traced prune of ResNet-50, seconds", seconds.get("ResNet-50, traced"), 2.0),
        ("first prune of 5 small leaves, seconds", seconds.get("5 leaves of 8 x 8"), 0.5),
        ("first prune of 1,000 leaves, seconds", seconds.get(many), 5.0),
        ("compiling a traced one, seconds", seconds.get(f"{many}, traced"), 10.0),
        ("peak memory of either, GB", max(gigabytes, default=None), 1.0),
        (
            "import jaxprune / import jax, optax, flax",
            over("import jaxprune", "import jax, optax, flax"),
            1.3,
        ),
    ]


def markdown(rows: Sequence[Row]) -> list[str]:
    """The table, as lines."""
    lines = [
        "| first call, in a fresh process | s | programs compiled | peak memory MB |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        if row["not_measured"]:
            lines.append(f"| {row['case']} | {row['not_measured']} | | |")
            continue
        programs = "" if row["programs"] is None else f"{row['programs']:,}"
        lines.append(
            f"| {row['case']} | {row['median_seconds']:.3g} | {programs} | "
            f"{row['peak_bytes'] / 1e6:,.0f} |"
        )
    return lines
