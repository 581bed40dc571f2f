"""The options of pruning a pretrained network. What is imported here does not load JAX."""

import dataclasses
import math
import pathlib
import re
from typing import Annotated, Any, NamedTuple

import tyro

from experiments import registry

MODELS = registry.models_in("experiments.pruning.subjects")
METHODS = ("magnitude", *registry.LAYERWISE)
RETRAININGS = {
    "none": "as the method left the weights",
    "refit": "the kept weights by least squares, layer by layer",
    "biases": "training of biases and norm scales alone",
    "perp": "training of biases, norm scales and MaskLoRA",
    "reconstruct": "each window learns to do what the dense one did",
    "distill": "training of all kept weights with the dense network as teacher",
    "full": "training of all kept weights",
}


def _help(text: str) -> Any:
    return tyro.conf.arg(help=" ".join(text.split()))


_MODEL = f"""What is pruned: {", ".join(MODELS)}, or a FOLDER of Hugging Face (config.json and
*.safetensors of a causal language model, with tokenizer.json)."""
_METHOD = f"""magnitude, per layer; or what jp.layerwise has:
{registry.listing(registry.LAYERWISE)}."""
_RETRAIN = f"""What follows: {"; ".join(f"{k}: {v}" for k, v in RETRAININGS.items())}."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Prune a pretrained network with some data, repair it, measure it and save it."""

    model: Annotated[str, _help(_MODEL)] = "g2p"

    method: Annotated[str, _help(_METHOD)] = "wanda"

    sparsity: str = "0.5"
    """Fraction removed of every kernel, in (0, 1); or N:M, such as 2:4, which keeps N of each M
    along the inputs."""

    retrain: Annotated[str, _help(_RETRAIN)] = "none"

    calibration: int = 128
    """Examples that the method sees: sentences, images, words, or stretches of text."""

    length: int | None = None
    """Tokens of a stretch of text, for language models; default: 128, or what the model has."""

    seed: int = 0
    """Seed of the choice of calibration examples and of training."""

    data: str | None = None
    """What the examples come from: for minilm a prepared set of tensorflow-datasets with sentences
    (default multi30k), for mobilenet one with images (cifar10), for a FOLDER a text file (default:
    the text that gpt has). g2p and gpt have their own."""

    text_field: str = "en"
    """Field of the set with the sentences, for minilm."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs."""

    image_size: int = 128
    """Pixels a side that images are scaled to, for mobilenet; it was trained with 224."""

    examples: int = 1000
    """Examples to measure on, of a split that neither calibration nor training sees."""

    steps: int = 300
    """Steps of training, for the ways of retraining that train."""

    batch_size: int | None = None
    """Examples a step and a calibration batch; default: the model's own."""

    learning_rate: float | None = None
    """Highest learning rate of the schedule (ALLR, with 10 % warm-up); default: the model's own."""

    rank: int = 16
    """Rank of MaskLoRA."""

    out: pathlib.Path | None = None
    """Folder for the results; default: runs/prune/MODEL-METHOD-SPARSITY-RETRAIN-sSEED."""

    compilation_cache: str | None = None
    """Folder for compiled programs, or off; default: in the user's cache folder."""

    def folder(self) -> pathlib.Path:
        """The folder of the results."""
        if self.out is not None:
            return self.out
        model = self.model if self.model in MODELS else pathlib.Path(self.model).resolve().name
        what = f"{model}-{self.method}-{self.sparsity.replace(':', '_')}-{self.retrain}"
        return pathlib.Path("runs/prune") / f"{what}-s{self.seed}"


class Target(NamedTuple):
    """How much goes.

    Attributes:
      sparsity: fraction removed; `None` with a pattern.
      kept: N of N:M.
      group: M.
    """

    sparsity: float | None
    kept: int | None = None
    group: int | None = None

    @property
    def fraction(self) -> float:
        """The fraction removed."""
        if self.sparsity is not None:
            return self.sparsity
        assert self.kept is not None
        assert self.group is not None
        return 1 - self.kept / self.group


def target(text: str) -> Target:
    """What a sparsity on the command line means.

    Raises:
      ValueError: if it is neither a fraction nor N:M.

    Example:
      >>> target("2:4").fraction, target("0.7").sparsity
      (0.5, 0.7)
    """
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        kept, group = map(int, match.groups())
        if 0 < kept < group:
            return Target(None, kept, group)
    else:
        try:
            if 0 < float(text) < 1:
                return Target(float(text))
        except ValueError:
            pass
    raise ValueError(
        f"sparsity is {text!r}, but must be the fraction removed, in (0, 1), or N:M with N < M, "
        "such as 2:4."
    )


def check(settings: Settings) -> None:
    """Raises for whatever can be seen wrong before JAX is imported.

    Raises:
      ValueError: naming the option, its value and what is known.
      FileNotFoundError: if a folder or a file is not there.
    """
    from experiments.checks import check_name

    check_name("method", settings.method, METHODS)
    check_name("retrain", settings.retrain, tuple(RETRAININGS))
    target(settings.sparsity)
    folder = pathlib.Path(settings.model)
    if settings.model not in MODELS:
        if not folder.is_dir():
            raise ValueError(
                f"model is {settings.model!r}, which is neither a folder nor one of "
                f"{', '.join(MODELS)}."
            )
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"there is no {folder / name}; see --help for --model.")
    for name in ("calibration", "examples", "steps", "rank", "image_size", "batch_size", "length"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is at least 1; got {value}.")
    rate = settings.learning_rate
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"learning_rate is a positive number; got {rate}.")
    if settings.data is not None and settings.model in ("g2p", "gpt"):
        raise ValueError(f"{settings.model} has data of its own; leave --data out.")
    if settings.retrain == "distill" and settings.model in ("minilm", "mobilenet"):
        raise ValueError(
            f"there are no labels for {settings.model}: --retrain full follows the dense network "
            "already. Take that."
        )
