"""What a run is fed with: the set in memory, or streamed from the disk."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import caches, data, devices, models, prepared
from experiments.config import Config
from jaxprune.training import Evaluate, TrainLoop, TrainStep


class Inputs(NamedTuple):
    """What a run is fed with.

    Attributes:
      num_classes: number of classes.
      image_shape: (height, width, channels) of an image as the network sees it.
      epoch_steps: steps an epoch.
      loop: ``loop(step, chunk_steps, compile_chunks)`` makes the training loop.
      batch_at: the batch function; `None` if streamed.
      loss_fn: makes, of a loss of normalised images, that of the batches here.
      evaluations: ``evaluations(model)``: on the test set, and on the validation set.
      identity: computes what tells these data from others.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    epoch_steps: int
    loop: Callable[[TrainStep, int, bool | None], TrainLoop]
    batch_at: Any
    loss_fn: Callable[[models.LossFn], models.LossFn]
    evaluations: Callable[[Any], list[Evaluate]]
    identity: Callable[[], data.Identity]


def make_inputs(
    config: Config,
    dataset: data.Dataset | None = None,
    *,
    say: Callable[[str], object] | None = None,
) -> Inputs:
    """The inputs of a configuration.

    Args:
      config: the configuration.
      dataset: data to use instead of loading ``config.data``.
      say: told in a line what takes long.

    Raises:
      ValueError: for a value out of range.
      FileNotFoundError: if the data set is not prepared.
    """
    if config.stream and dataset is None:
        return _streamed(config)
    if dataset is None:
        cache = caches.folder("data", config.data_cache)
        dataset = data.load(config.data, data_dir=config.data_dir, cache=cache, say=say)
    return _resident(config, dataset)


def _resident(config: Config, dataset: data.Dataset) -> Inputs:
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
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        epoch_steps=data.steps_per_epoch(len(dataset.train["label"]), config.batch_size),
        loop=loop,
        batch_at=batch_at,
        loss_fn=lambda loss_fn: loss_fn,
        evaluations=evaluations,
        identity=partial(data.identity, dataset),
    )


def _streamed(config: Config) -> Inputs:
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

    def loss_fn(of_normalised: models.LossFn) -> models.LossFn:
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
        num_classes=stream.num_classes,
        image_shape=stream.image_shape,
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
