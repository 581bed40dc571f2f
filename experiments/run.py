"""The main job: train, prune and retrain one network.

Run it with ``python -m experiments.run``; ``--help`` explains every option. It writes a run folder
with config.json, metrics.jsonl, summary.csv, pictures, final.safetensors and checkpoints;
``--resume`` goes on with a run that was killed.

The default run takes under 90 seconds on two CPU cores, compilation included.
"""

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from experiments import STARTED, caches, checks, command
from experiments.config import Config
from experiments.errors import is_of_input


def main(arguments: list[str] | None = None, *, started: float | None = None) -> int:
    """The command line; returns the exit status.

    0; 1 a bug, with its traceback; 2 bad input, no room, diverged; 130 interrupted; 143 asked to
    end by SIGTERM, and saved.

    Args:
      arguments: instead of the process's own.
      started: when the program began, as `time.perf_counter` has it; now if omitted.
    """
    started = time.perf_counter() if started is None else started
    config = command.parse(arguments)
    try:
        checks.check_here(config)
    except (ValueError, ImportError, OSError) as error:
        if not is_of_input(error):
            raise
        return _refuse(error)
    with asked_to_end() as asked:
        return _train(config, asked, started)


def _train(config: Config, asked: Callable[[], bool], started: float) -> int:
    """What `main` does with options that may be right."""
    # Not before: it takes seconds, and a wrong option should not wait for it.
    import jax

    import jaxprune as jp
    from experiments import devices, job, models

    console = Console()
    try:
        if config.convolutions == "eigen":
            models.prefer_eigen_convolutions()
        devices.join(config)
        console = Console(quiet=not devices.is_first())
        caches.keep_compiled(config.compilation_cache, caches.teller(console))
        job.run(config, console=console, stop=asked, started=started)
    except jp.training.Preempted as notice:
        folder = config.resolved_run_dir()
        console.print(f"{folder}: {notice} (--resume)", style="yellow", markup=False)
        return 143
    except KeyboardInterrupt:
        folder = config.resolved_run_dir()
        steps = jp.training.Checkpoints(folder / "checkpoints").steps()
        where = (
            f"{folder} holds the log up to here and a checkpoint after {steps[-1]} steps: go on "
            "from there with --resume"
            if steps
            else "there is no checkpoint to go on from"
        )
        console.print(f"Interrupted; {where}.", style="yellow")
        devices.leave(130)
        return 130
    except Exception as error:
        if is_of_input(error):
            status = _refuse(error)
            devices.leave(status)
            return status
        if jax.distributed.is_initialized():  # its orderly end would wait for the others
            traceback.print_exc()
            devices.leave(1)
        raise
    return 0


def _refuse(error: Exception) -> int:
    Console().print(f"Error: {error}", style="red", markup=False, highlight=False)
    return 2


@contextlib.contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """Listens for SIGTERM, which machines send before they go; a second one ends at once."""
    asked = threading.Event()

    def note(number: int, frame: Any) -> None:
        del frame
        asked.set()
        signal.signal(number, before)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals go to the main thread alone
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main(started=STARTED))
