"""What a published method is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxprune import masks, transforms
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
        """
        mask = None
        params = trainable
        if self.parametrization is not None:
            params, mask = self.parametrization.finalize(trainable, parametrization_state)
        elif transforms.has_mask(opt_state):
            mask = transforms.get_mask(opt_state)
        if self.final_prune is not None:
            mask = self.final_prune(params)
        mask = masks.dense(params) if mask is None else mask
        return masks.apply_mask(params, mask), mask


def checked(method: Method) -> Method:
    """The method, its transform tried once on an optimizer, so that bad input is refused now."""
    if method.transform is not None:
        method.transform(optax.identity())
    return method
