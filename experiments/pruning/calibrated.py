"""The pruning itself: layer by layer, each on the outputs of what is pruned already."""

from typing import Any

import jax.numpy as jnp

import jaxprune as jp
from experiments.pruning.options import Target, target
from experiments.pruning.subject import Subject


def prune(subject: Subject, method: str, sparsity: str, *, refit: bool = False) -> tuple[Any, Any]:
    """Prunes a network with its calibration examples.

    Args:
      subject: the network and the examples.
      method: its name.
      sparsity: fraction removed of every kernel, or N:M, as the command line has it.
      refit: whether the kept weights of each kernel are then set by least squares.

    Returns:
      The parameters and the mask, a tree like the parameters with `None` for what is not pruned.
    """
    goal = target(sparsity)
    made = magnitude() if method == "magnitude" else jp.layerwise.METHODS[method]()
    network = subject.network
    return jp.layerwise.prune(
        network.apply,
        network.params,
        subject.calibration,
        goal.sparsity,
        method=refitted(made) if refit else made,
        pattern=pattern(goal),
        where=where(subject, goal),
    )


def pattern(goal: Target) -> Any:
    """N:M along the inputs of a kernel; `None` for single weights."""
    if goal.kept is None:
        return None
    return jp.masks.nm(goal.kept, goal.group, axis=-2)


def where(subject: Subject, goal: Target) -> Any:
    """What is pruned: of N:M those kernels alone whose inputs fill groups, which MobileNet needs.

    A depthwise filter sees one channel, and the first convolution three.
    """
    if goal.group is None:
        return subject.network.where
    return lambda path, leaf: (
        subject.network.where(path, leaf) and leaf.shape[-2] % goal.group == 0
    )


def magnitude() -> jp.layerwise.Method:
    """The smallest weights of each kernel, whatever enters it."""
    return jp.layerwise.Method("magnitude", _magnitude, needs="norms", compares="matrix")


def _magnitude(problem: Any) -> Any:
    # Wanda's rule where all inputs are alike.
    even = jnp.ones_like(problem.squares)
    return jp.layerwise.wanda()(problem._replace(gram=even))


def refitted(start: jp.layerwise.Method) -> jp.layerwise.Method:
    """A method, and then least squares on what it keeps."""
    return jp.layerwise.Method(
        f"{start.name} + refit",
        _refitted,
        (("start", start), *((k, v) for k, v in start.options if k == "damping")),
        needs="gram",
        compares=start.compares,
        counts=_counts,
    )


def _counts(rule: Any, *, start: jp.layerwise.Method, **options: Any) -> Any:
    del options
    return start.count(rule)


def _refitted(problem: Any, *, start: jp.layerwise.Method, **options: Any) -> Any:
    del options  # they are the start's: warnings name its damping
    found = start(problem)
    kernel = jp.layerwise.refit(problem.kernel, found.mask, problem.gram)
    return found._replace(kernel=kernel)
