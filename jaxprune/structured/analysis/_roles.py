"""Which axes of parameters make channels, and over which products sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from jax.extend.core import JaxprEqn

from jaxprune.structured.analysis._tracked import Source, Tracked

Axis: TypeAlias = tuple[int, int]  # (leaf, axis)


def is_statistic(operands: Sequence[Tracked], batch: Sequence[Sequence[int]]) -> bool:
    """Whether a product of parameters alone is no kernel: of a vector, or of one with itself.

    Such are a step of the power iteration for a spectral norm, and a Gram matrix.

    Args:
      operands: two, that depend on parameters alone.
      batch: the axes of each that the product maps over.
    """
    leaves = []
    for value, mapped in zip(operands, batch, strict=True):
        if sum(n > 1 for axis, n in enumerate(value.shape) if axis not in mapped) < 2:
            return True
        leaves.append({leaf for axes in value.source or () for leaf, _ in axes})
    return bool(leaves[0] & leaves[1])


class Roles:
    """What is noted of the axes of parameters; the first note on one counts."""

    def __init__(self) -> None:
        self._known: dict[Axis, str] = {}
        self._guessed: dict[Axis, str] = {}

    def found(self) -> dict[Axis, str]:
        """For (leaf, axis) whether products sum over it ("in") or not ("out")."""
        return {**self._guessed, **self._known}

    def note(self, eqn: JaxprEqn, operands: Sequence[Tracked]) -> None:
        """Notes how an equation uses the parameters that its operands are computed from."""
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            self._product(operands, *params["dimension_numbers"])
        elif name == "ragged_dot_general":
            numbers = params["ragged_dot_dimension_numbers"]
            self._product(operands[:2], *numbers.dot_dimension_numbers)
        elif name == "conv_general_dilated":
            summed = params["dimension_numbers"].rhs_spec[1]
            _add(self._known, operands[1].source, (summed,))
        elif name == "gather":
            # What data looks up is data, but it may choose between kernels, which products use yet.
            value, indices = operands
            window = [n for n in params["slice_sizes"] if n > 1]
            embeds = indices.source is None and len(window) < 2
            _add(self._known if embeds else self._guessed, value.source, ())

    def _product(
        self, operands: Sequence[Tracked], summed: Sequence[Any], batch: Sequence[Any]
    ) -> None:
        lhs, rhs = operands
        if lhs.source is None or rhs.source is None:
            for value, axes in zip(operands, summed, strict=True):
                _add(self._known, value.source, axes)
        elif is_statistic(operands, batch):
            for value, axes in zip(operands, summed, strict=True):
                if sum(n > 1 for n in value.shape) > 1:
                    _add(self._guessed, value.source, axes)
        else:
            # Of ``a @ b`` the second is a kernel, whether the first is one (of a low rank, used as
            # ``x @ (a @ b)``) or learned activations.
            _add(self._known, rhs.source, summed[1])
            free = [axis for axis in range(len(lhs.nodes)) if axis not in summed[0]]
            _add(self._guessed, lhs.source, free)


def _add(notes: dict[Axis, str], source: Source, summed: Sequence[int]) -> None:
    # Summed axes first: a kernel that was flattened and cut again runs over several axes at once,
    # and what is summed with a window is what it reads.
    for axis, origins in sorted(enumerate(source or ()), key=lambda pair: pair[0] not in summed):
        for origin in origins:
            notes.setdefault(origin, "in" if axis in summed else "out")
