"""One entrance to all data sets."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

from experiments.prepared import find_prepared, resolve_data_dir

from ._augment import CropFlip
from ._cache import Decoded, kept
from ._dataset import Dataset, channel_statistics, hold_out
from ._digits import read_digits
from ._imagenet import IMAGENET_MEAN, IMAGENET_STD
from ._tfds import read_tfds

# name -> (mean, std) as published with the training recipes, or None: computed from the images.
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
STATISTICS = {
    "digits": None,
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
}
_AUGMENTATION = {"cifar10": CropFlip(pad=4), "cifar100": CropFlip(pad=4)}

PREPROCESSING = {"cifar10": "crop_flip", "cifar100": "crop_flip", "imagenet2012": "imagenet"}
"""What is done to streamed images of a set: "crop_flip", "imagenet", or nothing if not named."""


def statistics(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the images of a set are normalised with, without reading it.

    Args:
        name: name of the set.
        channels: 1 or 3, or others.

    Returns:
        Those published with its training recipes; of other sets, those of ImageNet for three
        channels, else 0.5 and 0.5. In units where a pixel lies in [0, 1].
    """
    known = STATISTICS.get(name)
    if known is not None:
        return known
    return (
        (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    )


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    seed: int = 42,
    cache: Path | None = None,
    say: Callable[[str], object] | None = None,
) -> Dataset:
    """Load a data set into memory.

    `digits` comes with scikit-learn. Every other name is an image-classification set of
    tensorflow-datasets, prepared on disk as array_record; it is read without TensorFlow, and
    nothing is ever downloaded.

    Args:
        name: a set with settings of its own (`experiments.prepared.KNOWN`), or any prepared one
            with the features image and label.
        data_dir: where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        validation: fraction of the training split that is held out, in [0, 1); rounded to the
            nearest number of examples.
        seed: chooses the validation examples. Keep it when you vary the seed of training.
        cache: folder that keeps decoded images; not used for the digits. Omitted, they are decoded
            every time.
        say: told in a line what is read, before it is, and what is wrong with the cache.

    Returns:
        The data set. Channel statistics of sets without settings of their own, and of the digits,
        are computed from its training images (without the validation images).

    Raises:
        ValueError: unknown name, a fraction outside [0, 1), or files that need TensorFlow.
        FileNotFoundError: the set is not prepared; the message has the command that prepares it.

    Example:
        >>> digits = load("digits")
        >>> digits.train["image"].shape, digits.num_classes
        ((1293, 8, 8, 1), 10)
    """
    if not 0 <= validation < 1:
        raise ValueError(
            f"validation={validation} must be a fraction in [0, 1), such as 0.1 for every tenth"
        )
    say = say or _silent
    if name == "digits":
        say("Reading digits ...")
        (train, test), num_classes = read_digits(), 10
        version = f"scikit-learn {importlib.metadata.version('scikit-learn')}"
    else:
        prepared = find_prepared(name, resolve_data_dir(data_dir))
        version = prepared.version
        say(f"Reading {name} {prepared.version} from {prepared.data_dir} ...")

        def decode() -> Decoded:
            return Decoded(*read_tfds(name, prepared))

        train, test, num_classes = (
            decode() if cache is None else kept(decode, name, prepared, cache, say)
        )
    train, held_out = hold_out(train, round(validation * len(train["label"])), seed)
    if not len(train["label"]):
        raise ValueError(f"validation={validation} leaves {name} no training example; lower it")
    mean, std = STATISTICS.get(name) or channel_statistics(train["image"])
    return Dataset(
        name=name,
        train=train,
        validation=held_out,
        test=test,
        num_classes=num_classes,
        mean=mean,
        std=std,
        augmentation=_AUGMENTATION.get(name),
        version=version,
    )


def _silent(line: str) -> None:
    del line
