"""What a segmentation network is fed with: images and masks in the memory of the devices."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import data
from experiments.config import Config
from experiments.inputs import Inputs
from experiments.tasks._identity import identity_of_arrays
from jaxprune.training import Evaluate, TrainLoop, TrainStep

from ._data import Scenes, make_batch_at
from ._metrics import make_eval_fn, make_loss_fn, with_mean_iou
from ._model import create


def make_inputs(config: Config, scenes: Scenes) -> Inputs:
    """The inputs of a configuration.

    Raises:
      ValueError: if there is no full batch.
    """
    classes, statistics = scenes.num_classes, {"mean": scenes.mean, "std": scenes.std}
    batch_at = make_batch_at(
        scenes.train,
        batch_size=config.batch_size,
        seed=config.seed,
        dtype=jnp.dtype(config.precision),
        **statistics,
    )

    def model(dtype: Any, axis_name: str | None = None) -> Any:
        return create(config, classes, dtype, axis_name)

    def evaluations(model: Any) -> list[Evaluate]:
        eval_fn = make_eval_fn(model, classes, partial(data.normalise, **statistics))
        size = config.eval_batch_size
        return [
            with_mean_iou(jp.training.make_evaluate(eval_fn, dict(split), batch_size=size), classes)
            for split in (scenes.test, scenes.validation)
        ]

    def loop(step: TrainStep, chunk_steps: int, compile_chunks: bool | None) -> TrainLoop:
        return jp.training.make_loop(
            step, batch_at, chunk_steps=chunk_steps, compile_chunks=compile_chunks
        )

    splits = {"train": scenes.train, "validation": scenes.validation, "test": scenes.test}

    def identity() -> data.Identity:
        return identity_of_arrays(
            scenes.name,
            scenes.version,
            {
                split: {"image": arrays["image"], "label": arrays["label"]}
                for split, arrays in splits.items()
            },
            {split: len(arrays["image"]) for split, arrays in splits.items()},
        )

    shape = scenes.train["image"].shape
    return Inputs(
        epoch_steps=data.steps_per_epoch(shape[0], config.batch_size),
        model=model,
        example=(jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32),),
        arguments=lambda batch: (batch["image"],),
        loss_fn=partial(make_loss_fn, num_classes=classes),
        evaluations=evaluations,
        loop=loop,
        batch_at=batch_at,
        identity=identity,
        note=f"Mean IoU of {classes} classes over all pixels that are not void.",
        num_classes=classes,
        image_shape=shape[1:],
    )
