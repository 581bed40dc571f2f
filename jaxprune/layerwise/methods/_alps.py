"""ALPS: splitting with a penalty that rises as the mask settles, then conjugate gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._checks import check_number, check_steps
from jaxprune.layerwise._method import Method, Problem, Result
from jaxprune.layerwise.methods._admm import keep_dead
from jaxprune.layerwise.methods._scaled import scaled


def alps(
    *,
    damping: float = 0.01,
    penalty: float = 0.1,
    iterations: int = 300,
    refinements: int = 10,
) -> Method:
    """ADMM-based one-shot pruning: the penalty grows while the support moves, then it is refit.

    Inputs are scaled to norm 1. With the eigenvalues of G known, ``(G + rho I)^-1`` is a product
    for any rho: ``B = (G + rho I)^-1 (G W - V + rho D)``; D keeps the largest of ``B + V / rho``;
    ``V += rho (B - D)``. Every third iteration the change of the support, as a share of what is
    kept, sets the next rho: above 0.1 times 1.3, above 0.005 times 1.2, above 0 times 1.1; at 0 it
    stops (before rho was ever raised, rho is divided by 5 and all begins anew). It stops as well
    from iteration 30 on when less than 3e-4 changes. Conjugate gradients on the support follow.

    Args:
      damping: added to the diagonal, relative to its mean.
      penalty: the first rho.
      iterations: at most.
      refinements: steps of conjugate gradients, at most.

    Returns:
      A method for `solve`. It needs the Gram matrix and compares the whole matrix.

    Raises:
      ValueError: if an option is out of range.
      TypeError: if it is not a number.

    Example:
      >>> alps().compares
      'matrix'

    References:
      Meng, Behdin, Wang, Mazumder, ALPS: Improved Optimization for Highly Sparse One-Shot Pruning
      for Large Language Models, NeurIPS 2024 (arXiv:2406.07831), and the authors' code.
    """
    options = (
        ("damping", check_number("damping", damping, low=0.0)),
        ("penalty", check_number("penalty", penalty, low=1e-12)),
        ("iterations", check_steps("iterations", iterations)),
        ("refinements", check_steps("refinements", refinements, at_least=0)),
    )
    return Method("alps", _run, options)


class _State(NamedTuple):
    d: jax.Array
    v: jax.Array
    mask: jax.Array
    seen: jax.Array  # the mask when its change was last counted
    rho: jax.Array
    raised: jax.Array
    step: jax.Array
    done: jax.Array


def _run(
    problem: Problem, *, damping: float, penalty: float, iterations: int, refinements: int
) -> Result:
    norms = jnp.sqrt(problem.squares)
    # As the authors: the ridge comes before the scaling.
    ridge = damping * jnp.mean(problem.squares)
    eye = jnp.eye(len(norms), dtype=norms.dtype)
    w0, gram, scales = scaled(problem.kernel, problem.gram + ridge * eye, 0.0)
    # The ridge would give dead inputs a say.
    w0 = jnp.where((problem.squares == 0)[:, None], jnp.zeros_like(w0), w0)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values, jnp.zeros_like(values))
    target = gram @ w0

    def top(x: jax.Array) -> jax.Array:
        return problem.choice.make(jnp.abs(x), jnp.asarray(problem.counts))

    def masked(mask: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(mask, x, jnp.zeros_like(x))

    first = top(w0)
    one = jnp.ones((), w0.dtype)
    start = _State(
        w0,
        jnp.zeros_like(w0),
        first,
        first,
        penalty * one,
        one < 0,
        jnp.zeros((), jnp.int32),
        one < 0,
    )

    def step(s: _State) -> _State:
        right = vectors.T @ (target - s.v + s.rho * s.d)
        b = vectors @ (right / (values + s.rho)[:, None])
        wanted = b + s.v / s.rho
        mask = top(wanted)
        d = masked(mask, wanted)
        v = s.v + s.rho * (b - d)
        due = s.step % 3 == 2
        kept = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1).astype(w0.dtype)
        change = jnp.sum(mask ^ s.seen, dtype=jnp.int32).astype(w0.dtype) / kept
        factor = jnp.where(change > 0.1, 1.3 * one, jnp.where(change > 0.005, 1.2 * one, 1.1 * one))
        still, rises = change == 0, change > 0
        rho = jnp.where(due & rises, jnp.minimum(s.rho * factor, 1e6 * one), s.rho)
        again = due & still & ~s.raised
        settled = (due & still & s.raised) | (due & (s.step >= 30) & (change < 3e-4))
        return _State(
            jnp.where(again, w0, d),
            jnp.where(again, jnp.zeros_like(v), v),
            mask,
            jnp.where(due, mask, s.seen),
            jnp.where(again, rho / 5, rho),
            s.raised | (due & rises),
            s.step + 1,
            settled,
        )

    found = jax.lax.while_loop(lambda s: ~s.done & (s.step < iterations), step, start)
    mask = found.mask
    x = masked(mask, found.d)
    return Result(keep_dead(_gradients(x, mask, gram, target, refinements) / scales, problem), mask)


def _gradients(
    x: jax.Array, mask: jax.Array, gram: jax.Array, target: jax.Array, steps: int
) -> jax.Array:
    """Conjugate gradients for each output on its support."""

    def on(x: jax.Array) -> jax.Array:
        return jnp.where(mask, x, jnp.zeros_like(x))

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, jnp.ones_like(b)), jnp.zeros_like(a))

    def step(_: Any, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, r, p, size = state
        product = on(gram @ p)
        alpha = ratio(size, jnp.sum(p * product, axis=0))
        x = x + alpha[None] * p
        r = r - alpha[None] * product
        new = jnp.sum(r * r, axis=0)
        return x, r, r + ratio(new, size)[None] * p, new

    r = on(target - gram @ x)
    state = (x, r, r, jnp.sum(r * r, axis=0))
    return jax.lax.fori_loop(0, steps, step, state)[0]
