"""Prepared tensorflow-datasets sets, opened or read into memory without TensorFlow."""

import numpy as np

from experiments.prepared import Prepared, command, import_tfds

from ._dataset import Split, make_split
from ._examples import Examples
from ._features import check_features

# Large enough to amortise the reader, small enough that raw records add nothing to the memory.
_CHUNK = 4096


def open_tfds(name: str, prepared: Prepared) -> tuple[Examples, Examples]:
    """Open a prepared set without reading its images.

    Args:
        name: name of the set.
        prepared: where `find_prepared` found it.

    Returns:
        (training split, test split). A set without a labelled split named "test" is tested on its
        "validation" split: that is ImageNet, whose test labels were never published.

    Raises:
        ValueError: not image classification, a split is missing or empty, or files are damaged.
    """
    tfds = import_tfds()
    repair = f"{command(name, prepared.data_dir)} --overwrite"
    try:
        check_features(prepared.folder)
        info = tfds.builder_from_directory(prepared.folder).info
        features, splits = info.features, sorted(info.splits)
        kinds = {key: type(feature).__name__ for key, feature in features.items()}
    except Exception as error:
        raise ValueError(
            f"{name}: dataset_info.json or features.json in {prepared.folder} cannot be read:"
            f" {type(error).__name__}: {error}. Prepare the set again: {repair}"
        ) from error
    if kinds.get("image") != "Image" or kinds.get("label") != "ClassLabel":
        raise ValueError(
            f"{name} is not an image-classification set: it needs the features image (Image) and"
            f" label (ClassLabel) and has {kinds}"
        )

    # `Examples` decodes the image itself, once its size is known; others are not wanted.
    encoded = [key for key, kind in kinds.items() if kind in ("Image", "Video")]

    def examples(split: str) -> Examples:
        if not info.splits[split].num_examples:
            raise ValueError(
                f"{name} in {prepared.folder} has an empty split {split!r}; prepare it again:"
                f" {repair}"
            )
        source = tfds.data_source(
            f"{name}:{prepared.version}",
            split=split,
            data_dir=prepared.data_dir,
            download=False,
            decoders={key: tfds.decode.SkipDecoding() for key in encoded},
        )
        parts = info.splits[split].file_instructions
        files = tuple((str(part.filename), part.take) for part in parts)
        return Examples(name, split, source, files, features["label"].num_classes, repair)

    tests = [examples(split) for split in ("test", "validation") if split in splits]
    if "train" not in splits or not tests:
        raise ValueError(
            f"{name} has the splits {splits}; it needs 'train' and one of 'test', 'validation'"
        )
    # The last one is taken unseen: if that has no labels either, reading it says so.
    chosen = tests[0] if len(tests) == 1 or tests[0].has_labels() else tests[1]
    return examples("train"), chosen


def read_tfds(name: str, prepared: Prepared) -> tuple[Split, Split, int]:
    """Read all images and labels of a prepared set.

    Images of 60,000 examples are decoded in about a quarter of a minute on one core.

    Args:
        name: name of the set.
        prepared: where `find_prepared` found it.

    Returns:
        (training split, test split, number of classes), the splits as `open_tfds` chooses them.

    Raises:
        ValueError: as `open_tfds`, an example cannot be read, or image sizes differ.
    """
    train, test = open_tfds(name, prepared)
    return _read(train), _read(test), train.num_classes


def _read(examples: Examples) -> Split:
    """Decode one split into two preallocated arrays."""
    n = len(examples)
    shape = examples.read([0])[0][0].shape
    image, label = np.empty((n, *shape), np.uint8), np.empty(n, np.int32)
    for start in range(0, n, _CHUNK):
        found = examples.read(range(start, min(start + _CHUNK, n)))
        for i, (one, its_label) in enumerate(found, start):
            if one.shape != shape or one.dtype != np.uint8:
                raise ValueError(
                    f"{examples.name}: image {i} is {one.dtype} {one.shape} and image 0 is uint8"
                    f" {shape}; only uint8 images of one size can be held in one array"
                )
            image[i], label[i] = one, its_label
    return make_split(image, label)
