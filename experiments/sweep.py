"""Grids of runs: every combination of methods, schedules, sparsities, seeds and other options.

    python -m experiments.sweep retraining_schedules --size tiny
    python -m experiments.sweep my_grid.py --set seed=0,1,2 --workers 2

A named sweep is one of `experiments.papers`; a file is Python that has a `Sweep` named SWEEP, or
several in a dictionary SIZES. The folder holds a folder a run, the dense networks, which are
trained once for all runs that prune them, and results.parquet and results.csv. Started again, it
does what is not done, and goes on where it was interrupted. Several machines may work in one
folder.
"""

import dataclasses
import importlib.util
import pathlib
import re
import sys
import threading
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from experiments import caches, checks, papers
from experiments.errors import refused
from experiments.program import program
from experiments.run import asked_to_end
from experiments.sweeps import Run, Sweep, SweepFolder, changed, runs
from experiments.sweeps import _launch as launch


@dataclasses.dataclass(frozen=True)
class Options:
    """Run a grid of experiments."""

    name: tyro.conf.Positional[str]
    """A named sweep, or a Python file with one."""

    size: str = "cpu"
    """Which size of a named sweep: tiny, cpu or full."""

    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option of all runs, key=value, or an axis, key=value,value. Can be given several times."""

    out: pathlib.Path | None = None
    """Folder of the sweep; default: runs/NAME-SIZE."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs."""

    shard: str | None = None
    """i/n: only every n-th run from the i-th on, from 0; for machines that share nothing."""

    workers: int | None = None
    """Processes; default: one an accelerator, or one on a CPU."""

    launcher: Literal["local", "slurm"] = "local"
    """Where workers run: here, or as jobs of a Slurm cluster, through submitit."""

    slurm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A parameter of submitit, key=value, such as timeout_min=240 or gpus_per_node=1."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status.

    0; 1 if runs have failed, or a bug, with its traceback; 2 bad input or no room; 130 interrupted;
    143 asked to end by SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_worker = launch.WORKER in words
    words = [word for word in words if word != launch.WORKER]
    options = tyro.cli(Options, args=words, prog=program("sweep"))
    console = Console()
    try:
        return _main(options, console, is_worker=is_worker)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on.", style="yellow")
        return 130
    except Exception as error:
        return refused(error, console)


def _main(options: Options, console: Console, *, is_worker: bool) -> int:
    sweep = changed(find(options.name, options.size), options.set)
    if options.data_dir is not None:
        sweep = dataclasses.replace(sweep, base={**sweep.base, "data_dir": options.data_dir})
    all_runs = runs(sweep)
    share = all_runs[_shard(options.shard)]
    keys = ("task", "data", "data_dir", "text_fields")
    for config in {tuple(getattr(r.config, k) for k in keys): r.config for r in share}.values():
        checks.check_data_of(config)
    path = options.out or pathlib.Path("runs") / f"{sweep.name}-{options.size}"
    path.mkdir(parents=True, exist_ok=True)
    folder = SweepFolder(path, all_runs)
    folder.begin(sweep)
    if is_worker:
        return _work(folder, share, options, console)
    folder.forget_failures()
    progress = _Progress(folder, share, console)
    progress.begin()
    if options.launcher == "slurm":
        return _submit(folder, options, console)
    devices = launch.accelerators() if options.workers != 1 else None
    workers = options.workers or (1 if devices is None else len(devices))
    workers = min(workers, max(len(progress.left()), 1))
    if workers == 1:
        status = _work(folder, share, options, console, progress)
        if status:
            return status
    else:
        words = _words(options)
        with asked_to_end() as asked:
            said = launch.local(
                words, workers, path, watch=lambda: progress.look(asked()), devices=devices
            )
        for line in said:
            console.print(line, style="yellow", markup=False, highlight=False)
    return progress.end()


def find(name: str, size: str) -> Sweep:
    """The sweep of a name, or in a file.

    Raises:
      ValueError: if there is none; with the nearest name.
      FileNotFoundError: if there is no such file.
    """
    if not name.endswith(".py"):
        checks.check_name("sweep", name, papers.NAMES)
        sizes = papers.load(name).sizes
    else:
        file = pathlib.Path(name)
        if not file.exists():
            raise FileNotFoundError(f"there is no file {name}.")
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if isinstance(one := getattr(module, "SWEEP", None), Sweep):
            return one
        sizes = getattr(module, "SIZES", None)
        if not isinstance(sizes, dict) or not all(isinstance(s, Sweep) for s in sizes.values()):
            raise ValueError(f"{name} has neither SWEEP, a Sweep, nor SIZES, a dict of them.")
    checks.check_name("size", size, sizes)
    return sizes[size]


def _shard(text: str | None) -> slice:
    if text is None:
        return slice(None)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"shard is i/n with i from 0 to n - 1; got {text!r}.")
    return slice(int(match[1]), None, int(match[2]))


def _words(options: Options) -> list[str]:
    """The command line of a worker."""
    words = [options.name, "--size", options.size]
    for setting in options.set:
        words += ["--set", setting]
    for name in ("out", "data_dir", "shard", "compilation_cache"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _work(
    folder: SweepFolder,
    share: Sequence[Run],
    options: Options,
    console: Console,
    progress: "_Progress | None" = None,
) -> int:
    """What a worker does, in this process."""
    from experiments import models
    from experiments.sweeps import _worker as worker

    if any(run.config.convolutions == "eigen" for run in share):
        models.prefer_eigen_convolutions()
    caches.keep_compiled(options.compilation_cache, caches.teller(console))
    say = caches.teller(console) if progress is None else progress.say
    with asked_to_end() as asked:
        worker.work(folder, say=say, stop=asked, share=share)
        return 143 if asked() else 0


def _submit(folder: SweepFolder, options: Options, console: Console) -> int:
    parameters: dict[str, Any] = {}
    for setting in options.slurm:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--slurm {setting!r} is not key=value.")
        parameters[key] = int(value) if value.isdigit() else value
    words = [*_words(dataclasses.replace(options, out=folder.path.absolute()))]
    jobs = launch.slurm(words, options.workers or 1, folder.path, parameters=parameters)
    numbers = ", ".join(str(job.job_id) for job in jobs)
    console.print(f"Submitted {numbers}. The same command without --launcher tells how it stands.")
    return 0


class _Progress:
    """What is told while a sweep runs, on the terminal and in progress.log."""

    def __init__(self, folder: SweepFolder, share: Sequence[Run], console: Console):
        self._folder, self._share, self._console = folder, share, console
        self._began, self._seen = time.perf_counter(), set[str]()
        self._lock = threading.Lock()

    def left(self) -> list[Run]:
        done = self._folder.is_done
        return [r for r in self._share if not done(r) and not self._folder.has_failed(r)]

    def begin(self) -> None:
        self._seen = {run.id for run in self._share if self._folder.is_done(run)}
        dense = {run.dense for run in self._share if run.dense}
        self.say(
            f"{len(self._share)} runs, {len(self._seen)} of them done; {len(dense)} dense "
            f"networks; {self._folder.path}"
        )

    def say(self, line: str) -> None:
        """Prints a line with how far the sweep is, and adds it to the file."""
        with self._lock:
            done = sum(map(self._folder.is_done, self._share))
            text = f"[{done}/{len(self._share)}{self._time_left(done)}] {line}"
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            with (self._folder.path / "progress.log").open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _time_left(self, done: int) -> str:
        fresh, left = done - len(self._seen), len(self.left())
        if fresh < 1 or not left:
            return ""
        seconds = (time.perf_counter() - self._began) / fresh * left
        return f", {seconds / 60:.0f} min left" if seconds > 90 else f", {seconds:.0f} s left"

    def look(self, asked: bool) -> bool:
        """Tells of runs that other processes have ended since the last look."""
        for run in self._share:
            if run.id not in self._told and (
                self._folder.is_done(run) or self._folder.has_failed(run)
            ):
                self._told.add(run.id)
                if run.id not in self._seen:
                    self.say(f"{'done' if self._folder.is_done(run) else 'failed'}: {run.id}")
        if asked:
            raise KeyboardInterrupt
        return bool(self.left())

    @property
    def _told(self) -> set[str]:
        if not hasattr(self, "_told_ids"):
            self._told_ids = set(self._seen)
        return self._told_ids

    def end(self) -> int:
        from experiments.sweeps import _results as results

        file = results.write(self._folder)
        failed = [f for f in self._folder.failures() if f[0] in self._share]
        for run, said in failed:
            self.say(f"failed: {run.id}: {said['error']}")
            self.say(f"  again, alone: {said['command']}")
        if file is not None:
            self.say(f"results: {file}")
        return 1 if failed or self.left() else 0


if __name__ == "__main__":
    sys.exit(main())
