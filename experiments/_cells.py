"""Grids of runs that can be stopped: finished cells in a file of JSON Lines.

Neither this module nor the commands that use it import JAX before a grid has passed its checks.
"""

import dataclasses
import json
import pathlib
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from experiments import caches, checks
from experiments.config import Config
from experiments.errors import refused

if TYPE_CHECKING:
    from experiments import data

Cell = dict[str, Any]

_SUM = "crc32"  # of a line of results.jsonl without it


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all grids have in common; each names its own ``data`` and ``out``, too."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs."""

    data_cache: str | None = None
    """Folder for decoded images, or off; default: in the user's cache folder."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, data order and whatever is drawn."""

    batch_size: int = 128
    """Examples a training step."""


def read(file: pathlib.Path, keys: Sequence[str]) -> dict[tuple[Any, ...], Cell]:
    """The cells done so far; a line that is cut off or damaged is left out and run again.

    Raises:
      ValueError: if a whole line is the cell of another grid.
    """
    done = {}
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else (), 1):
        try:
            cell = json.loads(line)
        except ValueError:
            continue
        if not isinstance(cell, dict) or cell.pop(_SUM, None) != _checksum(cell):
            continue
        if missing := [key for key in keys if key not in cell]:
            raise ValueError(
                f"line {number} of {file} is no cell of this grid: it has no {missing[0]!r}. "
                "Choose another --out."
            )
        done[tuple(cell[k] for k in keys)] = cell
    return done


def _checksum(cell: Cell) -> int:
    return zlib.crc32(json.dumps(cell).encode())


def append(file: pathlib.Path, cell: Cell) -> None:
    """Adds a cell, on a line of its own even after a line that a crash cut off."""
    written = file.read_bytes() if file.exists() else b""
    torn = bool(written) and not written.endswith(b"\n")
    with file.open("a") as lines:
        lines.write("\n" * torn + json.dumps({**cell, _SUM: _checksum(cell)}) + "\n")


def fill(
    grid: Any,
    keys: Sequence[str],
    *,
    shared: Config,
    cells: Callable[[Any, int], Iterable[Cell]],
    begin: Callable[[int, "data.Dataset"], Callable[[Cell], Cell]],
    line: Callable[[Cell], str],
    table: Callable[[Any, list[Cell]], str],
    console: Console,
    varied: Sequence[str] = (),
    **settings: Any,
) -> str:
    """Runs the cells that are missing, keeps each as soon as it is done, and returns the table.

    Args:
      grid: its settings, with ``seeds`` and ``out``.
      keys: names of the values that tell a cell from all others, "seed" first.
      shared: the configuration of one cell. What all have in common is kept in the folder, which
        takes no cells of other settings.
      cells: the cells of a seed, from the grid and the seed.
      begin: from a seed and the data set, what runs a cell of this seed and returns it with its
        results, "accuracy" and "seconds" among them.
      line: what is said of a cell that is done.
      table: the table of all cells that are done, in Markdown.
      console: where progress goes.
      varied: options that differ between the cells and are not among the keys.
      **settings: what else the cells have in common.

    Raises:
      ValueError: if the folder holds cells of other settings or other data.
    """
    file = grid.out / "results.jsonl"
    common = dataclasses.asdict(shared)
    for key in ("data_dir", "data_cache", "compilation_cache", "run_dir", *keys, *varied):
        common.pop(key, None)
    check_settings(grid.out, common | settings)
    dataset = None
    for seed in grid.seeds:
        done = read(file, keys)
        missing = [c for c in cells(grid, seed) if tuple(c[k] for k in keys) not in done]
        if not missing:
            continue
        if dataset is None:
            dataset = load(grid, console)
            check_examples(grid.out, dataset, begun=bool(done))
        console.print(f"seed {seed}: {len(missing)} cells")
        run_cell = begin(seed, dataset)
        for i, cell in enumerate(missing, 1):
            result = run_cell(cell)
            append(file, result)
            console.print(
                f"seed {seed} {i:3}/{len(missing)}  {line(result)}: "
                f"{100 * result['accuracy']:.2f} % in {result['seconds']:.0f} s",
                highlight=False,
            )
    text = table(grid, list(read(file, keys).values()))
    (grid.out / "table.md").write_text(text + "\n")
    return text


def check_settings(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Keeps what the cells of a folder have in common in its config.json.

    Raises:
      ValueError: if the folder holds cells of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder / "config.json", settings, "cells of other settings")


def check_examples(folder: pathlib.Path, dataset: "data.Dataset", *, begun: bool) -> None:
    """Keeps in data.json what the cells of a folder were made of.

    Args:
      folder: of the grid.
      dataset: the data set.
      begun: whether there are cells.

    Raises:
      ValueError: if there are cells of other data.
    """
    from experiments import data

    file = folder / "data.json"
    if not begun:
        file.unlink(missing_ok=True)
    _keep(file, dict(data.identity(dataset)), "cells of other data")


def _keep(file: pathlib.Path, document: dict[str, Any], what: str) -> None:
    """Writes a document, or compares it with the one that is there."""
    text = json.dumps(document, indent=2)
    held = None
    if file.exists():
        try:
            held = json.loads(file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}); choose another --out.") from error
        if held != json.loads(text):
            raise ValueError(
                f"{file.parent} holds {what}, says its {file.name}; choose another --out."
            )
    else:
        file.write_text(text + "\n")


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
    except Exception as error:
        return refused(error, console)
    return 0
