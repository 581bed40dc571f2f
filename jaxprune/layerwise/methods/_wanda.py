"""Wanda: magnitude times the norm of the input."""

from __future__ import annotations

import jax.numpy as jnp

from jaxprune.layerwise._method import Method, Problem, Result


def wanda() -> Method:
    """Pruning by weights and activations: scores ``|w_ij| ||x_i||_2``, weights as they were.

    Needs the norms of the inputs only: the diagonal of the Gram matrix. Compares the weights of
    each output among themselves.

    Returns:
      A method for `solve`.

    Example:
      >>> wanda().needs
      'norms'

    References:
      Sun, Liu, Bair, Kolter, A Simple and Effective Pruning Approach for Large Language Models,
      ICLR 2024, equation 1.
    """
    return Method("wanda", _run, needs="norms", compares="output")


def _run(problem: Problem) -> Result:
    scores = jnp.abs(problem.kernel) * jnp.sqrt(problem.squares)[:, None]
    return Result(problem.kernel, problem.choice.make(scores, problem.counts))
