"""SparseGPT: input after input is pruned, and those after it make up for what went."""

from __future__ import annotations

import fractions
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_number, check_steps
from jaxprune.layerwise import _factor
from jaxprune.layerwise._method import Method, Problem, Result, Rule
from jaxprune.masks import PatternSpec


def sparsegpt(*, damping: float = 0.01, block: int = 128) -> Method:
    """SparseGPT: one pass over the inputs that corrects what follows.

    With ``H = G + damping * mean(diag G) I`` and the upper triangular U of ``H^-1 = U^T U``, the
    inputs are taken in order, in blocks. At the start of a block the lowest scores
    ``w_ij^2 / U_ii^2`` of it are marked; then for each input i what goes, ``e = (w_i - q_i) /
    U_ii``, is taken from the rows after it: ``w_k -= U_ik e``. With an N:M pattern along the inputs
    each group is chosen when it is reached, from the weights as they are by then.

    Each block loses its share, so that the total is exact; the authors' code truncates in each.
    Dead inputs (``G_ii = 0``) go first; where one stays, it keeps its weight, which the authors set
    to 0. Where H cannot be factored, ten times the damping is tried, and so on, with a warning.

    Args:
      damping: added to the diagonal, relative to its mean.
      block: inputs that are compared together. A multiple of the groups of a pattern is taken.

    Returns:
      A method for `solve`. It needs the Gram matrix, and compares blocks of inputs of all outputs.

    Raises:
      ValueError: if an option is out of range.
      TypeError: if it is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> kernel, gram = jnp.array([[1.0], [2.0]]), jnp.array([[1.0, 0.5], [0.5, 1.0]])
      >>> jp.layerwise.solve(sparsegpt(damping=0.0), kernel, gram, 0.5)[0].tolist()
      [[0.0], [2.5]]

    References:
      Frantar, Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot,
      ICML 2023, algorithm 1.
    """
    damping = check_number("damping", damping, low=0.0)
    options = (("damping", damping), ("block", check_steps("block", block)))
    return Method("sparsegpt", _run, options, counts=_counts)


def _sizes(shape: tuple[int, ...], spec: PatternSpec | None, block: int) -> tuple[int, int]:
    """How many inputs a block has, and how many are chosen together."""
    inputs = shape[0]
    group = 1
    if spec is not None and 0 in spec.axes:
        group = spec.group[spec.axes.index(0)]
    block = min(-(-block // group) * group, -(-inputs // group) * group)
    if spec is not None and spec.kept is not None:
        return block, group
    return block, block


def _counts(rule: Rule, *, damping: float, block: int) -> np.ndarray:
    del damping
    spec, shape = rule.choice.spec, rule.like.shape
    group = 1
    if spec is not None and 0 in spec.axes:
        group = spec.group[spec.axes.index(0)]
    if shape[0] % group:
        raise ValueError(
            f"sparsegpt takes groups of inputs one after another, but {group} does not divide the "
            f"{shape[0]} inputs of {rule.name!r}. Choose another pattern or method."
        )
    size, _ = _sizes(shape, spec, block)
    inputs = shape[0]
    total = rule.counts()  # [pools, 2]
    ends = [min(end, inputs) for end in range(size, inputs + size, size)]
    rows = []
    for high, low in total.tolist():
        whole = (high << 32) + low
        # Rounded to the nearest along the inputs: the last end has all of it.
        upto = [0, *(round(fractions.Fraction(whole * end, inputs)) for end in ends)]
        rows.append([divmod(b - a, 1 << 32) for a, b in itertools.pairwise(upto)])
    return np.asarray(rows, np.uint32).reshape(len(total), len(ends), 2).swapaxes(0, 1)


def _run(problem: Problem, *, damping: float, block: int) -> Result:
    w, gram, choice = problem.kernel, problem.gram, problem.choice
    inputs, outputs = w.shape
    size, step = _sizes(w.shape, choice.spec, block)
    blocks = -(-inputs // size)
    # Filled up with inputs of no influence that always stay.
    pad = blocks * size - inputs
    dead = jnp.diagonal(gram) == 0
    hessian = gram + jnp.diag(dead.astype(gram.dtype))
    upper, used = _inverse_factor(hessian, damping)
    upper = jnp.pad(upper, (0, pad)) + jnp.diag(
        jnp.pad(jnp.zeros((inputs,), w.dtype), (0, pad), constant_values=1)
    )
    alive = jnp.pad(~dead, (0, pad), constant_values=True)
    real = np.arange(blocks * size) < inputs
    zero = np.int32(0)  # as the other indices, also where integers have 64 bits
    w = jnp.pad(w, ((0, pad), (0, 0)))

    def chosen(part: jax.Array, start: Any, count: jax.Array) -> jax.Array:
        """The mask of some rows of the kernel, ``[step, out]``."""
        scale = jax.lax.dynamic_slice(jnp.diagonal(upper), (start,), (step,))
        live = jax.lax.dynamic_slice(alive, (start,), (step,))
        here = jax.lax.dynamic_slice(jnp.asarray(real), (start,), (step,))
        scores = jnp.square(part / scale[:, None])
        scores = jnp.where(live[:, None], scores, jnp.zeros_like(scores))
        return choice.make(jnp.where(here[:, None], scores, jnp.full_like(scores, jnp.inf)), count)

    def of_block(w: jax.Array, xs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, count = xs
        part = jax.lax.dynamic_slice(w, (start, zero), (size, outputs))
        rows = jax.lax.dynamic_slice(upper, (start, zero), (size, blocks * size))
        own = jax.lax.dynamic_slice(rows, (zero, start), (size, size))

        def of_group(state: tuple[jax.Array, jax.Array], first: jax.Array) -> Any:
            part, errors = state
            now = jax.lax.dynamic_slice(part, (first, zero), (step, outputs))
            mask = chosen(now, start + first, count)

            def column(j: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                part, errors = state
                i = first + j
                gone = jnp.where(mask[j], jnp.zeros_like(part[i]), part[i]) / own[i, i]
                # U is upper triangular: rows before i get nothing, row i what makes it 0.
                return part - own[i][:, None] * gone[None, :], errors.at[i].set(gone)

            return jax.lax.fori_loop(zero, np.int32(step), column, (part, errors)), mask

        starts = jnp.arange(0, size, step, dtype=jnp.int32)
        (part, errors), masks = jax.lax.scan(of_group, (part, jnp.zeros_like(part)), starts)
        # The rows after the block; those before it get nothing, and its own are put in as they are.
        later = jnp.arange(blocks * size, dtype=jnp.int32) >= start + size
        w = w - jnp.where(later[:, None], rows.T @ errors, jnp.zeros_like(w))
        w = jax.lax.dynamic_update_slice(w, part, (start, zero))
        return w, masks.reshape(size, outputs)

    starts = jnp.arange(0, blocks * size, size, dtype=jnp.int32)
    w, masks = jax.lax.scan(of_block, w, (starts, jnp.asarray(problem.counts)))
    mask = masks.reshape(blocks * size, outputs)[:inputs]
    return Result(w[:inputs], mask, used)


def _inverse_factor(hessian: jax.Array, damping: float) -> tuple[jax.Array, jax.Array]:
    """The upper triangular U with ``U^T U = (H + damping)^-1``, and the damping that was added.

    ``H = R R^T`` with R upper triangular is a Cholesky factor of H in reverse order, and U is the
    inverse of R. The authors form the inverse of H, which costs accuracy and time.
    """
    lower, used = _factor.factor(hessian[::-1, ::-1], damping)
    upper = lower[::-1, ::-1]
    one = jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    return jax.scipy.linalg.solve_triangular(upper, one, lower=False), used
