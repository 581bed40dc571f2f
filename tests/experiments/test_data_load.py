"""Loading: scikit-learn's digits, a set made here in tfds' layout, and the real sets if present."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import CropFlip, load
from experiments.data._dataset import channel_statistics, hold_out, make_split
from experiments.prepared import KNOWN, prepared_versions, resolve_data_dir

ROOT = Path(__file__).parents[2]


def make_features(kind="label"):
    class_label = {
        "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "3"},
    }
    image = {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {
            "dtype": "uint8",
            "encodingFormat": "png",
            "shape": {"dimensions": ["-1", "-1", "3"]},
        },
    }
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, kind: class_label}},
    }


def write_set(data_dir, splits, *, name="tiny", version="1.0.0", features=None):
    """Write {split: (images, labels)} as tfds' own array_record layout, without tfds' help."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    folder = Path(data_dir) / name / version
    folder.mkdir(parents=True)
    infos = []
    for split, (images, labels) in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image, label in zip(images, labels, strict=True):
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="PNG")
            example = proto.Example()
            example.features.feature["image"].bytes_list.value.append(png.getvalue())
            example.features.feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
        infos.append(
            {
                "name": split,
                "numBytes": str(path.stat().st_size),
                "shardLengths": [str(len(labels))],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(features or make_features()))
    return folder


def make_examples(n, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 6, 5, 3), dtype=np.uint8)
    return images, random.integers(0, 3, n)


@pytest.fixture
def tiny(tmp_path):
    splits = {"train": make_examples(20), "test": make_examples(7, seed=1)}
    write_set(tmp_path, splits)
    return tmp_path, splits


def keys_of(split):
    return {image.tobytes() for image in split["image"]}


def test_digits():
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert digits.train["image"].shape == (1293, 8, 8, 1)
    assert digits.validation["image"].shape == (144, 8, 8, 1)
    assert digits.test["image"].shape == (360, 8, 8, 1)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.augmentation is None
    raw = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    assert len(raw) == 1797
    splits = (digits.train, digits.validation, digits.test)
    for split in splits:
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32
        assert not split["image"].flags.writeable
        for image, label in zip(split["image"], split["label"], strict=True):
            assert raw[image.tobytes()] == label
    # The 1,797 images are distinct, so bytes identify them: the splits are disjoint and complete.
    assert len(set().union(*map(keys_of, splits))) == 1797
    assert all(len(np.unique(split["label"])) == 10 for split in splits)


def test_seed_moves_the_validation_split_only():
    first, again, other = load("digits"), load("digits"), load("digits", seed=1)
    np.testing.assert_array_equal(first.train["image"], again.train["image"])
    np.testing.assert_array_equal(first.test["image"], other.test["image"])
    assert keys_of(first.validation) != keys_of(other.validation)
    none = load("digits", validation=0)
    assert none.validation["image"].shape == (0, 8, 8, 1)
    assert len(none.train["label"]) == 1437


def test_hold_out_is_frozen():
    image = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    _, held = hold_out(make_split(image, np.arange(10)), 3, seed=42)
    assert held["label"].tolist() == [1, 5, 8]


@pytest.mark.parametrize("validation", [-0.1, 1.0, 10])
def test_validation_must_be_a_fraction(validation):
    with pytest.raises(ValueError, match=f"validation={validation} must be a fraction"):
        load("digits", validation=validation)


def test_validation_may_not_take_everything():
    with pytest.raises(ValueError, match=r"validation=0\.9999 leaves digits no training example"):
        load("digits", validation=0.9999)


def test_channel_statistics_against_numpy():
    image = make_examples(50)[0]
    image[..., 2] = 7
    mean, std = channel_statistics(image)
    np.testing.assert_allclose(mean, image.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(std[:2], image.std((0, 1, 2))[:2] / 255)
    assert std[2] == 1.0


def test_prepared_set_is_read_exactly(tiny):
    data_dir, splits = tiny
    data = load("tiny", data_dir=data_dir, validation=0.25)
    assert data.num_classes == 3
    np.testing.assert_array_equal(data.test["image"], splits["test"][0])
    np.testing.assert_array_equal(data.test["label"], splits["test"][1])
    assert len(data.train["label"]) == 15
    assert len(data.validation["label"]) == 5
    read = {
        image.tobytes(): label
        for split in (data.train, data.validation)
        for image, label in zip(split["image"], split["label"], strict=True)
    }
    images, labels = splits["train"]
    assert read == {i.tobytes(): label for i, label in zip(images, labels, strict=True)}
    assert (data.mean, data.std) == channel_statistics(data.train["image"])


def test_published_settings_of_known_sets(tmp_path):
    splits = {"train": make_examples(4), "test": make_examples(2)}
    write_set(tmp_path, splits, name="cifar10", version="3.0.2")
    data = load("cifar10", data_dir=tmp_path, validation=0)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.std == (0.2023, 0.1994, 0.2010)
    assert data.augmentation == CropFlip(pad=4)


def test_newest_version_wins_and_validation_stands_in_for_test(tmp_path):
    old = {"train": make_examples(2), "test": make_examples(2)}
    new = {"train": make_examples(5), "validation": make_examples(3)}
    write_set(tmp_path, old, version="2.0.0")
    write_set(tmp_path, new, version="10.0.0")
    assert [p.version for p in prepared_versions("tiny", tmp_path)] == ["2.0.0", "10.0.0"]
    data = load("tiny", data_dir=tmp_path, validation=0)
    assert len(data.train["label"]) == 5
    assert len(data.test["label"]) == 3


@pytest.mark.parametrize("break_import", [False, True])
def test_reading_needs_no_tensorflow(tiny, tmp_path, break_import):
    path = [str(ROOT)]
    if break_import:
        package = tmp_path / "broken" / "tensorflow"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('no TensorFlow here')")
        path.append(str(package.parent))
    code = (
        "import sys; from experiments.data import load; "
        f"data = load('tiny', data_dir={str(tiny[0])!r}); "
        "assert len(data.test['label']) == 7; assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_set_that_is_not_prepared_names_directory_and_command(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load("cifar100", data_dir=tmp_path / "my data")
    message = str(caught.value)
    assert f"cifar100 is not prepared in {tmp_path / 'my data'}" in message
    assert f"tfds build cifar100 --data_dir '{tmp_path / 'my data'}'" in message
    assert "--file_format array_record" in message
    assert "Preparing, unlike reading, needs TensorFlow" in message


def test_any_set_that_tfds_knows_is_only_unprepared(tmp_path):
    with pytest.raises(FileNotFoundError, match="tfds build stl10 "):
        load("stl10", data_dir=tmp_path)


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"mnist is not prepared in {tmp_path}"):
        load("mnist")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert resolve_data_dir(None) == Path.home() / "tensorflow_datasets"


def test_unknown_names_list_the_known_ones(tiny):
    with pytest.raises(ValueError, match=r"unknown data set 'cifra10'; did you mean 'cifar10'\?"):
        load("cifra10", data_dir=tiny[0])
    with pytest.raises(ValueError, match=r"'xyzzy'\. Known: ") as caught:
        load("xyzzy", data_dir=tiny[0])
    assert all(name in str(caught.value) for name in (*KNOWN, "tiny"))


@pytest.mark.parametrize("file_format", ["tfrecord", None])
def test_other_formats_are_refused(tiny, file_format):
    path = tiny[0] / "tiny" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = file_format
    if file_format is None:
        del info["fileFormat"]
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"stored as tfrecord.*--file_format array_record"):
        load("tiny", data_dir=tiny[0])


def test_what_is_not_image_classification_is_refused(tmp_path):
    splits = {"train": make_examples(2), "test": make_examples(2)}
    write_set(tmp_path, splits, name="segments", features=make_features("other"))
    with pytest.raises(ValueError, match=r"not an image-classification set.*'other': 'ClassLabel'"):
        load("segments", data_dir=tmp_path)
    write_set(tmp_path, {"train": make_examples(2)}, name="untested")
    with pytest.raises(ValueError, match=r"untested has the splits \['train'\]"):
        load("untested", data_dir=tmp_path)
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    write_set(tmp_path, {"train": (images, [0, 1]), "test": (images, [0, 1])}, name="sizes")
    with pytest.raises(ValueError, match=r"sizes: image 1 is uint8 \(5, 4, 3\)"):
        load("sizes", data_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n", "shape"),
    [("fashion_mnist", 60_000, (28, 28, 1)), ("cifar10", 50_000, (32, 32, 3))],
)
def test_real_sets(name, n, shape):
    data_dir = os.environ.get("JAXPRUNE_DATA_DIR")
    if not data_dir or not prepared_versions(name, Path(data_dir)):
        pytest.skip(f"JAXPRUNE_DATA_DIR does not name a directory with a prepared {name}")
    data = load(name, data_dir=data_dir)
    assert data.image_shape == shape
    assert len(data.train["label"]) == n - n // 10
    assert len(data.validation["label"]) == n // 10
    assert np.bincount(data.test["label"]).tolist() == [1000] * 10
    mean, _ = channel_statistics(data.train["image"])
    np.testing.assert_allclose(mean, data.mean, atol=2e-3)
    # Both sets hold a few images twice, so disjointness is counted by example: labels add up.
    counts = np.bincount(data.train["label"]) + np.bincount(data.validation["label"])
    assert counts.tolist() == [n // 10] * 10
