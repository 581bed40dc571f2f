"""Kills a run again and again, resumes it each time, and compares it with one left in peace.

    python -m experiments.torture --kills 100

A run of `experiments.run` is killed with SIGKILL at random moments: while it starts, while it
trains, while it writes a checkpoint, and between a phase and the next. Whatever way it got to its
end, its final weights, masks, optimizer state and metrics.jsonl must equal, bit by bit and line by
line, those of the same run undisturbed; only seconds and images a second may differ. When a run
ends before all kills are spent, another one begins.

100 kills take about 20 minutes on two CPU cores. The exit status is 1 if anything differs.
"""

import collections
import csv
import dataclasses
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import tyro
from rich.console import Console

TIMING = ("seconds", "images_per_second")
_RUN = (
    *("--model", "lenet_300_100", "--epochs", "30", "--retrain-epochs", "8", "--cycles", "3"),
    *("--rewind-epoch", "4", "--schedule", "lrw", "--checkpoint-epochs", "1"),
)
_ENDLESS = 600


@dataclasses.dataclass(frozen=True)
class Settings:
    """Kill a run at random moments and resume it."""

    kills: int = 100
    """How often to kill."""

    seed: int = 0
    """Seed of the moments."""

    out: pathlib.Path | None = None
    """Folder for the runs; default: a temporary one, removed if all is well."""

    arguments: tuple[str, ...] = _RUN
    """Arguments of `experiments.run`."""


class Difference(Exception):  # noqa: N818 - what this program looks for
    """A run that was killed and resumed is not the one that was left in peace."""


def torture(settings: Settings, folder: pathlib.Path, console: Console) -> dict[str, Any]:
    """Runs, kills, resumes and compares.

    Args:
      settings: the settings.
      folder: where the runs lie.
      console: where progress goes.

    Returns:
      Counts: kills by what the run was doing, runs that got to their end, resumes.

    Raises:
      Difference: naming it.
      RuntimeError: if a run fails by itself.
    """
    calm = folder / "undisturbed"
    begin = time.perf_counter()
    _finish(_start(settings, calm, folder), calm)
    startup = time.perf_counter() - begin
    console.print(f"undisturbed: {startup:.1f} s")
    drawn = random.Random(settings.seed)
    kills: collections.Counter[str] = collections.Counter()
    ended = resumed = 0
    while kills.total() < settings.kills or not ended:
        victim = folder / f"killed-{ended}"
        while True:
            process = _start(settings, victim, folder)
            resumed += (victim / "checkpoints").is_dir()
            moment = _kill(process, victim, drawn) if kills.total() < settings.kills else None
            if moment is None:
                _finish(process, victim)
                break
            kills[moment] += 1
            console.print(f"kill {kills.total()}: {moment}, {_lines(victim)} lines logged")
        compare(calm, victim)
        ended += 1
        console.print(f"run {ended}: equal to the undisturbed one")
        shutil.rmtree(victim)
    return {"kills": dict(kills), "runs": ended, "resumes": resumed}


def _start(
    settings: Settings, run_dir: pathlib.Path, folder: pathlib.Path
) -> "subprocess.Popen[str]":
    checkpoints = run_dir / "checkpoints"
    saved = checkpoints.is_dir() and any(p.name.isdigit() for p in checkpoints.iterdir())
    if not saved:
        shutil.rmtree(run_dir, ignore_errors=True)  # killed before its first checkpoint
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "experiments.run", *settings.arguments]
    command += ["--run-dir", str(run_dir), *["--resume"] * saved]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: "subprocess.Popen[str]", run_dir: pathlib.Path) -> None:
    output, _ = process.communicate(timeout=_ENDLESS)
    if process.returncode:
        raise RuntimeError(f"the run in {run_dir} failed by itself:\n{output[-2000:]}")


def _kill(
    process: "subprocess.Popen[str]", run_dir: pathlib.Path, drawn: random.Random
) -> str | None:
    """Kills a run at a moment to be drawn; says what it was doing, or `None` if it had ended."""
    kind = drawn.choices(("starting", "training", "saving", "pruning"), (1, 3, 4, 2))[0]
    if kind == "starting":
        _wait(process, drawn.uniform(0, 6))
    else:
        lines, deadline = _lines(run_dir), time.monotonic() + _ENDLESS
        while process.poll() is None and _lines(run_dir) <= lines:
            _check_time(deadline, run_dir)
            time.sleep(0.01)
        _wait(process, drawn.uniform(0, 1.5))
        awaited = {"saving": _is_saving, "pruning": _is_between_phases}.get(kind)
        while awaited is not None and process.poll() is None and not awaited(run_dir):
            _check_time(deadline, run_dir)
            time.sleep(0.0005)
        if awaited is not None:
            _wait(process, drawn.uniform(0, 0.03 if kind == "saving" else 0.3))
    if process.poll() is not None:
        return None
    process.kill()
    process.communicate()
    return kind


def _check_time(deadline: float, run_dir: pathlib.Path) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"the run in {run_dir} does not go on.")


def _wait(process: "subprocess.Popen[str]", seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(min(0.005, seconds))


def _lines(run_dir: pathlib.Path) -> int:
    log = run_dir / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _is_saving(run_dir: pathlib.Path) -> bool:
    """Whether a checkpoint is being written: Orbax does so under another name, or unmarked."""
    try:
        folders = [p for p in (run_dir / "checkpoints").iterdir() if p.is_dir()]
        return any(not p.name.isdigit() or not _is_complete(p) for p in folders)
    except OSError:
        return False


def _is_between_phases(run_dir: pathlib.Path) -> bool:
    """Whether a phase has ended and the next one has not trained yet: it is pruned, or saved."""
    try:
        with (run_dir / "metrics.jsonl").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 1000))
            return b'"kind": "phase"' in log.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return False


def _is_complete(checkpoint: pathlib.Path) -> bool:
    return (checkpoint / "_CHECKPOINT_METADATA").exists()


def compare(calm: pathlib.Path, victim: pathlib.Path) -> None:
    """Compares two runs.

    Args:
      calm: the folder of the one that was left in peace.
      victim: the folder of the other.

    Raises:
      Difference: naming the first one.
    """
    lines = [_rows(folder / "metrics.jsonl") for folder in (calm, victim)]
    for i, (one, other) in enumerate(zip(*lines, strict=False), 1):
        if one != other:
            raise Difference(f"line {i} of {victim / 'metrics.jsonl'}: {other}, not {one}")
    if len(lines[0]) != len(lines[1]):
        raise Difference(f"{victim / 'metrics.jsonl'}: {len(lines[1])}, not {len(lines[0])} lines")
    tables = [_table(folder / "summary.csv") for folder in (calm, victim)]
    if tables[0] != tables[1]:
        raise Difference(f"{victim / 'summary.csv'}: {tables[1]}, not {tables[0]}")
    (step, one), (other_step, other) = (final_arrays(folder) for folder in (calm, victim))
    if (step, one.keys()) != (other_step, other.keys()):
        raise Difference(f"{victim}: its last checkpoint is of step {other_step}, not {step}")
    for name, x in one.items():
        if x.dtype != other[name].dtype or x.tobytes() != other[name].tobytes():
            raise Difference(f"{victim}: the array {name!r} of its last checkpoint differs")
    if final_network(calm) != final_network(victim):
        raise Difference(f"{victim / 'final.safetensors'} holds another network")


def final_network(run_dir: pathlib.Path) -> Any:
    """The network that a run ended with and its mask, bit by bit, to be compared."""
    import jax

    import jaxprune as jp

    leaves, tree = jax.tree.flatten(jp.load(run_dir / "final.safetensors"))
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in leaves], tree


def _rows(log: pathlib.Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def _table(file: pathlib.Path) -> list[dict[str, str]]:
    with file.open() as rows:
        return [{k: v for k, v in r.items() if k not in TIMING} for r in csv.DictReader(rows)]


def final_arrays(run_dir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
    """The last checkpoint of a run: its step, and its arrays by name."""
    import orbax.checkpoint as ocp

    from jaxprune.training import Checkpoints

    folder = run_dir / "checkpoints"
    step = Checkpoints(folder).steps()[-1]
    with ocp.StandardCheckpointer() as reader:
        arrays = reader.restore(folder.absolute() / str(step) / "state")
    return step, {name: np.asarray(x) for name, x in arrays.items()}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (0, 1 a difference, 2 bad input)."""
    settings = tyro.cli(Settings, args=arguments, prog="python -m experiments.torture")
    console = Console()
    if settings.kills < 1:
        console.print(f"Error: kills is at least 1; got {settings.kills}.", style="red")
        return 2
    folder = settings.out or pathlib.Path(tempfile.mkdtemp(prefix="jaxprune-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    try:
        counts = torture(settings, folder, console)
    except (Difference, RuntimeError) as found:
        console.print(f"Failed: {found}", style="red", markup=False, highlight=False)
        console.print(f"The runs are in {folder}.")
        return 1
    minutes = (time.perf_counter() - begin) / 60
    console.print(f"{counts}, no difference, {minutes:.1f} minutes")
    if settings.out is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
