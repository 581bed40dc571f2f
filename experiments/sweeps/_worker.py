"""A worker of a sweep: takes runs that nobody else has, until none is left."""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

import jaxprune as jp
from experiments import job, tasks
from experiments.config import Config
from experiments.inputs import Task
from experiments.setup import Setup, build
from experiments.sweeps._dense import is_trained, train_dense
from experiments.sweeps._folder import SweepFolder
from experiments.sweeps._sweep import Run

_WAIT = 0.5  # seconds between two looks at what others do


def work(
    folder: SweepFolder,
    *,
    say: Callable[[str], object],
    stop: Callable[[], bool] = lambda: False,
    share: Sequence[Run] | None = None,
) -> None:
    """Does runs until all are done, failed, or taken by others that are done with them.

    Args:
      folder: of the sweep.
      say: told in a line what is done.
      stop: asked between stretches of training whether to end; what was trained is kept.
      share: the runs to take, all if omitted.

    Raises:
      OSError: if there is no room on the disk; a run that fails otherwise is noted, and the next
        one taken.
    """
    bench = _Bench(say)
    mine = list(folder.runs if share is None else share)
    while not stop():
        left = [r for r in mine if not folder.is_done(r) and not folder.has_failed(r)]
        if not left:
            return
        # First those that go on with the network at hand.
        left.sort(key=lambda run: run.dense != bench.dense_name)
        if not any(_try(folder, run, bench, say, stop) for run in left):
            time.sleep(_WAIT)  # others have them all


def _try(
    folder: SweepFolder,
    run: Run,
    bench: _Bench,
    say: Callable[[str], object],
    stop: Callable[[], bool],
) -> bool:
    """Does one run, unless another worker has it or its dense network; returns whether it did."""
    with folder.claims.held(run.id) as mine:
        if not mine or folder.is_done(run) or folder.has_failed(run):
            return False
        began = time.perf_counter()
        try:
            parts, dense = bench.parts(run), None
            if run.dense is not None:
                ready = _dense(folder, run, parts, bench, stop)
                if ready is None:
                    return stop()
                dense = ready
            quiet = Console(file=io.StringIO(), width=100)
            job.run(folder.config(run), console=quiet, parts=parts, stop=stop, dense=dense)
        except jp.training.Preempted:
            return True
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            if "cannot be written" in str(error) and "space left" in str(error):
                raise OSError(errno.ENOSPC, f"{error}") from error
            folder.mark_failed(run, error)
            say(f"failed: {run.id}: {type(error).__name__}: {str(error).splitlines()[0]}")
            return True
        seconds = round(time.perf_counter() - began, 1)
        folder.mark_done(run, seconds=seconds)
        say(f"done in {seconds:.0f} s: {run.id}")
        return True


def _dense(
    folder: SweepFolder, run: Run, parts: Setup, bench: _Bench, stop: Callable[[], bool]
) -> Any:
    """The dense network of a run; `None` if another worker trains it, or the sweep is to end."""
    name = run.dense
    assert name is not None
    steps = run.config.epochs * parts.epoch_steps
    snapshots = sorted(
        {
            r.config.rewind_epoch * parts.epoch_steps
            for r in folder.runs
            if r.dense == name and r.config.rewind_epoch is not None
        }
    )
    if bench.dense is not None and bench.dense.name == name:
        return bench.dense
    path = folder.dense_dir(name)
    options: dict[str, Any] = {"every": run.config.checkpoint_epochs * parts.epoch_steps}
    if is_trained(path, steps, snapshots):
        bench.dense = train_dense(name, path, parts, steps, snapshots, stop=stop, **options)
        return bench.dense
    with folder.claims.held(f"dense-{name}") as mine:
        if not mine:
            return None
        bench.dense = train_dense(name, path, parts, steps, snapshots, stop=stop, **options)
        return bench.dense


class _Bench:
    """What a worker has built: the data, and the compiled parts of the network at hand."""

    def __init__(self, say: Callable[[str], object]):
        self._say = say
        self._data: dict[Any, Any] = {}
        self._parts: Setup | None = None
        self._key: Any = None
        self.dense: Any = None

    @property
    def dense_name(self) -> str | None:
        return None if self.dense is None else self.dense.name

    def parts(self, run: Run) -> Setup:
        """The parts of a run; those of the last one, if it trains the same dense network."""
        config = run.config
        key = run.dense
        if key is not None and key == self._key and self._parts is not None:
            assert self._parts.options_for is not None
            return self._parts._replace(options=self._parts.options_for(config))
        parts = build(config, dataset=self._dataset(config), say=self._say)
        if key is not None and not config.stream:
            self._parts, self._key = parts, key
        return parts

    def _dataset(self, config: Config) -> Any:
        """The data of a run, read once; `None` where they are streamed."""
        if config.stream:
            return None
        task: Task = tasks.load(config.task)
        key = (config.task, *(getattr(config, name) for name in task.depends_on))
        if key not in self._data:
            self._data[key] = task.read(config, self._say)
        return self._data[key]
