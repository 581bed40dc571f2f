"""Which examples of a prepared set belong to a split, without reading an image."""

import os
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from experiments.prepared import find_prepared, resolve_data_dir

from ._dataset import hold_out, make_split
from ._examples import Examples
from ._tfds import open_tfds

SplitName = Literal["train", "validation", "test"]
"""The three splits that `load` makes."""


def open_split(
    name: str,
    split: SplitName,
    *,
    data_dir: str | os.PathLike[str] | None,
    validation: float,
    held_out_seed: int,
) -> tuple[Examples, np.ndarray]:
    """Open a split of a prepared set: the same examples in the same order as `load` reads.

    Args:
        name: a prepared set with the features image and label.
        split: "train", "validation" (held out of the set's own training split) or "test".
        data_dir: where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        validation: fraction of the training split that is held out, in [0, 1).
        held_out_seed: chooses the validation examples; `load` calls it `seed`.

    Returns:
        (examples on disk, int [n] which of them are the split, ascending).

    Raises:
        ValueError: unknown name or split, an empty split, or files that cannot be read.
        FileNotFoundError: the set is not prepared; the message has the command that prepares it.
    """
    known: Sequence[str] = get_args(SplitName)
    if split not in known:
        raise ValueError(f"unknown split {split!r} of {name}; take one of {', '.join(known)}")
    if not 0 <= validation < 1:
        raise ValueError(
            f"validation={validation} must be a fraction in [0, 1), such as 0.1 for every tenth"
        )
    if name == "digits":
        raise ValueError(
            "digits come with scikit-learn and not in files that could be streamed; they fit in"
            " memory: take load('digits') and make_batch_at"
        )
    train, test = open_tfds(name, find_prepared(name, resolve_data_dir(data_dir)))
    if split == "test":
        return test, np.arange(len(test))
    n = len(train)
    # `load` holds out of images and labels. Here the labels are the indices and the images have no
    # pixel, so that there is one rule for who is held out, and not two that may drift apart.
    numbered = make_split(np.empty((n, 0), np.uint8), np.arange(n))
    kept, held = hold_out(numbered, round(validation * n), held_out_seed)
    chosen = (kept if split == "train" else held)["label"]
    if not len(chosen):
        raise ValueError(
            f"validation={validation} leaves the split {split!r} of {name} no example of {n};"
            f" {'lower' if split == 'train' else 'raise'} it"
        )
    return train, chosen
