"""Grids of runs that can be stopped: finished cells in a file of JSON Lines.

Neither this module nor the commands that use it import JAX before a grid has passed its checks.
"""

import json
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from experiments import caches, checks
from experiments.config import Config

if TYPE_CHECKING:
    from experiments import data

Cell = dict[str, Any]


def read(file: pathlib.Path, keys: Sequence[str]) -> dict[tuple[Any, ...], Cell]:
    """The cells done so far; a line cut off by a crash is left out and run again."""
    done = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            cell = json.loads(line)
        except ValueError:
            continue
        done[tuple(cell[k] for k in keys)] = cell
    return done


def append(file: pathlib.Path, cell: Cell) -> None:
    """Adds a cell, on a line of its own even after a line that a crash cut off."""
    written = file.read_bytes() if file.exists() else b""
    torn = bool(written) and not written.endswith(b"\n")
    with file.open("a") as lines:
        lines.write("\n" * torn + json.dumps(cell) + "\n")


def check_settings(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Keeps what the cells of a folder have in common in its config.json.

    Raises:
      ValueError: if the folder holds cells of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / "config.json"
    text = json.dumps(settings, indent=2)
    if header.exists() and json.loads(header.read_text()) != json.loads(text):
        raise ValueError(f"{folder} holds cells of other settings; choose another --out.")
    header.write_text(text + "\n")


def mean_std(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± sample standard deviation; the value alone if there is one, a dash if none."""
    if not values:
        return "–"
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def load(grid: Any, console: Console) -> "data.Dataset":
    """The data set of a grid, which has the fields ``data``, ``data_dir`` and ``data_cache``."""
    from experiments import data

    cache = caches.folder("data", grid.data_cache)
    say = caches.teller(console)
    return data.load(grid.data, data_dir=grid.data_dir, cache=cache, say=say)


def main(
    grid_type: type[Any],
    configs: Callable[[Any], Iterable[Config]],
    run: Callable[[Any, Console], str],
    module: str,
    arguments: Any,
) -> int:
    """The command line of a grid; returns the exit status (0, 2 bad input, 130 interrupted).

    Args:
      grid_type: its settings, with a folder ``out``, and ``compilation_cache`` and what `load`
        needs.
      configs: checks the settings; the runs of the grid, which are checked, too.
      run: runs what is missing and returns the table.
      module: what is run, for the help text.
      arguments: instead of the process's own; `None` for these.
    """
    grid = tyro.cli(grid_type, args=arguments, prog=f"python -m {module}")
    console = Console()
    try:
        for config in configs(grid):
            checks.check(config)
        checks.check_data(grid.data, grid.data_dir)
        caches.keep_compiled(grid.compilation_cache, caches.teller(console))
        console.print(run(grid, console), markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(f"Interrupted; run it again to go on. Done cells: {grid.out}/results.jsonl.")
        return 130
    except (ValueError, TypeError, ImportError, OSError) as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 2
    return 0
