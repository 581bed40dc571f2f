"""What a run is fed with, and who makes it: the interface of a task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from experiments import data, models, tasks
from experiments.config import Config
from jaxprune.training import Evaluate, TrainLoop, TrainStep


class Inputs(NamedTuple):
    """What a run is fed with.

    Attributes:
      epoch_steps: steps an epoch.
      model: ``model(dtype, axis_name=None)`` makes the network for these data. ``axis_name`` is
        given only to networks with batch normalisation, for `jax.pmap`.
      example: what the network is called with beside ``train``: shapes and types, of one example.
      arguments: ``arguments(batch)`` takes the same from a batch.
      loss_fn: ``loss_fn(model)`` makes the loss of the batches here.
      evaluations: ``evaluations(model)``: on the test set, and on the validation set.
      loop: ``loop(step, chunk_steps, compile_chunks)`` makes the training loop.
      batch_at: the batch function; `None` if streamed.
      identity: computes what tells these data from others.
      note: said under the table of results, such as how a score is computed.
      files: texts to write into the run folder, by name, such as a vocabulary.
      num_classes: of image classification.
      image_shape: (height, width, channels) of an image as the network sees it; of image
        classification.
    """

    epoch_steps: int
    model: Callable[..., Any]
    example: tuple[jax.ShapeDtypeStruct, ...]
    arguments: Callable[[Mapping[str, jax.Array]], tuple[jax.Array, ...]]
    loss_fn: Callable[[Any], models.LossFn]
    evaluations: Callable[[Any], list[Evaluate]]
    loop: Callable[[TrainStep, int, bool | None], TrainLoop]
    batch_at: Any
    identity: Callable[[], data.Identity]
    note: str | None = None
    files: Mapping[str, str] = {}
    num_classes: int = 0
    image_shape: tuple[int, ...] = ()


class Task(NamedTuple):
    """What the package of a task must have, under the name TASK.

    Attributes:
      read: ``read(config, say)`` reads the data into memory. ``say`` is told in a line what takes
        long, or `None`.
      make_inputs: ``make_inputs(config, dataset)`` feeds a run with what ``read`` has read.
      depends_on: the options that ``read`` looks at.
      stream: ``stream(config)`` feeds a run from the disk; `None` if the task has no such way.
    """

    read: Callable[[Config, Callable[[str], object] | None], Any]
    make_inputs: Callable[[Config, Any], Inputs]
    depends_on: tuple[str, ...]
    stream: Callable[[Config], Inputs] | None = None


def make_inputs(
    config: Config, dataset: Any = None, *, say: Callable[[str], object] | None = None
) -> Inputs:
    """The inputs of a configuration.

    Args:
      config: the configuration.
      dataset: data to use instead of reading those of the configuration.
      say: told in a line what takes long.

    Raises:
      ValueError: for a value out of range.
      FileNotFoundError: if the data set is not prepared.
    """
    task: Task = tasks.load(config.task)
    if config.stream and dataset is None:
        assert task.stream is not None, "checked before"
        return task.stream(config)
    return task.make_inputs(config, task.read(config, say) if dataset is None else dataset)
