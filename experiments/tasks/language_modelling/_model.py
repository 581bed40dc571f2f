"""The models of language."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from experiments.config import Config
from experiments.models import GPT

MODELS: dict[str, Callable[..., nn.Module]] = {"gpt": GPT}
"""Name -> factory(vocabulary=..., max_length=..., dtype=..., **fields of the model)."""

# A model that learns something within a minute on two cores.
_SMALL = {"width": 96, "depth": 2, "heads": 4}


def create(config: Config, vocabulary: int, dtype: Any) -> nn.Module:
    """The model of a configuration.

    Args:
      config: names the model and its sizes.
      vocabulary: number of tokens.
      dtype: type of the computation.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    given = {name: getattr(config, name) for name in _SMALL}
    sizes = _SMALL | {name: value for name, value in given.items() if value is not None}
    if sizes["width"] % sizes["heads"]:
        raise ValueError(
            f"width {sizes['width']} is no multiple of heads {sizes['heads']}; change one of them."
        )
    return MODELS[config.model](
        vocabulary=vocabulary,
        max_length=config.max_length,
        dropout=config.dropout,
        dtype=dtype,
        **sizes,
    )
