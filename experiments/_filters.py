"""The cells of the table of filter pruning: a network loses filters and is retrained."""

import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import data, models
from experiments._cells import Cell
from experiments.channels import filters_of as filters_of
from experiments.config import Config
from experiments.setup import Setup, build, loop_and_evaluation, make_optimizer
from jaxprune.structured import ChannelGroups


class Dense(NamedTuple):
    """What the cells of a seed start from.

    Attributes:
      parts: the run.
      model: the network.
      variables: its parameters and statistics after dense training.
      groups: its channels.
      filters: paths of the convolutions that are pruned.
      accuracy: on the test set.
      macs: multiply-accumulates an image.
      x: example images.
    """

    parts: Setup
    model: Any
    variables: Any
    groups: ChannelGroups
    filters: tuple[str, ...]
    accuracy: float
    macs: int
    x: jax.Array


def train_dense(config: Config, dataset: data.Dataset) -> Dense:
    """Trains the dense network of a seed and finds its filters."""
    parts = build(config, dataset=dataset)
    model = models.create(config.model, dataset.num_classes)
    steps = jnp.arange(parts.options["pretraining_steps"])
    state, _ = parts.train(parts.state, jax.vmap(parts.pretraining)(steps))
    variables = {"params": state.params, **(state.model_state or {})}
    x, key = jnp.zeros((2, *dataset.image_shape)), jax.random.key(0)
    apply = models.training_apply(model, list(state.model_state or {}))
    groups = jp.structured.channel_groups(apply, variables, x, key)
    return Dense(
        parts,
        model,
        variables,
        groups,
        filters_of(groups),
        parts.evaluate(state)["accuracy"],
        _macs(model, variables, x),
        x,
    )


def _macs(model: Any, variables: Any, x: jax.Array) -> int:
    """Multiply-accumulates an image."""

    def inference(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=False)

    return jp.metrics.flops(inference, variables, x[:1]).macs


def run_cell(
    config: Config,
    cell: Cell,
    dense: Dense,
    dataset: data.Dataset,
    *,
    epochs: int,
    folder: pathlib.Path | None = None,
) -> Cell:
    """Removes filters from a trained network and retrains what is left for some epochs.

    The network is written to the folder, see `jaxprune.structured.load`.
    """
    start, parts, groups = time.perf_counter(), dense.parts, dense.groups
    key = jax.random.fold_in(jax.random.key(cell["seed"]), 1)
    if cell["score"] == "random":
        scores = jp.structured.random(key, groups)
    else:
        scores = jp.structured.magnitude(groups, dense.variables)
    fraction: float = cell["fraction"]
    removed = jp.structured.ratios(dict.fromkeys(dense.filters, fraction))
    kept = jp.structured.select(groups, scores, allocation=removed)
    masks = jp.structured.masks(groups, kept)
    small_model, small = models.shrink(dense.model, dense.variables, masks, dense.x, key)

    train, evaluate = loop_and_evaluation(config, small_model, small["params"], dataset)
    state = jp.training.TrainState.create(
        small["params"],
        lambda rate: make_optimizer(config, rate),
        model_state={k: v for k, v in small.items() if k != "params"},
        masked=False,
        key=key,
    )
    pruned = evaluate(state)["accuracy"]
    rates = _rates(cell, dense, masks, epochs * parts.epoch_steps)
    state, _ = train(state, rates)
    if folder is not None:
        name = "-".join(str(cell[k]) for k in ("seed", "fraction", "score", "schedule"))
        trained = {"params": state.params, **(state.model_state or {})}
        settings = {**cell, "model": config.model, "data": config.data}
        jp.structured.save(folder / f"small-{name}.safetensors", trained, masks, settings=settings)
    return {
        **cell,
        "dense_accuracy": dense.accuracy,
        "accuracy_pruned": pruned,
        "accuracy": evaluate(state)["accuracy"],
        "weights": sum(x.size for x in jax.tree.leaves(small["params"])),
        "dense_weights": sum(x.size for x in jax.tree.leaves(dense.variables["params"])),
        "macs": _macs(small_model, small, dense.x),
        "dense_macs": dense.macs,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _rates(cell: Cell, dense: Dense, masks: Any, steps: int) -> jax.Array:
    """The learning rate of every retraining step."""
    lengths = {
        "pretraining_steps": dense.parts.options["pretraining_steps"],
        "retraining_steps": steps,
    }
    options: dict[str, Any] = dict(lengths)
    if cell["schedule"] == "allr":
        before = dense.variables["params"]
        after = jp.apply_mask(before, masks["params"])
        # Of all weights: removed filters take those with them that read them.
        kept, _ = jp.metrics.counts(masks["params"])
        masked = sum(mask.size for mask in jax.tree.leaves(masks["params"]))
        pruned = (masked - kept) / sum(x.size for x in jax.tree.leaves(before))
        options["discount"] = jp.schedules.allr_discount(
            before, after, pruned_fraction=pruned, **lengths
        )
    schedule = jp.schedules.retraining(cell["schedule"], dense.parts.pretraining, **options)
    return jnp.asarray(jax.vmap(schedule)(jnp.arange(steps)))
