"""SparseSwaps: exchange one pruned weight for one kept, as long as the error falls."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_steps
from jaxprune.layerwise import _arrays
from jaxprune.layerwise._method import Counts, Method, Problem, Result, Rule
from jaxprune.layerwise.methods._wanda import wanda
from jaxprune.masks import Choice, Pattern, choice, globally


def swaps(*, start: Method | None = None, most: int = 100) -> Method:
    """SparseSwaps: 1-swaps inside each output from any start; weights as they were.

    For an output w with mask m, ``u = w (1 - m)`` and ``c = G u``: putting p back and taking q away
    changes the error by ``-2 w_p c_p + w_p^2 G_pp + 2 w_q c_q + w_q^2 G_qq - 2 w_p w_q G_pq``. The
    best pair is exchanged while that is negative, so the error never rises. What each output keeps
    stays, whatever the allocation was; with an N:M pattern along the inputs p and q are of one
    group.

    Args:
      start: the method whose mask is improved, `wanda()` if omitted; its weights are not used.
      most: exchanges of each output, at most.

    Returns:
      A method for `solve`. It needs the Gram matrix. Add `refit`.

    Raises:
      ValueError: if ``most`` is negative.
      TypeError: if it is no integer, or start is no method.

    Example:
      >>> swaps().compares
      'output'

    References:
      Zimmer, Roux, Wagner, Hendrych, Pokutta, SparseSwaps, 2025 (arXiv:2512.10922).
    """
    start = wanda() if start is None else check_start(start)
    most = check_steps("most", most, at_least=0)
    options = (("start", start), ("most", most))
    return Method("swaps", _run, options, compares=start.compares, counts=_counts)


def check_start(start: Any) -> Method:
    """Returns a method that others start from, or raises TypeError."""
    if not isinstance(start, Method):
        raise TypeError(f"start is a method such as wanda(), or None; got {start!r}.")
    return start


def _counts(rule: Rule, *, start: Method, most: int) -> Counts:
    _group(rule.choice, rule.name)
    return start.count(rule), np.int32(most)


def _run(problem: Problem, *, start: Method, most: int) -> Result:
    del most  # an argument of the program
    counts, most_ = problem.counts
    mask = start(problem._replace(counts=counts)).mask
    group = _group(problem.choice, "kernel")
    return Result(problem.kernel, swapped(problem.kernel, mask, problem.gram, most_, group))


def _group(rule: Choice, name: str) -> int | None:
    """The length of the groups of inputs in which weights may be exchanged, `None` for all.

    Raises:
      ValueError: if a pattern does not let one weight of an output be exchanged for another.
    """
    spec = rule.spec
    if spec is None:
        return None
    if spec.kept is None or spec.axes != (0,) or spec.remainder != "error":
        raise ValueError(
            f"one weight of an output cannot be exchanged for another of it under the pattern of "
            f"{name!r}: {spec}. Swaps take unstructured masks and N:M along the inputs, axis 0."
        )
    return spec.group[0]


def swap(
    kernel: Any,
    mask: Any,
    gram: Any,
    *,
    most: int = 100,
    pattern: Pattern | None = None,
    name: str = "kernel",
) -> jax.Array:
    """Improves any mask by exchanging weights inside each output; see `swaps`.

    Args:
      kernel: the dense kernel, ``[in, out]``, or stacked ``[..., in, out]``.
      mask: bool of the same shape, True = kept.
      gram: ``[in, in]``, or one each.
      most: exchanges of each output, at most.
      pattern: an N:M pattern along the inputs that the mask has and keeps.
      name: what errors call the kernel.

    Returns:
      A mask that keeps as many of each output, with an error that is no larger.

    Raises:
      ValueError: if shapes do not fit, a value is NaN, or the pattern is another.
      TypeError: if an array is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> kernel, gram = jnp.array([[1.0], [2.0]]), jnp.eye(2)
      >>> swap(kernel, jnp.array([[True], [False]]), gram).tolist()
      [[False], [True]]
    """
    kernel, gram = _arrays.checked(kernel, gram, name)
    _arrays.check_mask(mask, kernel, name)
    group = None
    if pattern is not None:
        like = jax.ShapeDtypeStruct(kernel.shape[-2:], jnp.float32)
        rule, _ = choice(like, [None], allocation=globally(), pattern=pattern, path=name)
        group = _group(rule, name)
    most_ = np.int32(check_steps("most", most, at_least=0))
    one = partial(_swapped, most=most_, group=group)
    return _arrays.each(one, kernel.shape[:-2], kernel, jnp.asarray(mask), gram)


@partial(jax.jit, static_argnames="group")
def _swapped(
    kernel: jax.Array, mask: jax.Array, gram: jax.Array, *, most: jax.Array, group: int | None
) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        w, g = _arrays.widened(kernel, gram)
        return swapped(w, mask, g, most, group)


def swapped(
    w: jax.Array, mask: jax.Array, gram: jax.Array, most: jax.Array, group: int | None
) -> jax.Array:
    """The compiled part of `swap`."""
    inputs, outputs = w.shape
    size = inputs if group is None else group
    squares = jnp.diagonal(gram).reshape(-1, size)
    starts = np.arange(0, inputs, size)
    # The pairs that may be exchanged: blocks on the diagonal.
    blocks = (
        gram[None]
        if group is None
        else jax.vmap(lambda i: jax.lax.dynamic_slice(gram, (i, i), (size, size)))(
            jnp.asarray(starts)
        )
    )
    small = 8 * float(jnp.finfo(w.dtype).eps)

    def one(w: jax.Array, mask: jax.Array) -> jax.Array:
        parts = w.reshape(-1, size)

        def best(mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            # Anew each time: what would be added up would drift.
            c = (gram @ jnp.where(mask, jnp.zeros_like(w), w)).reshape(-1, size)
            kept = mask.reshape(-1, size)
            linear, own = 2 * parts * c, jnp.square(parts) * squares
            back = jnp.where(kept, jnp.inf, own - linear)
            away = jnp.where(kept, own + linear, jnp.inf)
            pairs = back[:, :, None] + away[:, None, :]
            pairs = pairs - 2 * parts[:, :, None] * parts[:, None, :] * blocks
            place = jnp.argmin(pairs.reshape(-1))
            at, p, q = place // (size * size), place // size % size, place % size
            # Less than rounding is no gain: it might be none, and come back for ever.
            terms = jnp.abs(linear) + own
            gain = pairs.reshape(-1)[place] + small * (terms[at, p] + terms[at, q])
            return at * size + p, at * size + q, gain

        def go(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            return (state[1] < most) & ~state[2]

        def step(
            state: tuple[jax.Array, jax.Array, jax.Array],
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            mask, count, _ = state
            p, q, gain = best(mask)
            better = gain < 0
            new = mask.at[p].set(True).at[q].set(False)
            return jnp.where(better, new, mask), count + 1, ~better

        start = (mask, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        return jax.lax.while_loop(go, step, start)[0]

    # As many outputs at a time as fit into a few kernels of memory.
    together = max(1, outputs // size)
    return jax.lax.map(lambda xs: one(*xs), (w.T, mask.T), batch_size=together).T
