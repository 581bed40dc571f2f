"""One first call in a process of its own, by name; prints what it took as a line of JSON.

    python -m experiments.bench.masks.first_call "ResNet-50"

Weights are drawn and in memory before the clock starts, and libraries are imported: what is left is
what a user waits for.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Shapes = Mapping[str, tuple[int, ...]]

SMALL: Shapes = {f"dense_{i}/kernel": (8, 8) for i in range(5)}
MANY: Shapes = {f"dense_{i:03}/kernel": (64, 64) for i in range(1000)}
SPARSITY = 0.9


def _weights(shapes: Shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


def _ours(shapes: Shapes, *, traced: bool) -> dict[str, Any]:
    import jax

    import jaxprune as jp

    programs: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs  # only how many there are is asked
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    params = jax.block_until_ready(jax.device_put(_weights(shapes)))

    def prune() -> Any:
        # A layer of 64 weights may lose all of them, which is not what is measured.
        return jp.prune(params, SPARSITY, allocation=jp.masks.globally(on_collapse="allow"))

    def compile_() -> None:
        jax.jit(lambda p: jp.prune(p, SPARSITY)).lower(params).compile()

    seconds = _timed(compile_ if traced else lambda: jax.block_until_ready(prune()))
    return {"seconds": seconds, "programs": len(programs)}


def _torch(shapes: Shapes) -> dict[str, Any]:
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


def _imported(*names: str) -> dict[str, Any]:
    def call() -> None:
        for name in names:
            importlib.import_module(name)

    return {"seconds": _timed(call), "programs": None}


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _resnet50() -> Shapes:
    from experiments.bench.masks import problems as _shapes

    return _shapes.resnet50()


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "ResNet-50": lambda: _ours(_resnet50(), traced=False),
    "ResNet-50, PyTorch": lambda: _torch(_resnet50()),
    "ResNet-50, traced": lambda: _ours(_resnet50(), traced=True),
    "5 leaves of 8 x 8": lambda: _ours(SMALL, traced=False),
    "1,000 leaves of 64 x 64": lambda: _ours(MANY, traced=False),
    "1,000 leaves of 64 x 64, traced": lambda: _ours(MANY, traced=True),
    "import jaxprune": lambda: _imported("jaxprune"),
    "import jax, optax, flax": lambda: _imported("jax", "optax", "flax"),
}


def main(name: str) -> int:
    """Runs one case; returns 3 if it needs a package that is not there."""
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
