"""Reads a prepared segmentation set into memory, without TensorFlow."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.data import check_pixels
from experiments.errors import UnreadableError
from experiments.prepared import command, find_prepared, resolve_data_dir
from experiments.tasks import check_segmentation
from experiments.tasks._texts import open_sources

from ._data import Scenes, make_scenes

# What sets call a pixel that does not count; others, that of PASCAL VOC and Cityscapes.
_VOID = {"camvid": 11}
_USUAL_VOID = 255


def read(config: Config, say: Callable[[str], object] | None) -> Scenes:
    """Reads the set of a configuration.

    Where it has no validation split, the last tenth of its training split is that.

    Raises:
      ValueError, FileNotFoundError: if it is not there, has not the fields, or cannot be read.
    """
    name = config.data
    check_segmentation(name, config.data_dir)
    prepared = find_prepared(name, resolve_data_dir(config.data_dir))
    if say is not None:
        say(f"Reading {name} {prepared.version} from {prepared.data_dir} ...")
    names, sources = open_sources(name, prepared)
    repair = f"{command(name, prepared.data_dir)} --overwrite"
    found = {split: _decoded(name, split, source, repair) for split, source in sources.items()}
    train, test = found[names.train], found[names.test]
    if names.validation is None:
        kept = len(train[0]) - len(train[0]) // 10
        train, validation = (
            (train[0][:kept], train[1][:kept]),
            (train[0][kept:], train[1][kept:]),
        )
    else:
        validation = found[names.validation]
    void = _VOID.get(name, _USUAL_VOID) if config.void_class is None else config.void_class
    splits = {"train": train, "validation": validation, "test": test}
    if not len(validation[0]):
        raise ValueError(f"{name} leaves no image for validation; it has {len(train[0])} in all.")
    return make_scenes(name, splits, void_class=void, version=prepared.version)


def _decoded(name: str, split: str, source: Any, repair: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, height, width, channels] and masks [n, height, width] of a split."""
    features = source.dataset_info.features
    images, masks = [], []
    for index in range(len(source)):
        try:
            one = source[index]
            for field, found in (("image", images), ("segmentation_mask", masks)):
                check_pixels(one[field])
                found.append(features[field].decode_example_np(one[field]))
        except MemoryError:
            raise  # not the file's fault
        except Exception as error:
            raise UnreadableError(
                f"{name}, split {split!r}: example {index} cannot be read: {type(error).__name__}: "
                f"{error}. Prepare it again: {repair}"
            ) from error
        size, other = images[-1].shape, masks[-1].shape
        if size != images[0].shape or other != (*size[:2], 1):
            raise ValueError(
                f"{name}, split {split!r}: image {index} has the shape {size} and its mask {other}"
                f", and the first image {images[0].shape}; images and masks of one size are "
                "needed, the mask with one channel."
            )
    return np.stack(images), np.stack(masks)[..., 0]
