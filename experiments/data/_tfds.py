"""Read prepared tensorflow-datasets sets into memory, without TensorFlow."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ._dataset import Split, make_split
from ._locate import Prepared, import_tfds

# Large enough to amortise the reader, small enough that raw records add nothing to the memory.
_CHUNK = 4096


def read_tfds(name: str, prepared: Prepared) -> tuple[Split, Split, int]:
    """Read all images and labels of a prepared set.

    Images of 60,000 examples are decoded in about a quarter of a minute on one core.

    Args:
        name: name of the set.
        prepared: where `find_prepared` found it.

    Returns:
        (training split, test split, number of classes). A set without a split named "test" is
        tested on its "validation" split, as is the custom for ImageNet.

    Raises:
        ValueError: not image classification, a split is missing, or image sizes differ.
    """
    tfds = import_tfds()
    # It warns that OpenCV would decode faster; Pillow is what we install, and fast enough.
    logging.getLogger("absl").addFilter(lambda record: "OpenCV" not in record.getMessage())

    def source(split: str) -> Any:
        return tfds.data_source(
            f"{name}:{prepared.version}",
            split=split,
            data_dir=prepared.data_dir,
            download=False,
        )

    info = tfds.builder_from_directory(prepared.folder).info
    features, splits = info.features, sorted(info.splits)
    kinds = {key: type(feature).__name__ for key, feature in features.items()}
    if kinds.get("image") != "Image" or kinds.get("label") != "ClassLabel":
        raise ValueError(
            f"{name} is not an image-classification set: it needs the features image (Image) and"
            f" label (ClassLabel) and has {kinds}"
        )
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise ValueError(
            f"{name} has the splits {splits}; it needs 'train' and one of 'test', 'validation'"
        )
    return (
        _read(name, source("train"), prepared.folder),
        _read(name, source(test), prepared.folder),
        features["label"].num_classes,
    )


def _read(name: str, source: Any, folder: Path) -> Split:
    """Decode one split into two preallocated arrays."""
    n = len(source)
    if n == 0:
        raise ValueError(f"{name} in {folder} has an empty split; prepare it again")
    shape = source[0]["image"].shape
    image, label = np.empty((n, *shape), np.uint8), np.empty(n, np.int32)
    for start in range(0, n, _CHUNK):
        examples = source.__getitems__(list(range(start, min(start + _CHUNK, n))))
        for i, example in enumerate(examples, start):
            one = example["image"]
            if one.shape != shape or one.dtype != np.uint8:
                raise ValueError(
                    f"{name}: image {i} is {one.dtype} {one.shape} and image 0 is uint8 {shape};"
                    " only uint8 images of one size can be held in one array"
                )
            image[i], label[i] = one, example["label"]
    return make_split(image, label)
