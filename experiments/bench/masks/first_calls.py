"""First calls: what somebody waits for who prunes for the first time, a fresh process each.

    python -m experiments.bench.masks.first_calls "ResNet-50"

makes one and prints what it took as a line of JSON. Weights are drawn and in memory before the
clock starts, and libraries are imported: what is left is what a user waits for. So this module
imports nothing heavy by itself.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

SPARSITY = 0.9
_SMALL: Shapes = {f"dense_{i}/kernel": (8, 8) for i in range(5)}
_MANY: Shapes = {f"dense_{i:03}/kernel": (64, 64) for i in range(1000)}
# Of each case the median of so many processes, taken in turns.
_REPEATS = 3


def _weights(shapes: Shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


def _ours(shapes: Shapes, *, traced: bool = False) -> Row:
    import jax

    import jaxprune as jp

    programs: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs  # only how many there are is asked
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    params = jax.block_until_ready(jax.device_put(_weights(shapes)))

    def prune() -> None:
        # A layer of 64 weights may lose all of them, which is not what is measured.
        whole = jp.masks.globally(on_collapse="allow")
        jax.block_until_ready(jp.prune(params, SPARSITY, allocation=whole))

    def compile_() -> None:
        jax.jit(lambda p: jp.prune(p, SPARSITY)).lower(params).compile()

    seconds = _timed(compile_ if traced else prune)
    return {"seconds": seconds, "programs": len(programs)}


def _torch(shapes: Shapes) -> Row:
    torch = importlib.import_module("torch")
    prune = importlib.import_module("torch.nn.utils.prune")
    modules = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for weight in _weights(shapes).values():
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(torch.from_numpy(weight).to(device))
        modules.append((module, "weight"))

    def call() -> None:
        prune.global_unstructured(modules, pruning_method=prune.L1Unstructured, amount=SPARSITY)
        if device == "cuda":
            torch.cuda.synchronize()

    return {"seconds": _timed(call), "programs": None}


def _imported(*names: str) -> Row:
    seconds = _timed(lambda: [importlib.import_module(name) for name in names])
    return {"seconds": seconds, "programs": None}


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _resnet50() -> Shapes:
    from experiments.bench.masks import problems

    return problems.resnet50()


CASES: dict[str, Callable[[], Row]] = {
    "ResNet-50": lambda: _ours(_resnet50()),
    "ResNet-50, PyTorch": lambda: _torch(_resnet50()),
    "ResNet-50, traced": lambda: _ours(_resnet50(), traced=True),
    "5 leaves of 8 x 8": lambda: _ours(_SMALL),
    "1,000 leaves of 64 x 64": lambda: _ours(_MANY),
    "1,000 leaves of 64 x 64, traced": lambda: _ours(_MANY, traced=True),
    "import jaxprune": lambda: _imported("jaxprune"),
    "import jax, optax, flax": lambda: _imported("jax", "optax", "flax"),
}


def measure(say: Callable[[str], None]) -> list[Row]:
    """Runs every case in processes of its own, without the compilation cache."""
    found: dict[str, list[Row]] = {name: [] for name in CASES}
    for i in range(_REPEATS):
        say(f"first calls, round {i + 1} of {_REPEATS} ...")
        for name, runs in found.items():
            runs.append(_run(name))
    return [_row(name, runs) for name, runs in found.items()]


def _run(name: str) -> Row:
    command = [sys.executable, "-m", "experiments.bench.masks.first_calls", name]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the first call {name!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _row(name: str, runs: Sequence[Row]) -> Row:
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

    many, imports = "1,000 leaves of 64 x 64", "import jax, optax, flax"
    gigabytes = [peak / 1e9 for name, peak in peaks.items() if peak and name.startswith(many)]
    return [
        ("first prune of ResNet-50 / PyTorch's", over("ResNet-50", "ResNet-50, PyTorch"), 1 / 3),
        ("first prune of ResNet-50, seconds", seconds.get("ResNet-50"), 1.0),
        ("compiling a traced prune of ResNet-50, seconds", seconds.get("ResNet-50, traced"), 2.0),
        ("first prune of 5 small leaves, seconds", seconds.get("5 leaves of 8 x 8"), 0.5),
        ("first prune of 1,000 leaves, seconds", seconds.get(many), 5.0),
        ("compiling a traced one, seconds", seconds.get(f"{many}, traced"), 10.0),
        ("peak memory of either, GB", max(gigabytes, default=None), 1.0),
        (f"import jaxprune / {imports}", over("import jaxprune", imports), 1.3),
    ]


def cells(row: Row) -> list[str]:
    """A row of the table."""
    if row["not_measured"]:
        return [row["case"], row["not_measured"]]
    programs = "" if row["programs"] is None else f"{row['programs']:,}"
    memory = f"{row['peak_bytes'] / 1e6:,.0f}"
    return [row["case"], f"{row['median_seconds']:.3g}", programs, memory]


def main(name: str) -> int:
    """Makes one first call; returns 3 if it needs a package that is not there."""
    try:
        found = CASES[name]()
    except ImportError as error:
        print(json.dumps({"missing": error.name}))
        return 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**found, "peak_bytes": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
