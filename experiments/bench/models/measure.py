"""What can go of one model, and what its shrunk half computes and costs."""

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.bench.models.entry import Model


def row(model: Model, *, repeats: int, min_seconds: float, seed: int = 0) -> dict[str, Any]:
    """Groups a model, halves its channels, compares with the masked model, and times both.

    Args:
      model: in inference mode.
      repeats: timed pairs; 0 for no times.
      min_seconds: of each side of a pair.
      seed: of the order within pairs.

    Returns:
      The numbers. ``"largest_error"`` is that of small against masked results over the largest
      result, ``inf`` where one of both is not finite.
    """
    apply, params, inputs = model
    start = time.perf_counter()
    groups = jp.structured.channel_groups(apply, params, *inputs)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {
        "parameters": _size(params),
        "removable": removable(groups),
        "groups": len(groups),
        "reasons": reasons(groups),
        "seconds": seconds,
    }
    kept = halves(groups, _scores(groups, params))
    masks = jp.structured.masks(groups, kept)
    small_apply, small = jp.structured.shrink(apply, params, masks, *inputs)
    dense_jit, small_jit = jax.jit(apply), jax.jit(small_apply)
    wanted = dense_jit(jp.apply_mask(params, masks), *inputs)
    macs = [
        jp.metrics.flops(f, p, *inputs).macs for f, p in ((apply, params), (small_apply, small))
    ]
    found |= {
        "left_at_half": _size(small) / found["parameters"],
        "largest_error": error(small_jit(small, *inputs), wanted),
        "dense_macs": macs[0],
        "small_macs": macs[1],
        "theoretical_speedup": macs[0] / macs[1] if macs[1] else None,
        "speedup": None,
    }
    if repeats:
        measured = jp.metrics.compare_latency(
            dense=(dense_jit, (params, *inputs)),
            small=(small_jit, (small, *inputs)),
            repeats=repeats,
            min_seconds=min_seconds,
            seed=seed,
        )
        found |= {
            "speedup": measured.speedup.median,
            "speedup_low": measured.speedup.low,
            "speedup_high": measured.speedup.high,
            "dense_seconds": measured.dense.median_seconds,
            "small_seconds": measured.small.median_seconds,
        }
    return found


def removable(groups: Any) -> float:
    """The fraction of all parameters that lie on a channel that can be removed."""
    sizes, free = _free(groups)
    stay = sum(int(np.prod(counts, dtype=np.int64)) for counts in free.values())
    return 1 - stay / sum(sizes.values())


def _free(groups: Any) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Of every parameter its entries, and on each axis the positions of no channel."""
    owned: dict[str, dict[int, Any]] = defaultdict(dict)
    for group in groups:
        for member in group.members:
            axes = owned[member.path]
            axes[member.axis] = axes.get(member.axis, False) | (member.owners >= 0)
    sizes = {path: int(np.prod(shape, dtype=np.int64)) for path, shape in groups.shapes.items()}
    free = {
        path: [n - int(np.sum(owned[path].get(axis, 0))) for axis, n in enumerate(shape)]
        for path, shape in groups.shapes.items()
    }
    return sizes, free


def reasons(groups: Any) -> list[tuple[str, float]]:
    """Why parameters cannot go at all, with the fraction of all parameters, largest first.

    Only parameters count that lie on no removable channel of any axis: those of a kernel's window
    do, if its input or output does. One with several reasons counts for each.
    """
    sizes, free = _free(groups)
    total = sum(sizes.values())
    found: dict[str, float] = defaultdict(float)
    for fixed in groups.fixed:
        stay = int(np.prod(free[fixed.path], dtype=np.int64))
        if stay:
            share = fixed.positions / max(1, free[fixed.path][fixed.axis])
            found[_short(fixed.reason)] += stay * share / total
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def _short(reason: str) -> str:
    """A reason without the numbers of axes and of inputs."""
    reason = re.sub(r"^it meets axis \d+ of input \d+[^,]*", "it meets an input", reason)
    return re.sub(r"^it reaches axis \d+ of the result.*", "it is a result", reason)


def halves(groups: Any, scores: Sequence[Any]) -> list[np.ndarray]:
    """Which half of each group's channels stays: those with the highest scores.

    Every parameter keeps its best channel, so that of some groups fewer go.
    """
    kept = []
    for group, score in zip(groups, scores, strict=True):
        score = np.asarray(score, np.float64)
        stays = np.ones(group.size, bool)
        stays[np.argsort(score, kind="stable")[: group.size // 2]] = False
        for member in group.members:
            units = np.unique(member.owners[member.owners >= 0])
            stays[units[np.argmax(score[units])]] = True
        kept.append(stays)
    return kept


def error(found: Any, wanted: Any) -> float:
    """The largest difference of two results over the largest number of the second."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        worst = max(
            worst, float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))
        )
    return worst


def _scores(groups: Any, params: Any) -> Any:
    """The mean norm of all that a channel has; some have no kernel that makes them."""
    return jp.structured.magnitude(groups, params, members=lambda member: True)


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
