"""Linear mode connectivity: how far the error rises between two networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree


class Barrier(NamedTuple):
    """The error along the straight line between two networks.

    Attributes:
      height: how far the error rises above the mean of the two ends, in the unit of the error; 0
        where it nowhere does.
      fractions: [points], from 0 (the first network) to 1 (the second).
      errors: [points], the error at each.
    """

    height: float
    fractions: np.ndarray
    errors: np.ndarray


def barrier(error: Callable[[PyTree], Any], a: PyTree, b: PyTree, *, points: int = 30) -> Barrier:
    """Measures the error barrier between two networks of one architecture.

    ``height = max over t of error((1 - t) a + t b) - (error(a) + error(b)) / 2``. Two networks that
    were trained from one state under different data orders are *linearly connected* if the height
    is about zero (Frankle et al. call a network stable below 2 % of error).

    Batch statistics do not interpolate: re-estimate them inside of ``error``, as in
    ``lambda params: 1 - evaluate(recalibrate(state._replace(params=params)))["accuracy"]``.

    Args:
      error: function from parameters to a number, lower is better, such as the error in percent or
        the loss. Called ``points`` times, outside of compiled code.
      a: parameters.
      b: parameters of the same shapes. Leaves that are not floating must equal those of ``a``.
      points: points on the line, both ends included; 2 or more.

    Returns:
      The height, and the error at every point.

    Raises:
      ValueError: if the trees differ in structure, shape, dtype or a leaf that is not floating, if
        a weight is not finite, or ``points`` is below 2.
      FloatingPointError: if the error is NaN somewhere.

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"w": jnp.array([-1.0])}, {"w": jnp.array([1.0])}
      >>> double_well = lambda params: (params["w"][0] ** 2 - 1) ** 2
      >>> barrier(double_well, a, b, points=5).height
      1.0

    References:
      Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020,
      section 2.
    """
    if points < 2:
        raise ValueError(f"points counts both ends, so it is 2 or more; got {points}.")
    _check_alike(a, b)
    fractions = np.linspace(0, 1, points)
    errors = np.array([float(error(_between(a, b, np.float32(t)))) for t in fractions])
    if np.isnan(errors).any():
        at = fractions[np.isnan(errors)][0]
        raise FloatingPointError(f"the error is NaN at fraction {at:.3g} of the way.")
    height = float(errors.max() - (errors[0] + errors[-1]) / 2)
    return Barrier(max(height, 0.0), fractions, errors)


@jax.jit  # the fraction is data, so that one program serves all points
def _between(a: PyTree, b: PyTree, t: jax.Array) -> PyTree:
    def one(x: Any, y: Any) -> Any:
        if not _tree.is_floating(x):
            return x
        wide = _tree.wide_dtype(x.dtype)
        there = t.astype(wide)
        # Both ends come out as they are: 0 and 1 times a finite weight are exact.
        return ((1 - there) * x.astype(wide) + there * y.astype(wide)).astype(x.dtype)

    return jax.tree.map(one, a, b)


def _check_alike(a: PyTree, b: PyTree) -> None:
    _tree.check_same(a, b, names=("the first network", "the second"))
    for what, tree in (("weights of the first network", a), ("weights of the second network", b)):
        _tree.check_finite(tree, what=what)
    for (path, x), (_, y) in zip(_tree.named_leaves(a), _tree.named_leaves(b), strict=True):
        if not _tree.is_floating(x) and not np.array_equal(np.asarray(x), np.asarray(y)):
            raise ValueError(
                f"{path!r} of dtype {x.dtype} differs between the networks and cannot be "
                "interpolated. Pass the parameters alone."
            )
