"""RIA: how large a weight is among those of its input and of its output."""

from __future__ import annotations

import jax.numpy as jnp

from jaxprune._checks import check_number
from jaxprune.layerwise._method import Method, Problem, Result


def ria(*, power: float = 0.5) -> Method:
    """Relative importance and activations; weights as they were.

    ``score_ij = (|w_ij| / sum_k |w_kj| + |w_ij| / sum_k |w_ik|) ||x_i||_2^power``: the share of a
    weight among those of its output and of its input. A channel with small weights is not cut off
    as a whole. Needs the norms of the inputs only, and compares each output for itself.

    Args:
      power: of the norms; 0 leaves the activations out.

    Returns:
      A method for `solve`.

    Raises:
      ValueError: if the power is negative or not finite.
      TypeError: if it is not a number.

    Example:
      >>> ria().options
      (('power', 0.5),)

    References:
      Zhang et al., Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
      Models, ICLR 2024, and the authors' code.
    """
    power = check_number("power", power, low=0.0)
    return Method("ria", _run, (("power", power),), needs="norms", compares="output")


def _run(problem: Problem, *, power: float) -> Result:
    size = jnp.abs(problem.kernel)
    of_output = jnp.sum(size, axis=0, keepdims=True)
    of_input = jnp.sum(size, axis=1, keepdims=True)

    def share(total):
        # Where the sum is 0, all weights of it are, and none has a share.
        return jnp.where(total > 0, size / jnp.where(total > 0, total, jnp.ones_like(total)), 0)

    norms = problem.squares ** (power / 2)
    scores = (share(of_output) + share(of_input)) * norms[:, None]
    return Result(problem.kernel, problem.choice.make(scores, problem.counts))
