"""The pruning itself: window by window, each on the outputs of what is pruned already."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.pruning.options import Target, target
from experiments.pruning.subject import Subject

_RECONSTRUCTED = 200  # steps a window


def prune(
    subject: Subject,
    method: str,
    sparsity: str,
    *,
    refit: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[Any, Any, dict[str, float | None]]:
    """Prunes a network with its calibration examples.

    Args:
      subject: the network and the examples.
      method: its name.
      sparsity: fraction removed of every kernel, or N:M, as the command line has it.
      refit: whether the kept weights of each kernel are then set by least squares.
      say: told of each window.

    Returns:
      The parameters; the mask, a tree like the parameters with `None` for what is not pruned; and
      the errors of all kernels, in the order of the program; `None` where a method needs no Gram
      matrix.
    """
    goal, errors = target(sparsity), dict[str, float | None]()
    pattern = None
    if goal.kept is not None and goal.group is not None:
        pattern = jp.masks.nm(goal.kept, goal.group, axis=0)
    if method == "magnitude":
        params, mask = _by_magnitude(subject, goal, pattern)
        return params, mask, errors

    def told(record: jp.layerwise.WindowRecord) -> None:
        errors.update(record.errors)
        say(f"window {record.number}/{record.windows}: {', '.join(record.errors)}")

    params, mask = jp.layerwise.prune(
        subject.network.apply,
        subject.network.params,
        subject.calibration,
        goal.sparsity,
        method=jp.layerwise.METHODS[method](),
        pattern=pattern,
        refit=refit,
        where=where(subject, goal),
        on_window=told,
    )
    return params, mask, errors


def reconstruct(
    subject: Subject, params: Any, mask: Any, learning_rate: float, say: Callable[[str], object]
) -> tuple[Any, int]:
    """Each window learns to do what the dense one did; returns how many numbers were trained."""

    def told(record: jp.layerwise.ReconstructionRecord) -> None:
        say(
            f"window {record.number}/{record.windows}: "
            f"loss {record.before:.4g} before, {record.after:.4g} after"
        )

    tx = optax.adam(optax.linear_schedule(learning_rate, 0.0, _RECONSTRUCTED))
    params = jp.layerwise.reconstruct(
        subject.network.apply,
        params,
        mask,
        subject.calibration,
        dense=subject.network.params,
        tx=tx,
        steps=_RECONSTRUCTED,
        windows=subject.network.windows,
        on_window=told,
    )
    return params, sum(int(jnp.sum(m)) for m in jax.tree.leaves(mask))


def where(subject: Subject, goal: Target) -> Callable[[str, Any], bool]:
    """What is pruned: of N:M those kernels alone whose inputs fill groups."""
    chosen = subject.network.where
    group = goal.group
    if group is None:
        return chosen
    return lambda path, leaf: chosen(path, leaf) and leaf.shape[-2] % group == 0


def _by_magnitude(subject: Subject, goal: Target, pattern: Any) -> tuple[Any, Any]:
    """The smallest weights of each kernel: no data are needed."""
    network = subject.network
    return jp.prune(
        network.params,
        goal.sparsity if pattern is None else None,
        where=where(subject, goal),
        allocation=jp.masks.uniform(),
        pattern=None if pattern is None else jp.masks.nm(goal.kept or 0, goal.group or 0, axis=-2),
        stacked=network.stacked,
    )
