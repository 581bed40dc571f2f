"""Streams: order, resuming, sharding, worker processes, padding, and files that are damaged."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

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
from tests.experiments.test_data_load import make_features, write_set

ROOT = Path(__file__).parents[2]
REPAIR = r"prepare it again: tfds build tiny --data_dir .* --file_format array_record --overwrite"


def make_numbered(n, shape=(6, 5, 3)):
    """Random images whose first two values are their index; labels 0, 1, 2, 0, ..."""
    images = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return images, np.arange(n) % 3


def numbers(image):
    return image[:, 0, 0, :2].astype(int) @ (1, 256)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_set(folder, {"train": make_numbered(50), "test": make_numbered(11)})
    return folder


@pytest.fixture
def own_dir(tmp_path, data_dir):
    """A copy that a test may damage, and the file of its training split."""
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path, next(tmp_path.glob("tiny/*/tiny-train.array_record*"))


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


@pytest.mark.slow
def test_worker_processes_change_nothing(data_dir):
    stream = stream_of(data_dir, preprocess=PadCropFlip(2))
    batches = take(stream, 3, 9)
    for workers in (1, 3):
        assert_equal(take(dataclasses.replace(stream, workers=workers), 3, 9), batches)
    evaluation = make_evaluation_stream("tiny", data_dir=data_dir, batch_size=8, workers=3)
    # Two batches for three workers: one has nothing to do.
    assert_equal(list(evaluation()), list(dataclasses.replace(evaluation, workers=0)()))


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


def read_all(data_dir):
    stream = stream_of(data_dir, batch_size=50, validation=0)
    next(stream(0))


@pytest.mark.parametrize("read", [read_all, lambda data_dir: load("tiny", data_dir=data_dir)])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_file_that_is_not_whole_is_named(own_dir, damage, read):
    data_dir, path = own_dir
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2 if damage == "truncated" else 0)
    with pytest.raises(
        ValueError, match=r"tiny, split 'train': example \d+, in .*cannot"
    ) as caught:
        read(data_dir)
    assert str(path) in str(caught.value)
    caught.match(f"damaged or incomplete, {REPAIR}")


@pytest.mark.parametrize("read", [read_all, lambda data_dir: load("tiny", data_dir=data_dir)])
def test_overwritten_bytes_name_the_example(own_dir, read):
    data_dir, path = own_dir
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(make_numbered(50)[0][33]).save(png, format="PNG")
    content = path.read_bytes()
    at = content.find(png.getvalue()[40:])
    assert at > 0
    path.write_bytes(content[:at] + bytes(20) + content[at + 20 :])
    with pytest.raises(ValueError, match=rf"example 33, in {path}, cannot be read: .*orrupted"):
        read(data_dir)


def write_records(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("damage", ["image", "no image", "no example"])
def test_a_record_that_is_no_example_is_named(own_dir, damage):
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    data_dir, path = own_dir
    reader = ArrayRecordReader(str(path))
    records = [reader.read([i])[0] for i in range(50)]
    reader.close()
    example = proto.Example.FromString(records[7])
    if damage == "image":
        png = example.features.feature["image"].bytes_list.value
        png[0] = png[0][:60] + bytes(len(png[0]) - 60)
    else:
        del example.features.feature["image"]
    records[7] = b"\xff" * 30 if damage == "no example" else example.SerializeToString()
    write_records(path, records)
    with pytest.raises(ValueError, match=r"split 'train': example 7, in .*cannot be read:"):
        read_all(data_dir)


def test_a_file_with_too_few_examples_is_named(own_dir):
    data_dir, path = own_dir
    info = data_dir / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"50"', '"60"'))
    with pytest.raises(ValueError, match=rf"example 5\d, in {path}, cannot be read"):
        next(stream_of(data_dir, batch_size=60, validation=0)(0))


def test_broken_descriptions_are_named(own_dir):
    data_dir, _ = own_dir
    features = data_dir / "tiny" / "1.0.0" / "features.json"
    whole = features.read_text()
    features.write_text(whole[:50])
    with pytest.raises(ValueError, match=r"features\.json in .* cannot be read.* tfds build"):
        stream_of(data_dir)
    features.write_text(json.dumps(make_features("other")))
    with pytest.raises(ValueError, match=r"not an image-classification set.*'other': 'ClassLabel'"):
        stream_of(data_dir)
    features.unlink()
    with pytest.raises(ValueError, match=r"tiny.*features\.json"):
        stream_of(data_dir)


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    splits = {"train": make_numbered(9), "test": (make_numbered(4)[0], [-1] * 4)}
    write_set(tmp_path / "a", splits)
    with pytest.raises(ValueError, match=r"example 0 of split 'test' has the label -1, outside"):
        make_evaluation_stream("tiny", data_dir=tmp_path / "a", batch_size=4)
    write_set(tmp_path / "b", {**splits, "validation": make_numbered(6)})
    assert make_evaluation_stream("tiny", data_dir=tmp_path / "b", batch_size=4).num_examples == 6
    assert len(load("tiny", data_dir=tmp_path / "b").test["label"]) == 6


def test_a_worker_s_error_reaches_the_caller(own_dir):
    data_dir, path = own_dir
    stream = stream_of(data_dir, workers=1)
    path.write_bytes(path.read_bytes()[:1000])
    batches = stream(0)
    with pytest.raises(ValueError, match=rf"split 'train': example \d+, in {path}, cannot be read"):
        next(batches)
    # Another next would go on with what other workers make, without those batches.
    with pytest.raises(ValueError, match="these batches were closed"):
        next(batches)


SCRIPT = """
    import multiprocessing, os, sys, time
    from experiments import data

    def check(image, rng):
        import jax._src.xla_bridge
        if multiprocessing.parent_process():
            assert os.environ["JAX_PLATFORMS"] == "cpu" == jax.config.jax_platforms
            assert not jax._src.xla_bridge.backends_are_initialized()
        return image

    if __name__ == "__main__":
        stream = data.make_stream(
            "tiny", data_dir=sys.argv[1], batch_size=8, seed=0, workers=1, preprocess=check
        )
        batches = stream(0)
        batch = next(batches)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(float(sys.argv[2]))
"""


def start_script(tmp_path, data_dir, seconds):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script), str(data_dir), str(seconds)],
        env={k: v for k, v in environment.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_program_that_forgets_to_close_ends_in_silence(tmp_path, data_dir):
    process = start_script(tmp_path, data_dir, 0)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert not is_alive(int(out))


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_workers_die_with_a_killed_parent(tmp_path, data_dir):
    process = start_script(tmp_path, data_dir, 60)
    worker = int(process.stdout.readline())
    assert is_alive(worker)
    process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(worker)
    process.communicate(timeout=20)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Where nobody reaps orphans (some containers), the dead stay listed as zombies.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def real(name):
    folder = Path(os.environ.get("JAXPRUNE_DATA_DIR", "/nowhere"), name)
    if not folder.is_dir():
        pytest.skip(f"JAXPRUNE_DATA_DIR does not name a directory with a prepared {name}")
    return folder


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_real_file(tmp_path, damage):
    shutil.copytree(real("fashion_mnist"), tmp_path / "fashion_mnist")
    path = next(tmp_path.glob("fashion_mnist/*/*-train.array_record*"))
    folder, half = path.parent, path.stat().st_size // 2
    folder.chmod(0o755)
    path.chmod(0o644)
    if damage == "truncated":
        os.truncate(path, half)
    else:
        with path.open("r+b") as file:
            file.seek(half)
            file.write(b"\xff" * 70_000)
    with pytest.raises(ValueError, match=rf"fashion_mnist, split 'train': example \d+, in {path}"):
        load("fashion_mnist", data_dir=tmp_path)


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
