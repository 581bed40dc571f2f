"""What the leaves hold: NaN, infinities, negative numbers. Asked of all leaves at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _eager, _host
from jaxprune._tree._paths import PyTree, is_floating, is_traced, named_leaves


def check_finite(tree: PyTree, *, what: str = "weights") -> None:
    """Raises if a floating leaf holds a NaN or an infinity. Traced leaves are not checked.

    One compiled program for all leaves and one transfer, or none where they are on the CPU.

    Raises:
      ValueError: naming the first such leaf.
    """
    named = _known_floating(tree)
    check_worst([path for path, _ in named], _asked(worst, _worst_here, named), what=what)


def check_worst(paths: Sequence[str], found: Sequence[Any], *, what: str = "weights") -> None:
    """Raises if what `worst` found in the leaves of these paths is a NaN or an infinity.

    Raises:
      ValueError: naming the first such leaf.
    """
    for path, code in zip(paths, _values(found), strict=False):
        if code:
            raise ValueError(
                f"the {what} at {path!r} hold {'NaN' if code == _NAN else 'inf'}. Prune a state "
                "from before training diverged."
            )


_INFINITE, _NAN = 1, 2


def worst(x: jax.Array) -> jax.Array:
    """Whether a floating array holds NaN (2), else infinities (1), else neither (0); uint8."""
    # A maximum of integers: one reduction, which a partitioner knows, too.
    infinite = jnp.isinf(x).astype(jnp.uint8)
    return jnp.max(jnp.where(jnp.isnan(x), jnp.uint8(_NAN), infinite), initial=0)


def _worst_here(x: np.ndarray) -> int:
    if _host.is_finite(x):
        return 0
    return _NAN if np.isnan(x).any() else _INFINITE


def negative(tree: PyTree) -> list[str]:
    """The paths of the floating leaves that hold a negative number. Traced leaves are not seen."""
    named = _known_floating(tree)
    found = _values(_asked(_is_negative, _is_negative_here, named))
    return [path for (path, _), negative in zip(named, found, strict=False) if negative]


def _is_negative(x: jax.Array) -> jax.Array:
    return jnp.any(x < 0)


def _is_negative_here(x: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # of narrow formats NumPy warns where it meets a NaN
        return bool((x < 0).any())


def _known_floating(tree: PyTree) -> list[tuple[str, Any]]:
    return [
        (path, leaf)
        for path, leaf in named_leaves(tree)
        if is_floating(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct) and not is_traced(leaf)
    ]


def _asked(
    compiled: Callable[[jax.Array], jax.Array],
    here: Callable[[np.ndarray], Any],
    named: Sequence[tuple[str, Any]],
) -> Sequence[Any]:
    """Something about each leaf: by one program for all, or on the host."""
    leaves = [leaf for _, leaf in named]
    views = _host.views(leaves)
    if views is None:
        return _eager.together(compiled, [_eager.Row(x) for x in leaves])
    return [here(x) for x in views]


def _values(found: Sequence[Any]) -> Sequence[Any]:
    # Inside `jit` an operation on a concrete array that the function closes over is traced, too.
    return [] if is_traced(found) else jax.device_get(found)
