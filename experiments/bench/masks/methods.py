"""What makes a mask: ours, and what ours is compared with. Each is ready to be timed."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.bench.common import machine, timing
from experiments.bench.common.timing import Method
from experiments.bench.masks.problems import Shape

Scores = Mapping[str, jax.Array]

GLOBAL, UNIFORM, ERK, N_M = "ours, global", "ours, uniform", "ours, ERK", "ours, 2:4"
OURS = (GLOBAL, UNIFORM, ERK, N_M)
EAGER = "ours, global, outside of jit"  # on a CPU: made on the host, without compiling
TORCH, SORT, PARTITION, FLOOR = "torch", "jnp.sort", "numpy.partition", "one pass (floor)"
BASELINES = (FLOOR, SORT, PARTITION, TORCH)

# Peak memory beyond the input, in bytes a weight: measured for PyTorch (its topk on a CPU holds
# values and indices of everything); a copy and the mask for NumPy.
_TORCH_BYTES, _PARTITION_BYTES = 53, 5


def names() -> tuple[str, ...]:
    """All methods of this kind of device, in the order of the table."""
    eager = (EAGER,) if jax.default_backend() == "cpu" else ()
    return (*OURS, *eager, *BASELINES)


def makers(sparsity: float) -> dict[str, Callable[[Any], Any]]:
    """By name our functions from scores to a mask."""
    pattern = jp.masks.nm(2, 4, layout="flax", remainder="dense")
    return {
        GLOBAL: lambda scores: jp.masks.make(scores, sparsity),
        UNIFORM: lambda scores: jp.masks.make(scores, sparsity, allocation=jp.masks.uniform()),
        ERK: lambda scores: jp.masks.make(scores, sparsity, allocation=jp.masks.erk()),
        N_M: lambda scores: jp.masks.make(scores, None, pattern=pattern),
    }


def targets(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, int]:
    """By name how many weights are to be kept, from the shapes alone."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    total = sum(sizes) - round(sparsity * sum(sizes))
    groups = sum(math.prod(s[:-2]) * s[-1] * (s[-2] // 4) for s in shapes.values())
    return {
        **dict.fromkeys((GLOBAL, ERK, EAGER, *BASELINES), total),
        UNIFORM: sum(n - round(sparsity * n) for n in sizes),
        N_M: sum(sizes) - 2 * groups,
    }


def prepare(
    scores: Scores, exact: Mapping[str, int], sparsity: float
) -> tuple[list[Method], dict[str, str]]:
    """The methods that can run, and by name the reasons of those that cannot.

    Args:
      scores: what masks are made of.
      exact: from `targets`.
      sparsity: fraction removed.
    """
    total = sum(leaf.size for leaf in scores.values())
    removed = round(sparsity * total)
    free = machine.free_device_bytes()
    host: dict[str, np.ndarray] = {}
    methods: dict[str, Method] = {}

    def copied() -> dict[str, np.ndarray]:
        if not host:
            timing.check_memory(4 * total, machine.free_host_bytes())
            host.update({n: np.asarray(leaf).astype(np.float32) for n, leaf in scores.items()})
        return host

    def of_jax(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Method:
        compiled = timing.compiled(function, *arguments)
        timing.check_memory(compiled.new_bytes, free)
        return Method(
            name,
            run=lambda arguments: jax.block_until_ready(compiled.call(*arguments)),
            fresh=lambda: arguments,
            kept=_count,
            compiled=compiled,
            **options,
        )

    def ours(name: str) -> Method:
        return of_jax(name, makers(sparsity)[name], scores, exact=exact[name])

    def eager() -> Method:
        whole = jp.masks.globally(on_collapse="allow")  # compiled code does not refuse it either

        def run(scores: Scores) -> Any:
            return jax.block_until_ready(jp.masks.make(scores, sparsity, allocation=whole))

        return Method(EAGER, run, lambda: scores, _count, exact=exact[EAGER])

    def floor() -> Method:
        if GLOBAL not in methods:
            raise timing.Unavailable(f"skipped: its threshold is that of {GLOBAL}")
        threshold = _lowest_kept(scores, methods[GLOBAL].run((scores,)))
        return of_jax(FLOOR, _floor, threshold, scores)

    def partition() -> Method:
        arrays = copied()
        timing.check_memory(_PARTITION_BYTES * total, machine.free_host_bytes())
        return Method(
            PARTITION, lambda s: by_partition(s, removed), lambda: arrays, _count, slow=True
        )

    factories: dict[str, Callable[[], Method]] = {
        **{name: partial(ours, name) for name in OURS},
        FLOOR: floor,
        SORT: lambda: of_jax(SORT, partial(_by_sort, removed=removed), scores, slow=True),
        PARTITION: partition,
        TORCH: lambda: _torch(copied, sparsity),
    }
    if jax.default_backend() == "cpu":
        factories[EAGER] = eager
    reasons: dict[str, str] = {}
    for name, make in factories.items():
        try:
            methods[name] = make()
        except timing.Unavailable as reason:
            reasons[name] = str(reason)
    return list(methods.values()), reasons


def _count(masks: Any) -> int:
    """The number of True, counted on the host."""
    return sum(int(np.count_nonzero(np.asarray(leaf))) for leaf in jax.tree.leaves(masks))


@jax.jit
def _lowest_kept(scores: Any, masks: Any) -> jax.Array:
    """The threshold of a mask."""
    each = jax.tree.map(lambda s, m: jnp.min(jnp.where(m, s, jnp.inf)), scores, masks)
    return jnp.min(jnp.stack(jax.tree.leaves(each)))


def _floor(threshold: jax.Array, scores: Any) -> Any:
    """One comparison of every score with a threshold that is known: the least that can be done."""
    return jax.tree.map(lambda leaf: leaf >= threshold, scores)


def _by_sort(scores: Scores, removed: int) -> dict[str, jax.Array]:
    """Sorts all scores together, and keeps what is at least the first that stays."""
    ordered = jnp.sort(jnp.concatenate([leaf.reshape(-1) for leaf in scores.values()]))
    return {name: leaf >= ordered[removed] for name, leaf in scores.items()}


def by_partition(scores: Mapping[str, np.ndarray], removed: int) -> dict[str, np.ndarray]:
    """The same with NumPy's partition, on the host."""
    everything = np.concatenate([leaf.reshape(-1) for leaf in scores.values()])
    everything.partition(removed)  # in place: no second copy
    threshold = everything[removed]
    return {name: leaf >= threshold for name, leaf in scores.items()}


def _torch(copied: Callable[[], Mapping[str, np.ndarray]], sparsity: float) -> Method:
    """`torch.nn.utils.prune.global_unstructured` with `L1Unstructured`, the call alone.

    It takes the magnitudes itself and multiplies the weights by the masks; neither can be had
    without the other.
    """
    device = "cuda" if jax.default_backend() in ("gpu", "cuda") else "cpu"
    try:
        torch = importlib.import_module("torch")
        prune = importlib.import_module("torch.nn.utils.prune")
    except ImportError:
        raise timing.Unavailable("torch is not installed (the extra `bench`)") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise timing.Unavailable("this torch sees no GPU")
    scores = copied()
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else machine.free_host_bytes()
    timing.check_memory(_TORCH_BYTES * sum(leaf.size for leaf in scores.values()), free)
    weights = [torch.from_numpy(leaf).to(device) for leaf in scores.values()]

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def fresh() -> list[tuple[Any, str]]:
        # Prunings accumulate in a module. The call does not write to the weights themselves.
        modules = [torch.nn.Module() for _ in weights]
        for module, weight in zip(modules, weights, strict=True):
            module.weight = torch.nn.Parameter(weight)
        synchronize()
        return [(module, "weight") for module in modules]

    def run(parameters: Sequence[tuple[Any, str]]) -> Sequence[tuple[Any, str]]:
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
        synchronize()
        return parameters

    def kept(parameters: Sequence[tuple[Any, str]]) -> int:
        # count_nonzero is exact; a float32 sum of ones would not be.
        return sum(int(torch.count_nonzero(module.weight_mask)) for module, _ in parameters)

    return Method(TORCH, run, fresh, kept, slow=True)
