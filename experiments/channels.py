"""Whole channels: which go in a structured run, and the network that is left, as a module."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

import jaxprune as jp
from experiments import models
from experiments.config import Config
from jaxprune.structured import ChannelGroups


def filters_of(groups: ChannelGroups) -> tuple[str, ...]:
    """The convolutions whose filters nothing else makes: no shortcut adds to their channels."""
    return tuple(
        group.name
        for group in groups
        if len(made := group.role("out")) == 1 and len(groups.shapes[made[0].path]) > 2
    )


def select_for(config: Config) -> Callable[[ChannelGroups, Sequence[Any], float], Any]:
    """What says which channels stay after a cycle, by its name on the command line."""

    def select(groups: ChannelGroups, scores: Sequence[Any], sparsity: float) -> Any:
        if config.structured == "channels":
            return jp.structured.select(groups, scores, sparsity)
        filters = filters_of(groups)
        if config.structured == "filters":
            if not filters:
                raise ValueError(
                    f"model {config.model} has no convolution whose filters can go alone; take "
                    "structured channels."
                )
            allocation = jp.structured.ratios(dict.fromkeys(filters, sparsity))
        else:
            assert config.structured is not None
            widths = jp.structured.pfec(config.structured)
            # A first convolution that a shortcut adds to is none of the configuration's.
            paths = jp.structured.natural_order(filters)
            if len(paths) != len(widths):
                raise ValueError(
                    f"structured {config.structured} is of {len(widths)} convolutions, but model "
                    f"{config.model} has {len(paths)} whose filters can go. Take the model that it "
                    "is named after."
                )
            allocation = jp.structured.to_widths(dict(zip(paths, widths, strict=True)))
        return jp.structured.select(groups, scores, allocation=allocation)

    return select


def scores_for(config: Config, key: jax.Array) -> Callable[[ChannelGroups, Any], Any]:
    """Scores of channels: their L1 norms, or random numbers."""
    if config.score == "random":
        return lambda groups, variables: jp.structured.random(key, groups)
    return jp.structured.magnitude


def functions(model: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A model in training and in inference as functions of (params, model_state, x, ...)."""

    def training(params: Any, model_state: Any, x: jax.Array, key: jax.Array) -> Any:
        variables = {"params": params, **model_state}
        rngs = {"dropout": key}
        logits, updated = model.apply(
            variables, x, train=True, mutable=list(model_state), rngs=rngs
        )
        return logits, dict(updated)

    def inference(params: Any, model_state: Any, x: jax.Array) -> Any:
        return model.apply({"params": params, **model_state}, x, train=False)

    return training, inference


def shrunk(model: nn.Module, shrink: jp.training.Shrink) -> models.Shrunk:
    """What is left of a model, called as the module."""
    training, inference = map(shrink, functions(model))

    def parts(variables: Any) -> tuple[Any, Any]:
        return variables["params"], {k: v for k, v in variables.items() if k != "params"}

    return models.Shrunk(
        lambda variables, x, key: training(*parts(variables), x, key),
        lambda variables, x: inference(*parts(variables), x),
    )


def measured_speedup(
    model: nn.Module, dense: Any, result: jp.training.StructuredResult, x: jax.Array
) -> jp.metrics.LatencyComparison:
    """How much faster the small network infers than the dense one.

    Args:
      model: the network.
      dense: a state of the dense one; times do not depend on its values.
      result: of the run.
      x: images.
    """
    _, inference = functions(model)
    small, state = result.shrink(inference), result.state
    return jp.metrics.compare_latency(
        dense=(inference, (dense.params, dense.model_state, x)),
        small=(small, (state.params, state.model_state, x)),
        batch_size=x.shape[0],
    )
