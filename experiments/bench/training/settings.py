"""What is measured, and how much."""

import dataclasses
import pathlib
from typing import Literal

import jax

from experiments.bench.common import document
from experiments.bench.training import problems

LEAST_PAIRS, MOST_PAIRS = 6, 12  # an interval of 95 % takes 6


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time training loops."""

    models: tuple[str, ...] = ("lenet_300_100", "resnet20", "resnet56")
    """Models: lenet_300_100, resnet20, resnet56."""

    batches: tuple[int, ...] = (128, 1024)
    """Images in a batch."""

    pairs: int | None = None
    """Pairs of ours with each other loop, at least 6. Default: what seconds_per_side allows of 6 to
    12."""

    block_seconds: float = 0.5
    """How long a side of a pair runs at least, in whole steps."""

    seconds_per_side: float = 100.0
    """How long our side of the pairs may take; a case is skipped if a first step says that it would
    take longer."""

    images: int = 45_000
    """Training images of each shape, at least those of a batch."""

    evaluated: int | None = None
    """Images that are evaluated for the parts of a whole run; the time is scaled to 10,000.
    Default: 1,000 on a CPU, 10,000 elsewhere."""

    sparsity: float = 0.9
    """Fraction removed, in (0, 1)."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32. PyTorch uses autocast for bfloat16."""

    convolutions: Literal["eigen", "default"] = "eigen"
    """How XLA computes convolutions on a CPU: by Eigen, or as jaxlib does by default, which is
    slower. Other devices ignore it."""

    seed: int = 0
    """Seed of parameters, data and the order within pairs."""

    out: pathlib.Path = pathlib.Path("runs/bench/training.json")
    """File for the result; the tables go beside it, with the suffixes .md and .csv."""

    def evaluated_images(self) -> int:
        """How many images are evaluated."""
        return self.evaluated or (1_000 if jax.default_backend() == "cpu" else 10_000)


def check(settings: Settings) -> None:
    """Raises for what can be seen wrong before anything is measured."""
    document.check_names(settings, "models", problems.SHAPES)
    if not settings.batches:
        raise ValueError("batches is empty. The usual ones are 128 1024.")
    document.check_fraction("sparsity", settings.sparsity)
    document.check_least(settings, batches=1, pairs=LEAST_PAIRS, images=1, evaluated=1, seed=0)
    document.check_least(settings, block_seconds=0, seconds_per_side=0)
