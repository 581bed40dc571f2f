"""From the names of commands and tables to models."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._lenet import LeNet5
from ._mlp import MLP
from ._resnet import ResNet
from ._small_cnn import SmallCNN

Factory = Callable[..., nn.Module]

MODELS: dict[str, Factory] = {
    "lenet_300_100": MLP,
    "lenet5": LeNet5,
    "small_cnn": SmallCNN,
    "resnet20": partial(ResNet, blocks=3),
    "resnet32": partial(ResNet, blocks=5),
    "resnet56": partial(ResNet, blocks=9),
    "resnet110": partial(ResNet, blocks=18),
}
"""Name -> factory(num_classes=..., dtype=..., **fields of the model)."""


def create(
    name: str,
    num_classes: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
    **fields: Any,
) -> nn.Module:
    """Make the model of a name. All are called as `model(x, train)`.

    Args:
        name: a key of `MODELS`.
        num_classes: number of logits.
        dtype: type of the computation; parameters and logits are float32 in any case.
        **fields: other fields of the model, such as `widths`, or `axis_name` for the ResNets.

    Returns:
        An unbound Flax Linen module.

    Raises:
        ValueError: unknown name.
        TypeError: the model has no such field.

    Example:
        >>> create("resnet56", 10).blocks
        9
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown model {name!r}{hint} Known: {', '.join(MODELS)}")
    return MODELS[name](num_classes=num_classes, dtype=dtype, **fields)
