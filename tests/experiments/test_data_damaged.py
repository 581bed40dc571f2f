"""Files that are damaged or missing: the error names the file, the example and the repair."""

import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.data import _features, load, make_evaluation_stream
from experiments.errors import is_of_input
from tests.experiments._streams import (
    assert_equal,
    make_numbered,
    real,
    stream_of,
    take,
    train_file,
    write_numbered,
)
from tests.experiments.test_data_load import make_features, write_set

ROOT = Path(__file__).parents[2]
REPAIR = r"prepare it again: tfds build tiny --data_dir .* --file_format array_record --overwrite"


@pytest.fixture
def own_dir(tmp_path):
    """A set that a test may damage, and the file of its training split."""
    return write_numbered(tmp_path), train_file(tmp_path)


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


def read_records(path, count):
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path))
    records = [reader.read([i])[0] for i in range(count)]
    reader.close()
    return records


@pytest.mark.parametrize("damage", ["image", "no image", "no example"])
def test_a_record_that_is_no_example_is_named(own_dir, damage):
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    data_dir, path = own_dir
    records = read_records(path, 50)
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


@pytest.fixture
def sharded_dir(own_dir):
    """Two examples a file instead of all in one."""
    data_dir, path = own_dir
    records = read_records(path, 50)
    for i in range(25):
        name = path.name.replace("-00000-of-00001", f"-{i:05}-of-00025")
        write_records(path.with_name(name), records[2 * i : 2 * i + 2])
    path.unlink()
    info = path.with_name("dataset_info.json")
    document = json.loads(info.read_text())
    document["splits"][0]["shardLengths"] = ["2"] * 25
    info.write_text(json.dumps(document))
    return data_dir


def test_many_files_are_one_split(tmp_path_factory, sharded_dir):
    whole = write_numbered(tmp_path_factory.mktemp("whole"))
    assert_equal(take(stream_of(sharded_dir), 2, 9), take(stream_of(whole), 2, 9))
    broken = next(sharded_dir.glob("tiny/*/tiny-train*-00003-of-00025"))
    os.truncate(broken, 1000)
    with pytest.raises(ValueError, match=rf"example [67], in {broken}, cannot be read"):
        take(stream_of(sharded_dir), 0, 10)


def test_more_files_than_a_process_may_open_at_first(sharded_dir):
    resource = pytest.importorskip("resource")
    del resource  # only where limits can be set
    code = f"""
        import os, resource
        import grain, tensorflow_datasets
        from experiments.data import make_stream
        opened = len(os.listdir("/dev/fd"))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, limits[1]))
        options = dict(data_dir={str(sharded_dir)!r}, batch_size=50, seed=0, validation=0)
        assert len(set(next(make_stream("tiny", **options)(0))["label"])) == 3
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"word"', b"\xff\xfe", b"null"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_descriptions_that_are_none_are_named(own_dir, name, content):
    data_dir, _ = own_dir
    (data_dir / "tiny" / "1.0.0" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.* cannot be read.* tfds build tiny") as caught:
        stream_of(data_dir)
    assert is_of_input(caught.value)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_a_description_imports_no_code(own_dir, tmp_path, monkeypatch, key):
    data_dir, _ = own_dir
    (tmp_path / "intruder.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    file = data_dir / "tiny" / "1.0.0" / "features.json"
    document = json.loads(file.read_text())
    inner = {key: "intruder.Feature", "content": {}}
    document["featuresDict"]["features"]["more"] = inner
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"features\.json.*names the class 'intruder\.Feature'"):
        stream_of(data_dir)
    assert "intruder" not in sys.modules


def test_a_large_image_is_refused_before_it_is_decoded(own_dir, monkeypatch):
    data_dir, path = own_dir
    monkeypatch.setattr(_features, "MAX_PIXELS", 29)  # these have 6 x 5
    monkeypatch.setattr("PIL.Image.Image.load", lambda self: pytest.fail("decoded"))
    message = rf"example 0, in {path}, cannot be read: .*an image of 5 x 6 pixels is not decoded"
    with pytest.raises(ValueError, match=message):
        load("tiny", data_dir=data_dir)


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    splits = {"train": make_numbered(9), "test": (make_numbered(4)[0], [-1] * 4)}
    write_set(tmp_path / "a", splits)
    with pytest.raises(ValueError, match=r"example 0 of split 'test' has the label -1, outside"):
        make_evaluation_stream("tiny", data_dir=tmp_path / "a", batch_size=4)
    write_set(tmp_path / "b", {**splits, "validation": make_numbered(6)})
    assert make_evaluation_stream("tiny", data_dir=tmp_path / "b", batch_size=4).num_examples == 6
    assert len(load("tiny", data_dir=tmp_path / "b").test["label"]) == 6


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_real_file(tmp_path, damage):
    shutil.copytree(real("fashion_mnist"), tmp_path / "fashion_mnist")
    path = next(tmp_path.glob("fashion_mnist/*/*-test.array_record*"))
    half = path.stat().st_size // 2
    path.parent.chmod(0o755)
    path.chmod(0o644)
    if damage == "truncated":
        os.truncate(path, half)
    else:
        with path.open("r+b") as file:
            file.seek(half)
            file.write(b"\xff" * 70_000)

    def open_and_read():
        return list(make_evaluation_stream("fashion_mnist", data_dir=tmp_path, batch_size=500)())

    with pytest.raises(ValueError, match=r"fashion_mnist, split 'test': example \d+, in") as caught:
        open_and_read()
    assert f"{path}, cannot be read" in str(caught.value)
