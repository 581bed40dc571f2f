"""One matrix: from a kernel and a Gram matrix to a sparse kernel."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune.layerwise import _arrays
from jaxprune.layerwise._method import Method, Problem, Result, Rule
from jaxprune.masks import Allocation, Choice, Pattern, globally, per_output


def solve(
    method: Method,
    kernel: Any,
    gram: Any,
    sparsity: Any,
    *,
    pattern: Pattern | None = None,
    allocation: Allocation | None = None,
    name: str = "kernel",
) -> tuple[jax.Array, jax.Array]:
    """Prunes one matrix so that its outputs change little.

    Counts are exact and ties are broken as by `masks.make`. A method is compiled once for a shape
    and a pattern: the counts, and so the sparsity, are data.

    Args:
      method: what one of the factories returns: `wanda()`, `sparsegpt()`, `alps()`, ...
      kernel: ``[in, out]``; kernels of several layers or experts are stacked, ``[..., in, out]``,
        and solved one by one by the same program.
      gram: the sum of ``x^T x`` over all inputs, ``[in, in]``, or one each, ``[..., in, in]``. Its
        scale is of no matter. A method that needs no more (``method.needs`` says "norms" or
        "variances") takes its diagonal ``[in]``, the squared norms, as well.
      sparsity: fraction removed, a Python number in [0, 1); `None` with an N:M pattern.
      pattern: which weights go together: `masks.nm`, with ``axis=0`` for groups along the inputs,
        or `masks.block`; unstructured if omitted. Axes are those of one kernel.
      allocation: what is compared: `masks.globally()`, the whole matrix, or
        `masks.per_output(axis=-1)`, each output for itself; if omitted, what the method's authors
        compare (``method.compares``).
      name: what errors and warnings call the kernel: its path.

    Returns:
      The kernel, exactly 0 where the mask is False, in the dtype it came in; and the mask, bool,
      True = kept. Computed in float32, or float64 if an argument is that.

    Raises:
      ValueError: if shapes do not fit, a pattern does not divide the kernel or is none that the
        method can follow, all weights would go or, outside `jit`, a value is NaN or infinite or
        the matrix cannot be factored.
      TypeError: if the method is none, or an array is not floating.

    Warns:
      UserWarning: outside `jit`, if more damping was needed than asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> kernel = jnp.array([[3.0], [2.0], [1.0]])
      >>> gram = jnp.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 50.0]])
      >>> new, mask = jp.layerwise.solve(jp.layerwise.wanda(), kernel, gram, 1 / 3)
      >>> new[:, 0].tolist()
      [3.0, 0.0, 1.0]
      >>> jp.layerwise.refit(kernel, mask, gram)[:, 0].round(3).tolist()
      [4.0, 0.0, 1.0]
    """
    if not isinstance(method, Method):
        called = getattr(method, "__name__", None)
        hint = f" Call it: jp.layerwise.{called}()." if callable(method) and called else ""
        raise TypeError(
            f"method is what a factory such as sparsegpt() makes; got {method!r}.{hint}"
        )
    kernel, gram = _arrays.checked(kernel, gram, name, diagonal=method.needs != "gram")
    *layers, inputs, outputs = kernel.shape
    default = per_output(axis=-1) if method.compares == "output" and pattern is None else globally()
    dtype = _tree.wide_dtype(kernel.dtype, gram.dtype)
    like = jax.ShapeDtypeStruct((inputs, outputs), dtype)
    rule = Rule(like, sparsity, allocation or default, pattern, name)
    _check_left(rule)
    counts = method.count(rule)
    one = partial(_solved, counts=counts, method=method, choice=rule.choice)
    found: Result = _arrays.each(one, tuple(layers), kernel, gram)
    _check_damping(method, found, name)
    return found.kernel, found.mask


@partial(jax.jit, static_argnames=("method", "choice"))
def _solved(
    kernel: jax.Array, gram: jax.Array, *, counts: Any, method: Method, choice: Choice
) -> Result:
    with jax.default_matmul_precision("highest"):
        w, g = _arrays.widened(kernel, gram)
        found = method(Problem(w, g, choice, counts))
    new = jnp.where(found.mask, found.kernel, jnp.zeros_like(w)).astype(kernel.dtype)
    return Result(new, found.mask, found.damping)


def _check_left(rule: Rule) -> None:
    """Raises if nothing of the kernel, or of an output, would be left."""
    spec, units, shape = rule.choice.spec, rule.choice.units, rule.like.shape
    if spec is not None and spec.kept is not None:
        return
    entries = list(shape)
    for axis, length in zip(spec.axes, spec.group, strict=True) if spec else ():
        entries[axis] //= length
    whole = math.prod(n for axis, n in enumerate(entries) if axis not in units)
    if rule.counts()[0][-1] >= whole:
        of = "each output of " if units else ""
        raise ValueError(
            f"a sparsity of {rule.sparsity} removes all {whole} entries of {of}{rule.name!r}. "
            "Choose a lower one."
        )


def _check_damping(method: Method, found: Result, name: str) -> None:
    """Raises or warns where a matrix could not be factored as it was."""
    if found.damping is None or _tree.is_traced(found.damping):
        return
    used = float(np.max(np.asarray(found.damping)))
    if math.isnan(used):
        raise ValueError(
            f"{method.name}: the Gram matrix of {name!r} cannot be factored, with whatever damping "
            "was tried; it is not X^T X of some inputs, which has no negative eigenvalues."
        )
    asked = dict(method.options)["damping"]
    if used > 2 * asked:
        warnings.warn(
            f"{method.name}: the Gram matrix of {name!r} could not be factored with damping "
            f"{asked:g}; {used:g} was used. More calibration data, or a larger damping=, cures it.",
            stacklevel=3,
        )
