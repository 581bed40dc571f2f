"""Starting the workers of a sweep: processes here, or jobs of a cluster."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WORKER = "--worker"
"""Says that a process is a worker, which another one has started."""

_MOST_RESTARTS = 2  # of a worker that died, before its place stays empty


def local(
    arguments: Sequence[str],
    workers: int,
    folder: pathlib.Path,
    *,
    watch: Callable[[], bool],
    devices: Sequence[str] | None,
) -> list[str]:
    """Runs workers as processes of this machine until all have ended.

    Args:
      arguments: of `experiments.sweep`, for a worker.
      workers: how many.
      folder: where what they print goes, a file each.
      watch: called about once a second; returns whether there is work left.
      devices: the accelerators, one a worker; `None` on a CPU.

    Returns:
      What is to be said of workers that died.
    """
    logs = folder / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[int, subprocess.Popen[bytes]] = {}
    restarts, said = dict.fromkeys(range(workers), 0), []

    def start(i: int) -> None:
        with (logs / f"{i}.log").open("ab") as log:
            running[i] = subprocess.Popen(
                [sys.executable, "-m", "experiments.sweep", *arguments, WORKER],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(i, workers, devices),
            )

    try:
        for i in range(workers):
            start(i)
        while running:
            left = watch()
            for i, process in list(running.items()):
                try:
                    status = process.wait(timeout=1 / len(running))
                except subprocess.TimeoutExpired:
                    continue
                del running[i]
                if status in (0, 143):
                    continue
                said.append(f"worker {i} ended with status {status}; see {logs / f'{i}.log'}")
                if left and restarts[i] < _MOST_RESTARTS and status != 2:
                    restarts[i] += 1
                    start(i)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return said


def _environment(i: int, workers: int, devices: Sequence[str] | None) -> dict[str, str]:
    environment = dict(os.environ)
    if devices is not None:
        # Whichever of these the installed JAX looks at; the others mean nothing to it.
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
            environment[name] = devices[i % len(devices)]
        environment |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        if workers > len(devices):
            environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return environment


def accelerators() -> list[str] | None:
    """The indices of the accelerators of this machine, asked in a process of its own.

    A process that has looked at them would keep them from its workers.
    """
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    asked = [sys.executable, "-c", code]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    words = found.stdout.split()[-2:]
    if found.returncode or len(words) < 2 or words[0] == "cpu":
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(int(words[1]))]


def slurm(
    arguments: Sequence[str],
    workers: int,
    folder: pathlib.Path,
    *,
    parameters: Mapping[str, Any],
    cluster: str = "slurm",
) -> list[Any]:
    """Submits workers as an array of jobs; the folder has to be one that all machines see.

    Args:
      arguments: of `experiments.sweep`, for a worker.
      workers: how many jobs.
      folder: where the scheduler's files go.
      parameters: of `submitit.AutoExecutor.update_parameters`, such as ``timeout_min``.
      cluster: which of submitit's executors: "slurm", "local" or "debug".

    Returns:
      The jobs.

    Raises:
      ImportError: if submitit is not installed.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "--launcher slurm goes through submitit: pip install 'jaxprune[slurm]'."
        ) from error
    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
    executor.update_parameters(name="jaxprune-sweep", **parameters)
    command = submitit.helpers.CommandFunction(
        [sys.executable, "-m", "experiments.sweep", *arguments, WORKER], verbose=False
    )
    with executor.batch():
        return [executor.submit(command) for _ in range(workers)]
