"""What a classifier of images is fed with: the set in memory, or streamed from the disk."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import caches, data, devices, models, prepared
from experiments.config import Config
from experiments.inputs import Inputs
from jaxprune.training import Evaluate, TrainLoop, TrainStep


def read(config: Config, say: Callable[[str], object] | None) -> data.Dataset:
    """The set of a configuration, in memory."""
    cache = caches.folder("data", config.data_cache)
    return data.load(config.data, data_dir=config.data_dir, cache=cache, say=say)


def _of_images(config: Config, num_classes: int, image_shape: Sequence[int]) -> dict[str, Any]:
    """What all inputs made of images and labels have in common."""

    def model(dtype: Any, axis_name: str | None = None) -> Any:
        spread = {} if axis_name is None else {"axis_name": axis_name}
        return models.create(config.model, num_classes, dtype, **spread)

    return {
        "model": model,
        "example": (jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),),
        "arguments": lambda batch: (batch["image"],),
        "num_classes": num_classes,
        "image_shape": tuple(image_shape),
    }


def resident(config: Config, dataset: data.Dataset) -> Inputs:
    """The whole set in the memory of the devices, batches made there."""
    batch_at = data.make_batch_at(
        dataset.train,
        batch_size=config.batch_size,
        seed=config.seed,
        mean=dataset.mean,
        std=dataset.std,
        augment=dataset.augmentation,
        dtype=jnp.dtype(config.precision),
    )
    normalise = partial(data.normalise, mean=dataset.mean, std=dataset.std)

    def evaluations(model: Any) -> list[Evaluate]:
        eval_fn = models.make_eval_fn(model, normalise)
        return [
            jp.training.make_evaluate(eval_fn, dict(split), batch_size=config.eval_batch_size)
            for split in (dataset.test, dataset.validation)
        ]

    def loop(step: TrainStep, chunk_steps: int, compile_chunks: bool | None) -> TrainLoop:
        return jp.training.make_loop(
            step, batch_at, chunk_steps=chunk_steps, compile_chunks=compile_chunks
        )

    return Inputs(
        **_of_images(config, dataset.num_classes, dataset.image_shape),
        epoch_steps=data.steps_per_epoch(len(dataset.train["label"]), config.batch_size),
        loop=loop,
        batch_at=batch_at,
        loss_fn=models.make_loss_fn,
        evaluations=evaluations,
        identity=partial(data.identity, dataset),
    )


def streamed(config: Config) -> Inputs:
    """Images read, decoded and augmented by the host while the devices compute."""
    kind = config.preprocess
    if kind == "auto":
        kind = data.PREPROCESSING.get(config.data, "none")
    training, evaluation = {
        "none": (None, None),
        "crop_flip": (data.PadCropFlip(), None),
        "imagenet": (
            data.RandomResizedCrop(config.image_size),
            data.ResizeCentreCrop(config.image_size, round(config.image_size * 256 / 224)),
        ),
    }[kind]
    shared: dict[str, Any] = {
        "data_dir": config.data_dir,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    stream = data.make_stream(
        config.data,
        batch_size=config.batch_size,
        seed=config.seed,
        preprocess=training,
        workers=config.workers,
        **shared,
    )
    mean, std = data.statistics(config.data, stream.image_shape[-1])
    dtype = jnp.dtype(config.precision)
    normalise = partial(data.normalise, mean=mean, std=std)

    def loss_fn(model: Any) -> models.LossFn:
        of_normalised = models.make_loss_fn(model)

        def of_raw(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
            image = normalise(batch["image"], dtype=dtype)
            return of_normalised(params, model_state, {**batch, "image": image}, key)

        return of_raw

    def evaluations(model: Any) -> list[Evaluate]:
        eval_fn, mesh = models.make_eval_fn(model, normalise), devices.make_mesh(config)
        return [
            jp.training.make_stream_evaluate(
                eval_fn,
                data.make_evaluation_stream(
                    config.data,
                    batch_size=_multiple(config.eval_batch_size, mesh),
                    split=split,
                    preprocess=evaluation,
                    # Each pass starts them anew, in seconds: too long for small images.
                    workers=config.workers if kind == "imagenet" else 0,
                    **shared,
                ),
                mesh=mesh,
            )
            for split in ("test", "validation")
        ]

    def identity() -> data.Identity:
        found = prepared.find_prepared(config.data, prepared.resolve_data_dir(config.data_dir))
        return data.identity_of_files(config.data, found, {"train": stream.num_examples})

    def loop(step: TrainStep, chunk_steps: int, compile_chunks: bool | None) -> TrainLoop:
        del compile_chunks  # each step waits for its batch
        return jp.training.make_stream_loop(step, stream, chunk_steps=chunk_steps)

    return Inputs(
        **_of_images(config, stream.num_classes, stream.image_shape),
        epoch_steps=stream.steps_per_epoch,
        loop=loop,
        batch_at=None,
        loss_fn=loss_fn,
        evaluations=evaluations,
        identity=identity,
    )


def _multiple(size: int, mesh: Any) -> int:
    """The next batch size that the devices divide; padding does not count."""
    count = 1 if mesh is None else mesh.size
    return -(-size // count) * count
