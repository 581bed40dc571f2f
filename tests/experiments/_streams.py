"""A small prepared set whose images carry their numbers, and what tests of streams do with it."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.data import make_stream
from tests.experiments.test_data_load import write_set


def make_numbered(n, shape=(6, 5, 3)):
    """Random images whose first two values are their index; labels 0, 1, 2, 0, ..."""
    images = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return images, np.arange(n) % 3


def numbers(image):
    return image[:, 0, 0, :2].astype(int) @ (1, 256)


def write_numbered(folder):
    """Write the set "tiny": 50 examples to train on and 11 to test on."""
    write_set(folder, {"train": make_numbered(50), "test": make_numbered(11)})
    return folder


def train_file(folder):
    """The file of its training split."""
    return next(folder.glob("tiny/*/tiny-train.array_record*"))


def stream_of(data_dir, **options):
    return make_stream("tiny", **{"data_dir": data_dir, "batch_size": 8, "seed": 0, **options})


def take(stream, first, count=1):
    with contextlib.closing(stream(first)) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


def real(name):
    folder = Path(os.environ.get("JAXPRUNE_DATA_DIR", "/nowhere"), name)
    if not folder.is_dir():
        pytest.skip(f"JAXPRUNE_DATA_DIR does not name a directory with a prepared {name}")
    return folder
