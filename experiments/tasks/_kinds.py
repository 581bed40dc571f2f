"""What is known of each task before anything is read: its words, measures and defaults."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import registry


class Measure(NamedTuple):
    """A number that says how good a network is.

    Attributes:
      name: in logs and tables, and of what an evaluation returns.
      label: in pictures.
      short: in the line of progress.
      scale: what it is multiplied with to be shown.
      unit: of the product.
      higher_is_better: whether more is better.
    """

    name: str
    label: str
    short: str
    scale: float = 100.0
    unit: str = "%"
    higher_is_better: bool = True


class Kind(NamedTuple):
    """A task, by what commands and reports must know of it.

    Attributes:
      name: on the command line; its code is in the folder of this name.
      measures: of the test set, a column of summary.csv each; the first is that of tables.
      curve: of every batch, validation and test; it is drawn over the steps.
      examples: what is counted, in the plural.
      short: one of them, in the line of progress.
      models: the table of its models.
      defaults: options whose default is not that of image classification.
      options: options that only some tasks take, and this one does.
    """

    name: str
    measures: tuple[Measure, ...]
    curve: Measure
    examples: str
    short: str
    models: str
    defaults: Mapping[str, Any] = {}
    options: tuple[str, ...] = ()

    @property
    def measure(self) -> Measure:
        """The measure of tables and verdicts."""
        return self.measures[0]

    @property
    def speed(self) -> str:
        """The column of the speed of training."""
        return f"{self.examples}_per_second"


_ACCURACY = Measure("accuracy", "accuracy", "acc")
_MEAN_IOU = Measure("mean_iou", "mean IoU", "mIoU")
_PIXELS = Measure("pixel_accuracy", "accuracy of pixels", "acc")
_TOKENS = Measure("token_accuracy", "accuracy of tokens", "acc")
_BLEU = Measure("bleu", "BLEU", "BLEU", scale=1.0, unit="")
_PERPLEXITY = Measure("perplexity", "perplexity", "ppl", 1.0, "", higher_is_better=False)

DEFAULT = "image_classification"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            DEFAULT,
            measures=(_ACCURACY,),
            curve=_ACCURACY,
            examples="images",
            short="img",
            models="experiments.models",
        ),
        Kind(
            "segmentation",
            measures=(_MEAN_IOU, _PIXELS),
            curve=_MEAN_IOU,
            examples="images",
            short="img",
            models="experiments.tasks.segmentation",
            defaults={
                "data": "",
                "model": "pspnet",
                "batch_size": 8,
                "eval_batch_size": 32,
                "learning_rate": 0.05,
                "dense_schedule": "linear",
            },
            options=("width", "depth", "void_class"),
        ),
        Kind(
            "translation",
            measures=(_BLEU, _TOKENS),
            curve=_TOKENS,
            examples="sentences",
            short="sent",
            models="experiments.tasks.translation",
            defaults={
                "data": "",
                "model": "transformer",
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "dense_schedule": "linear",
                "batch_size": 64,
                "eval_batch_size": 100,
                "vocabulary": 4000,
                "max_length": 96,
            },
            options=(
                "width",
                "depth",
                "heads",
                "dropout",
                "max_length",
                "vocabulary",
                "text_fields",
                "buckets",
            ),
        ),
        Kind(
            "language_modelling",
            measures=(_PERPLEXITY, _TOKENS),
            curve=_PERPLEXITY,
            examples="sequences",
            short="seq",
            models="experiments.tasks.language_modelling",
            defaults={
                "data": "",
                "model": "gpt",
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "dense_schedule": "linear",
                "batch_size": 16,
                "eval_batch_size": 64,
            },
            options=(
                "width",
                "depth",
                "heads",
                "dropout",
                "max_length",
                "vocabulary",
                "text_fields",
            ),
        ),
    )
}
"""The tasks by their names on the command line."""


def models_of(task: str) -> tuple[str, ...]:
    """The names of the models of a task, without importing them."""
    return registry.models_in(KINDS[task].models)


def load(task: str) -> Any:
    """The task of a name, an `experiments.inputs.Task`. This imports its code, and JAX."""
    return importlib.import_module(f"experiments.tasks.{task}").TASK
