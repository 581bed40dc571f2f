"""What a published method is made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxprune import _tree, masks, metrics, transforms
from jaxprune._tree import PyTree
from jaxprune.parametrizations import Parametrization


class Method(NamedTuple):
    """A method as a composition: what happens to updates, what the forward pass sees, the end.

    Any part may be missing. `jaxprune.training.fit` trains with one; in a loop of your own, wrap
    the optimizer in ``transform``, differentiate through ``parametrization``, and call `finish`.

    Attributes:
      name: the field's acronym in lower case.
      sparsity: the fraction removed that it ends with; `None` if it does not control it.
      total_steps: the length of training that it is made for; `None` if it does not matter.
      transform: ``transform(optimizer) -> optimizer``, or `None`.
      parametrization: what the forward pass sees, or `None` for the parameters themselves.
      final_prune: ``final_prune(params) -> mask``, the hard prune after training, or `None` if the
        network is sparse by then.
    """

    name: str
    sparsity: float | None
    total_steps: int | None = None
    transform: Callable[[Any], optax.GradientTransformationExtraArgs] | None = None
    parametrization: Parametrization | None = None
    final_prune: Callable[[PyTree], PyTree] | None = None

    def finish(
        self, trainable: PyTree, opt_state: PyTree, parametrization_state: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        """The end of training: final parameters, pruned weights exactly zero, and their mask.

        Args:
          trainable: what was trained: the parameters, or what the parametrization made of them.
          opt_state: the state of the optimizer that ``transform`` gave.
          parametrization_state: the state of the parametrization, if there is one.

        Returns:
          The parameters and the mask; everything is kept where the method prunes nothing.

        Raises:
          ValueError: if ``opt_state`` is not of the wrapped optimizer, or ``parametrization_state``
            is missing.

        Warns:
          UserWarning: if less was pruned than the method ends with, because training was shorter
            than it was made for.
        """
        mask = None
        prunes_itself = self.parametrization is None and self.final_prune is None
        if self.transform is not None and prunes_itself and not transforms.has_mask(opt_state):
            raise ValueError(
                f"the optimizer state holds no mask of {self.name}. Train with "
                f"method.transform(optimizer), and pass the state that it gave."
            )
        if self.parametrization is not None and parametrization_state is None:
            raise ValueError(
                f"{self.name} has a parametrization: pass the state that its apply gave, "
                "finish(trainable, opt_state, parametrization_state)."
            )
        params = trainable
        if self.parametrization is not None:
            params, mask = self.parametrization.finalize(trainable, parametrization_state)
        elif transforms.has_mask(opt_state):
            mask = transforms.get_mask(opt_state)
        if self.final_prune is not None:
            mask = self.final_prune(params)
        mask = masks.dense(params) if mask is None else mask
        if prunes_itself and self.sparsity and not _tree.is_traced(mask, opt_state):
            kept, size = metrics.counts(mask)
            less = size - kept < masks.count(self.sparsity, size) - len(jax.tree.leaves(mask))
            if less and not self._has_run_through(opt_state):
                warnings.warn(
                    f"{self.name} ends at sparsity {(size - kept) / size:.4g}, not "
                    f"{self.sparsity:.4g}: it was made for {self.total_steps} steps of training.",
                    stacklevel=2,
                )
        return masks.apply_mask(params, mask), mask

    def _has_run_through(self, opt_state: PyTree) -> bool:
        """Whether the mask has moved as planned: what is missing then is rounding to groups."""

        def is_moving(x: Any) -> bool:
            return isinstance(x, transforms.MovingMaskState)

        found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_moving) if is_moving(x)]
        steps, frozen = (
            jax.tree.leaves([getattr(x, name) for x in found]) for name in ("step", "frozen")
        )
        return (
            self.total_steps is not None
            and bool(found)
            and all((np.asarray(x) >= self.total_steps).all() for x in steps)
            and not any(np.any(x) for x in frozen)
        )


def checked(method: Method) -> Method:
    """The method, its transform tried once on an optimizer, so that bad input is refused now."""
    if method.transform is not None:
        method.transform(optax.identity())
    return method
