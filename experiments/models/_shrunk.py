"""A network after its channels were removed, called like the module it was."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

import jaxprune as jp


class Shrunk(NamedTuple):
    """What `shrink` returns; its `apply` takes the place of a module's in losses and evaluation.

    Attributes:
      training: ``training(variables, x, key)`` gives logits and new statistics.
      inference: ``inference(variables, x)`` gives logits.
    """

    training: Callable[..., Any]
    inference: Callable[..., Any]

    def apply(
        self,
        variables: Any,
        x: jax.Array,
        *,
        train: bool,
        mutable: Sequence[str] = (),
        rngs: Any = None,
    ) -> Any:
        """As `flax.linen.Module.apply`; statistics are mutable in training, nothing else is."""
        del mutable
        if train:
            return self.training(variables, x, rngs["dropout"])
        return self.inference(variables, x)


def training_apply(model: nn.Module, state: Sequence[str]) -> Callable[..., Any]:
    """A model in training as a pure function of (variables, x, key).

    Args:
      model: called as ``model(x, train)``.
      state: the collections beside "params" that training changes.
    """

    def apply(variables: Any, x: jax.Array, key: jax.Array) -> Any:
        return model.apply(variables, x, train=True, mutable=list(state), rngs={"dropout": key})

    return apply


def shrink(
    model: nn.Module, variables: Any, masks: Any, x: jax.Array, key: jax.Array
) -> tuple[Shrunk, Any]:
    """Removes masked channels from a model, for training and for inference.

    Args:
      model: called as ``model(x, train)``.
      variables: its variables.
      masks: for all of them, from `jaxprune.structured.masks`.
      x: example images.
      key: an example key.

    Returns:
      The small network and its variables.
    """
    state = [name for name in variables if name != "params"]
    training, small = jp.structured.shrink(training_apply(model, state), variables, masks, x, key)
    inference, _ = jp.structured.shrink(
        lambda variables, x: model.apply(variables, x, train=False), variables, masks, x
    )
    return Shrunk(training, inference), small
