"""The parametrization that changes nothing."""

from __future__ import annotations

from typing import Any

from jaxprune import _checks, masks
from jaxprune._tree import PyTree, Where
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization, StepState


def identity(*, where: Where | None = None) -> Parametrization:
    """The parametrization of dense training: the forward pass sees what is trained.

    For code that takes any parametrization, and as the baseline of the others.

    Args:
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.

    Returns:
      The parametrization; its penalty is 0, its final mask all True.

    Raises:
      TypeError: if ``where`` is not a function.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.identity()
      >>> p.finalize(*p.init({"kernel": jnp.ones((1, 2))}))[1]
      {'kernel': Array([[ True,  True]], dtype=bool)}
    """
    _checks.check_function("where", where)

    def init(params: PyTree) -> tuple[PyTree, StepState]:
        return _p.copied(params), StepState(_p.first_step())

    def apply(trainable: PyTree, state: Any) -> tuple[PyTree, StepState]:
        return trainable, StepState(_p.next_step(state.step))

    def finalize(trainable: PyTree, state: Any) -> tuple[PyTree, PyTree]:
        del state
        return trainable, masks.dense(trainable, where=where)

    return Parametrization(init, apply, _p.no_penalty, finalize)
