"""The discount of ALLR: how much a prune moved the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_scalar, check_steps
from jaxprune._tree import PyTree, distance, is_traced, leaves_with_norm, squared_norm


def allr_discount(
    params: PyTree,
    pruned_params: PyTree,
    *,
    pruned_fraction: Any,
    pretraining_steps: int,
    retraining_steps: int,
) -> jax.Array:
    """The discount of ALLR: how large the first rate of retraining should be, next to η_max.

        d = min(1, max(d₁, d₂))     d₁ = ‖θ - θᵖ‖ / (‖θ‖ √s)     d₂ = min(N / T, 1)

    so a prune that hurt (d₁) or a long retraining (d₂) earns a large rate. d₁ comes from
    `allr_ratio`. The paper has d₁ <= 1, which holds where the smallest entries of one pool are
    pruned and θ is that pool; random or layer-wise pruning can pass it, and the clip at 1 is that
    of the authors' code.

    In `jaxprune.training.imp`, s is the fraction that the prune really removed. The authors' code
    takes the nominal one, ``1 - (1 - S)**(1 / J)``; counts are whole, so the two differ where few
    weights are left.

    Works under `jit`.

    Args:
      params: θ, the parameters before this prune (any pytree).
      pruned_params: θᵖ, the same after it.
      pruned_fraction: s, the fraction of the weights still there that this cycle removes; may be
        traced.
      pretraining_steps: T in steps (or any unit that ``retraining_steps`` shares).
      retraining_steps: N in steps: the length of this cycle, not of all cycles together.

    Returns:
      A float32 scalar.

    Raises:
      TypeError: if a step count is not a static integer.
      ValueError: if the trees differ or an argument is out of range; outside `jit`, if the norm of
        ``pruned_params`` is the larger one.

    Example:
      >>> import jax.numpy as jnp
      >>> before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 4.0])}
      >>> d = allr_discount(
      ...     before, after, pruned_fraction=0.5, pretraining_steps=160, retraining_steps=16
      ... )
      >>> print(f"{d:.4f}")
      0.8485

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    total = check_steps("pretraining_steps", pretraining_steps)
    budget = check_steps("retraining_steps", retraining_steps)
    s = _checked_fraction(pruned_fraction)
    share = np.float32(min(budget / total, 1.0))
    discount, norms = _discount(*leaves_with_norm(params, pruned_params), s, share)
    _check_order(norms)
    return discount


def allr_ratio(params: PyTree, pruned_params: PyTree, *, pruned_fraction: Any) -> jax.Array:
    """The relative distance d₁ that a prune moved the parameters, before any clip.

        d₁ = ‖θ - θᵖ‖ / (‖θ‖ √s)

    and 0 where nothing is pruned (s = 0 or θ = 0). The authors' code takes √|‖θ‖² - ‖θᵖ‖²| for the
    distance. The two coincide for pruning, which sets entries to zero and moves no other; the
    distance itself, taken here, does not suffer from cancellation.

    The norms run over all floating and complex leaves: weights, biases, norm scales, as in the
    authors' code. Norm scales are of order one, so on small networks this ratio is visibly below
    that of the prunable weights alone; for another choice pass subtrees. Sums are in float32 at
    least.

    Args:
      params: θ, the parameters before this prune (any pytree).
      pruned_params: θᵖ, the same after it.
      pruned_fraction: s, the fraction of the weights still there that this cycle removes; may be
        traced (and is then not checked).

    Returns:
      A float32 scalar.

    Raises:
      TypeError: if ``pruned_fraction`` is not a number.
      ValueError: if the trees differ or ``pruned_fraction`` is outside [0, 1]; outside `jit`, if
        the norm of ``pruned_params`` is the larger one.

    Example:
      >>> import jax.numpy as jnp
      >>> before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 0.0])}
      >>> print(f"{allr_ratio(before, after, pruned_fraction=0.5):.4f}")
      1.1314

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    s = _checked_fraction(pruned_fraction)
    ratio, norms = _compiled_ratio(*leaves_with_norm(params, pruned_params), s)
    _check_order(norms)
    return ratio


def _checked_fraction(pruned_fraction: Any) -> jax.Array:
    s = check_scalar("pruned_fraction", pruned_fraction)
    if not is_traced(s) and not 0 <= float(s) <= 1:
        raise ValueError(
            f"pruned_fraction is {float(s)}, but must lie in [0, 1]: the fraction of the weights "
            "still there that this cycle removes."
        )
    return s


def _ratio(before: list[jax.Array], after: list[jax.Array], s: jax.Array) -> jax.Array:
    relative = distance(before, after).astype(jnp.float32)
    ratio = relative / jnp.sqrt(jnp.where(s > 0, s, jnp.ones_like(s)))
    return jnp.where(s > 0, ratio, jnp.zeros_like(ratio))


@jax.jit
def _compiled_ratio(
    before: list[jax.Array], after: list[jax.Array], s: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _ratio(before, after, s), (squared_norm(before), squared_norm(after))


@jax.jit
def _discount(
    before: list[jax.Array], after: list[jax.Array], s: jax.Array, share: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    larger = jnp.maximum(_ratio(before, after, s), share)
    norms = squared_norm(before), squared_norm(after)
    return jnp.minimum(larger, jnp.ones((), jnp.float32)), norms


def _check_order(norms: tuple[jax.Array, jax.Array]) -> None:
    """Raises if the tree after the prune is the larger one. Traced norms are not seen."""
    if is_traced(norms):
        return
    before, after = (float(x) for x in jax.device_get(norms))
    if after > before * (1 + 1e-5):
        raise ValueError(
            f"the norm of the parameters grows from {before**0.5:.6g} to {after**0.5:.6g} in this "
            "prune, which sets weights to zero. Pass the parameters before it first: "
            "allr_discount(params, pruned_params)."
        )
