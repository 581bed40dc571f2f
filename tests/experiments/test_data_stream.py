"""Streams: order, resuming, sharding over processes, padding, and bad arguments."""

import dataclasses

import numpy as np
import pytest

from experiments.data import (
    PadCropFlip,
    ResizeCentreCrop,
    load,
    make_evaluation_stream,
    make_stream,
)
from experiments.data._examples import Examples
from tests.experiments._streams import (
    assert_equal,
    make_numbered,
    numbers,
    real,
    stream_of,
    take,
    write_numbered,
)
from tests.experiments.test_data_load import write_set


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("data"))


def concatenated(parts):
    """Batches of several processes, as the batches of one."""
    return [
        {key: np.concatenate([batch[key] for batch in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]


def test_what_a_stream_says_of_itself(data_dir):
    stream = stream_of(data_dir)
    assert (stream.num_examples, stream.num_classes) == (45, 3)
    assert (stream.steps_per_epoch, stream.image_shape) == (5, (6, 5, 3))
    (batch,) = take(stream, 0)
    assert type(batch["image"]) is np.ndarray
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (8, 6, 5, 3))
    assert (batch["label"].dtype, batch["label"].shape) == (np.int32, (8,))
    assert stream_of(data_dir, preprocess=ResizeCentreCrop(4, 6)).image_shape == (4, 4, 3)


def test_an_epoch_has_each_example_at_most_once(data_dir):
    images, labels = make_numbered(50)
    batches = take(stream_of(data_dir), 0, 20)
    for batch in batches:
        found = numbers(batch["image"])
        np.testing.assert_array_equal(batch["image"], images[found])
        np.testing.assert_array_equal(batch["label"], labels[found])
    epochs = np.concatenate([numbers(batch["image"]) for batch in batches]).reshape(4, 40)
    assert all(len(set(epoch)) == 40 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    # 45 examples in batches of 8: five are dropped, others in other epochs.
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    held_out = make_evaluation_stream("tiny", data_dir=data_dir, batch_size=5, split="validation")
    (held,) = held_out()
    assert not set(epochs.ravel()) & set(numbers(held["image"]))


@pytest.mark.parametrize("preprocess", [None, PadCropFlip(2)])
def test_the_batch_of_a_step_is_the_same_wherever_one_starts(data_dir, preprocess):
    stream = stream_of(data_dir, preprocess=preprocess)
    batches = take(stream, 0, 12)
    assert_equal(batches, take(stream_of(data_dir, preprocess=preprocess), 0, 12))
    for first in (1, 4, 5, 11):
        assert_equal(batches[first:], take(stream, first, 12 - first))
    assert_equal(take(stream, np.int64(7)), batches[7:8])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_rows_of_the_processes_are_the_global_batch(data_dir, count):
    options = {"preprocess": PadCropFlip(2), "process_count": count}
    whole = take(stream_of(data_dir, preprocess=PadCropFlip(2)), 3, 9)
    parts = [take(stream_of(data_dir, process_index=p, **options), 3, 9) for p in range(count)]
    assert_equal(concatenated(parts), whole)


def test_random_numbers_differ_between_rows_steps_epochs_and_seeds(tmp_path):
    white = np.full((16, 6, 6, 3), 255, np.uint8)
    write_set(tmp_path, {"train": (white, [0] * 16), "test": (white, [0] * 16)})
    options = {"preprocess": PadCropFlip(3), "validation": 0}
    batches = take(stream_of(tmp_path, **options), 0, 4)
    batches += take(stream_of(tmp_path, seed=1, **options), 0)
    assert len({batch["image"].tobytes() for batch in batches}) == 5
    assert len({image.tobytes() for image in batches[0]["image"]}) > 4


def test_seeds_give_orders_of_their_own(data_dir):
    epochs = {
        (seed, epoch): tuple(numbers(take(stream_of(data_dir, seed=seed), 5 * epoch)[0]["image"]))
        for seed in (0, 1, 2, 2**70)
        for epoch in (0, 1, 2)
    }
    # Also (0, 1) and (1, 0), which are the same order where epochs count up from the seed.
    assert len(set(epochs.values())) == len(epochs)


def test_the_order_is_roughly_uniform(data_dir):
    stream = stream_of(data_dir, batch_size=1, validation=0)
    # Who comes first in an epoch: 50 examples, 500 epochs; chi-square with 49 degrees of freedom.
    order = dataclasses.replace(stream, _make=_indices_only(stream._make))
    first = [int(take(order, 50 * epoch)[0]["index"][0]) for epoch in range(500)]
    counts = np.bincount(first, minlength=50)
    assert float(np.sum((counts - 10) ** 2 / 10)) < 49 + 5 * np.sqrt(2 * 49)


@dataclasses.dataclass(frozen=True)
class _IndicesOnly:
    shard: object

    def __call__(self, step, indices):
        return {"index": indices}


def _indices_only(make):
    return _IndicesOnly(make.shard)


def test_seeking_reads_nothing_but_the_batches_asked_for(data_dir, monkeypatch):
    stream = stream_of(data_dir)
    rows, real = [], Examples.read
    monkeypatch.setattr(Examples, "read", lambda self, i: rows.append(len(i)) or real(self, i))
    take(stream, 10**15)
    # The batch, and at most those made ahead.
    assert sum(rows) <= 4 * 8


@pytest.mark.parametrize("validation", [0.1, 0.25])
def test_splits_are_those_of_load(data_dir, validation):
    loaded = load("tiny", data_dir=data_dir, validation=validation)
    for split in ("train", "validation", "test"):
        stream = make_evaluation_stream(
            "tiny", data_dir=data_dir, split=split, batch_size=4, validation=validation
        )
        batches = list(stream())
        assert len(batches) == stream.steps
        expected = getattr(loaded, split)
        assert stream.num_examples == len(expected["label"])
        for key in ("image", "label"):
            whole = np.concatenate([batch[key] for batch in batches])
            np.testing.assert_array_equal(whole[: stream.num_examples], expected[key])
    stream = stream_of(data_dir, batch_size=1, validation=validation)
    epoch = {int(numbers(b["image"])[0]) for b in take(stream, 0, stream.steps_per_epoch)}
    assert epoch == set(numbers(loaded.train["image"]))


def test_the_last_evaluation_batch_is_padded(data_dir):
    stream = make_evaluation_stream("tiny", data_dir=data_dir, batch_size=4)
    images, labels = make_numbered(11)
    batches = list(stream())
    assert [batch["weight"].tolist() for batch in batches] == [[1] * 4, [1] * 4, [1, 1, 1, 0]]
    assert all(batch["weight"].dtype == np.float32 for batch in batches)
    np.testing.assert_array_equal(batches[2]["image"][:3], images[8:])
    np.testing.assert_array_equal(batches[2]["label"], [*labels[8:], 0])
    assert batches[2]["image"].dtype == np.uint8
    assert not batches[2]["image"][3:].any()
    assert_equal(list(stream()), batches)


@pytest.mark.parametrize("batch_size", [4, 16, 24])
def test_evaluation_is_sharded_like_training(data_dir, batch_size):
    options = {"data_dir": data_dir, "batch_size": batch_size}
    whole = list(make_evaluation_stream("tiny", **options)())
    parts = [
        list(make_evaluation_stream("tiny", process_index=p, process_count=4, **options)())
        for p in range(4)
    ]
    assert_equal(concatenated(parts), whole)
    assert sum(batch["weight"].sum() for batch in whole) == 11


def test_a_stream_ends_once_and_closing_is_final(data_dir):
    batches = make_evaluation_stream("tiny", data_dir=data_dir, batch_size=11)()
    assert len(list(batches)) == 1
    assert list(batches) == []
    batches.close()
    batches = stream_of(data_dir)(0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="these batches were closed; call the stream again"):
        next(batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 46}, "batch_size=46 is larger than the 45 examples of the split"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"process_count": 3}, r"batch_size=8 .* not divisible by process_count=3; take 9"),
        ({"process_count": 0}, "process_count=0 must be at least 1"),
        ({"process_index": 1}, r"process_index=1 is outside \[0, process_count=1\)"),
        ({"process_index": -1, "process_count": 2}, r"process_index=-1 is outside"),
        ({"workers": -1}, "workers=-1 must be 0"),
        ({"seed": -1}, "seed=-1 must be 0 or larger"),
        ({"split": "val"}, "unknown split 'val' of tiny; take one of train, validation, test"),
        ({"validation": 1.0}, r"validation=1\.0 must be a fraction"),
        ({"validation": 0, "split": "validation"}, "leaves the split 'validation' .* raise it"),
        ({"validation": 0.999}, "leaves the split 'train' of tiny no example of 50; lower it"),
    ],
)
def test_bad_arguments(data_dir, options, message):
    with pytest.raises(ValueError, match=message):
        stream_of(data_dir, **options)
    if not {"seed", "batch_size"} & set(options):
        options = {"split": "train", **options}
        with pytest.raises(ValueError, match=message):
            make_evaluation_stream("tiny", data_dir=data_dir, **{"batch_size": 8, **options})


def test_bad_names_and_steps(data_dir):
    with pytest.raises(ValueError, match=r"digits come with scikit-learn.*load\('digits'\)"):
        make_stream("digits", batch_size=8, seed=0)
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not prepared in .* tfds build"):
        make_stream("cifar10", data_dir=data_dir, batch_size=8, seed=0)
    with pytest.raises(ValueError, match="unknown data set 'tinny'; did you mean 'tiny'"):
        make_stream("tinny", data_dir=data_dir, batch_size=8, seed=0)
    with pytest.raises(ValueError, match="first_step=-1 must be 0 or a later step"):
        stream_of(data_dir)(-1)
    with pytest.raises(TypeError, match="float"):
        stream_of(data_dir)(1.5)


def test_images_of_other_sizes_need_a_preprocess(tmp_path):
    images = [np.zeros((4, 4, 3), np.uint8)] * 3 + [np.zeros((5, 4, 3), np.uint8)]
    write_set(tmp_path, {"train": (images, [0] * 4), "test": (images, [0] * 4)})
    stream = make_evaluation_stream("tiny", data_dir=tmp_path, batch_size=4)
    message = r"tiny, image 3 of split 'test': it has shape \(5, 4, 3\) .*\(4, 4, 3\).* Resize"
    with pytest.raises(ValueError, match=message):
        next(stream())
    resized = make_evaluation_stream(
        "tiny", data_dir=tmp_path, batch_size=4, preprocess=ResizeCentreCrop(3, 4)
    )
    assert next(resized())["image"].shape == (4, 3, 3, 3)


def test_a_preprocess_keeps_uint8(data_dir):
    message = r"image \d+ of split 'train': what .* made of it is float64 of shape \(6, 5, 3\)"
    with pytest.raises(ValueError, match=message):
        stream_of(data_dir, preprocess=lambda image, rng: image / 255)


@pytest.mark.slow
def test_real_splits_are_those_of_load():
    data_dir = real("fashion_mnist").parent
    loaded = load("fashion_mnist", data_dir=data_dir)
    stream = make_evaluation_stream(
        "fashion_mnist", data_dir=data_dir, split="validation", batch_size=1000
    )
    for key in ("image", "label"):
        whole = np.concatenate([batch[key] for batch in stream()])
        np.testing.assert_array_equal(whole, loaded.validation[key])
