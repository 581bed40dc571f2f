"""ADMM: weights and mask together, by splitting."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_number, check_steps
from jaxprune.layerwise import _factor
from jaxprune.layerwise._method import Method, Problem, Result, Rule
from jaxprune.layerwise.methods._scaled import scaled
from jaxprune.masks import choice


def admm(
    *,
    damping: float = 0.1,
    penalty: float = 1.0,
    iterations: int = 20,
    mask_iterations: int = 15,
) -> Method:
    """Alternating direction method of multipliers: a mask that settles, then its weights.

    Inputs are scaled to norm 1, the Gram matrix gets ``damping * I``. From W and U = 0: for the
    first ``mask_iterations`` the mask is made anew from ``|W + U|``; then ``Z = mask (W + U)``,
    ``U += W - Z``, ``W = (G + penalty I)^-1 (G W_0 + penalty (Z - U))``. Where each output is
    compared for itself, the sparsity rises by the authors' cubic schedule, and so it does among
    what an N:M pattern would take; else all goes at once, as in their code for whole matrices. The
    result is Z.

    Args:
      damping: added to the diagonal of the scaled matrix, relative to its mean.
      penalty: the authors' rho.
      iterations: in all.
      mask_iterations: during which the mask moves.

    Returns:
      A method for `solve`. It needs the Gram matrix and compares the whole matrix.

    Raises:
      ValueError: if an option is out of range.
      TypeError: if it is not a number.

    Example:
      >>> admm().needs
      'gram'

    References:
      Boža, Fast and Effective Weight Update for Pruned Large Language Models, TMLR 2024
      (arXiv:2401.02938), and the author's code.
    """
    options = (
        ("damping", check_number("damping", damping, low=0.0)),
        ("penalty", check_number("penalty", penalty, low=1e-12)),
        ("iterations", check_steps("iterations", iterations)),
        ("mask_iterations", check_steps("mask_iterations", mask_iterations)),
    )
    return Method("admm", _run, options, counts=_counts)


def _counts(rule: Rule, **options: Any) -> dict[str, np.ndarray]:
    steps, spec = options["mask_iterations"], rule.choice.spec
    if spec is not None and spec.kept is not None:
        entries = math.prod(spec.group)
        relaxed = choice(rule.like, _cubic(1 - spec.kept / entries, steps), path=rule.name)[1]
        return {"counts": rule.counts([None] * steps), "relaxed": relaxed}
    if not rule.choice.units:
        return {"counts": rule.counts([rule.sparsity] * steps)}
    return {"counts": rule.counts(_cubic(rule.sparsity, steps))}


def _cubic(sparsity: float, steps: int) -> list[float]:
    return [*(sparsity * (1 - (1 - (t + 1) / steps) ** 3) for t in range(steps - 1)), sparsity]


def _run(
    problem: Problem, *, damping: float, penalty: float, iterations: int, mask_iterations: int
) -> Result:
    w0, gram, scales = scaled(problem.kernel, problem.gram, damping)
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    lower, added = _factor.factor(gram + penalty * eye, 0.0)
    inverse = jax.scipy.linalg.cho_solve((lower, True), eye)
    target, counts = gram @ w0, jax.tree.map(jnp.asarray, problem.counts)
    single = choice(jax.ShapeDtypeStruct(w0.shape, w0.dtype), [0.0])[0]

    def step(t: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        w, u, mask, _ = state

        def renewed(scores: jax.Array) -> jax.Array:
            now = {name: rows[jnp.minimum(t, mask_iterations - 1)] for name, rows in counts.items()}
            chosen = problem.choice.make(scores, now["counts"])
            if "relaxed" not in now:
                return chosen
            # Of what the groups lose in the end the lowest goes first.
            early = single.make(jnp.where(chosen, jnp.inf, scores), now["relaxed"])
            return jnp.where(t < mask_iterations - 1, early | chosen, chosen)

        mask = jax.lax.cond(t < mask_iterations, renewed, lambda _: mask, jnp.abs(w + u))
        z = jnp.where(mask, w + u, jnp.zeros_like(w))
        u = u + w - z
        return inverse @ (target + penalty * (z - u)), u, mask, z

    none = jnp.zeros_like(w0)
    state = (w0, none, jnp.ones(w0.shape, bool), none)
    _, _, mask, z = jax.lax.fori_loop(0, max(iterations, mask_iterations), step, state)
    return Result(keep_dead(z / scales, problem), mask, damping + added)


def keep_dead(kernel: jax.Array, problem: Problem) -> jax.Array:
    """Weights of dead inputs as they were: the data say nothing of them."""
    return jnp.where((problem.squares == 0)[:, None], problem.kernel, kernel)
