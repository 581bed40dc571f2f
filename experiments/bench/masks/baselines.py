"""What the masks are compared with: PyTorch, a sort, a partition, and the floor of one pass."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.common import timing as _timing
from experiments.bench.masks import methods as _methods

TORCH, SORT, PARTITION, FLOOR = "torch", "jnp.sort", "numpy.partition", "one pass (floor)"
BASELINES = (FLOOR, SORT, PARTITION, TORCH)

# Peak memory beyond the input, in bytes a weight: measured for PyTorch (its topk on a CPU holds
# values and indices of everything); a copy and the mask for NumPy.
_TORCH_BYTES, _PARTITION_BYTES = 53, 5


def floor(threshold: jax.Array, scores: Any) -> Any:
    """One comparison of every score with a threshold that is known: the least that can be done."""
    return jax.tree.map(lambda leaf: leaf >= threshold, scores)


def by_sort(scores: Mapping[str, jax.Array], removed: int) -> dict[str, jax.Array]:
    """Concatenates and sorts all scores, and keeps what is at least the first that stays."""
    ordered = jnp.sort(jnp.concatenate([leaf.reshape(-1) for leaf in scores.values()]))
    return {name: leaf >= ordered[removed] for name, leaf in scores.items()}


def by_partition(scores: Mapping[str, np.ndarray], removed: int) -> dict[str, np.ndarray]:
    """Concatenates all scores and keeps what is at least the order statistic found."""
    everything = np.concatenate([leaf.reshape(-1) for leaf in scores.values()])
    everything.partition(removed)  # in place: no second copy
    threshold = everything[removed]
    return {name: leaf >= threshold for name, leaf in scores.items()}


def partition(scores: Mapping[str, np.ndarray], removed: int, *, free: int) -> _timing.Method:
    """NumPy's partition, on the host.

    Raises:
      Unavailable: if memory is short.
    """
    _timing.check_memory(_PARTITION_BYTES * sum(leaf.size for leaf in scores.values()), free)
    return _timing.Method(
        PARTITION,
        run=lambda scores: by_partition(scores, removed),
        fresh=lambda: scores,
        kept=_methods.count,
        slow=True,
    )


def torch(
    copied: Callable[[], Mapping[str, np.ndarray]],
    sparsity: float,
    *,
    device: str,
    free_host: Callable[[], int],
) -> _timing.Method:
    """`torch.nn.utils.prune.global_unstructured` with `L1Unstructured`, the call alone.

    It takes the magnitudes itself and multiplies the weights by the masks; neither can be had
    without the other.

    Args:
      copied: gives the float32 arrays that become the weights.
      sparsity: fraction removed.
      device: "cpu" or "cuda".
      free_host: gives the free bytes of the host; on "cuda" PyTorch is asked for those of the GPU.

    Returns:
      The method.

    Raises:
      Unavailable: if PyTorch cannot be imported, sees no GPU where it should, or memory is short.
    """
    try:
        torch = importlib.import_module("torch")
        prune = importlib.import_module("torch.nn.utils.prune")
    except ImportError:
        raise _timing.Unavailable("torch is not installed (the extra `bench`)") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise _timing.Unavailable("this torch sees no GPU")
    scores = copied()
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else free_host()
    _timing.check_memory(_TORCH_BYTES * sum(leaf.size for leaf in scores.values()), free)
    weights = [torch.from_numpy(leaf).to(device) for leaf in scores.values()]

    def fresh() -> list[tuple[Any, str]]:
        # Prunings accumulate in a module. The call does not write to the weights themselves.
        modules = [torch.nn.Module() for _ in weights]
        for module, weight in zip(modules, weights, strict=True):
            module.weight = torch.nn.Parameter(weight)
        synchronize()
        return [(module, "weight") for module in modules]

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def run(parameters: Sequence[tuple[Any, str]]) -> Sequence[tuple[Any, str]]:
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
        synchronize()
        return parameters

    def kept(parameters: Sequence[tuple[Any, str]]) -> int:
        # count_nonzero is exact; a float32 sum of ones would not be.
        return sum(int(torch.count_nonzero(module.weight_mask)) for module, _ in parameters)

    return _timing.Method(TORCH, run, fresh, kept, slow=True)
