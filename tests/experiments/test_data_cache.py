"""Decoded images on the disk: the same bits, or decoded again."""

import os
import pathlib

import numpy as np
import pytest

from experiments.config import Config
from experiments.data import _cache, load
from experiments.inputs import make_inputs
from experiments.prepared import find_prepared
from tests.experiments.test_data_load import make_examples, write_set


@pytest.fixture
def prepared(tmp_path):
    """A prepared set of 20 and 7 images."""
    splits = {"train": make_examples(20), "test": make_examples(7, seed=1)}
    write_set(tmp_path / "sets", splits)
    return tmp_path / "sets"


def arrays(dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    return [split[part] for split in splits for part in ("image", "label")]


def same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
        assert not b.flags.writeable
    rest = ("name", "num_classes", "mean", "std", "augmentation", "image_shape")
    assert [getattr(one, name) for name in rest] == [getattr(other, name) for name in rest]


@pytest.fixture
def counted(prepared):
    """``counted(folder, say)`` loads through the cache and returns how often it decoded."""
    decoded = _cache.Decoded(*_splits(prepared), num_classes=3)

    def through(folder, say=pytest.fail):
        calls = []

        def decode():
            calls.append(1)
            return decoded

        found = _cache.kept(decode, "tiny", find_prepared("tiny", prepared), folder, say)
        assert found.num_classes == 3
        for split, wanted in zip(found[:2], decoded[:2], strict=True):
            for part in ("image", "label"):
                assert split[part].dtype == wanted[part].dtype
                np.testing.assert_array_equal(split[part], wanted[part])
        return len(calls)

    return through


def _splits(prepared):
    whole = load("tiny", data_dir=prepared, validation=0)
    return whole.train, whole.test


def test_what_is_kept_is_what_was_decoded(prepared, tmp_path):
    folder = tmp_path / "cache" / "data"
    for options in ({}, {"validation": 0.5}, {"seed": 7}, {"validation": 0}):
        plain = load("tiny", data_dir=prepared, **options)
        for _ in range(2):
            same(plain, load("tiny", data_dir=prepared, cache=folder, say=None, **options))
    assert len(os.listdir(folder)) == 1, "what is held out is no matter of decoding"


def test_it_is_decoded_once(counted, tmp_path):
    assert [counted(tmp_path / "cache") for _ in range(3)] == [1, 0, 0]


def test_the_digits_are_not_kept(tmp_path):
    lines = []
    load("digits", cache=tmp_path / "cache", say=lines.append)
    assert lines == ["Reading digits ..."]
    assert not (tmp_path / "cache").exists()


def test_reading_is_said_before_it_begins(prepared, tmp_path):
    (record,) = prepared.glob("tiny/*/*train*")
    record.write_bytes(record.read_bytes()[:-100])
    lines = []
    with pytest.raises(ValueError, match="tiny"):
        load("tiny", data_dir=prepared, cache=tmp_path / "cache", say=lines.append)
    assert lines == [f"Reading tiny 1.0.0 from {prepared} ..."]
    assert not (tmp_path / "cache").exists(), "nothing is kept of what could not be read"


def test_other_contents_are_another_set(prepared, tmp_path):
    folder = tmp_path / "cache"
    first = load("tiny", data_dir=prepared, cache=folder)
    (record,) = prepared.glob("tiny/*/*train*")
    before = record.stat()
    content = bytearray(record.read_bytes())
    other = write_set(
        tmp_path / "others", {"train": make_examples(20, seed=5), "test": make_examples(7, seed=1)}
    )
    record.write_bytes((other / record.name).read_bytes())
    os.utime(record, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load("tiny", data_dir=prepared, cache=folder)
    assert not np.array_equal(first.train["image"], second.train["image"])
    same(load("tiny", data_dir=prepared), second)
    record.write_bytes(content)
    same(first, load("tiny", data_dir=prepared, cache=folder))
    assert len(os.listdir(folder)) == 2


def test_another_decoder_decodes_again(counted, tmp_path, monkeypatch):
    assert counted(tmp_path) == 1
    version = _cache.importlib.metadata.version
    monkeypatch.setattr(
        _cache.importlib.metadata, "version", lambda p: "99" if p == "pillow" else version(p)
    )
    assert [counted(tmp_path), counted(tmp_path)] == [1, 0]


def test_every_damage_is_noticed_and_repaired(counted, tmp_path):
    folder = tmp_path / "cache"
    assert counted(folder) == 1
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    damages = [b"", whole[:7], whole[:200], whole[: len(whole) // 2], whole[:-1], whole + b"x"]
    drawn = np.random.default_rng(0)
    for place in [*range(0, 600, 23), *drawn.integers(0, len(whole), 40)]:
        damages.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for damage in damages:
        file.write_bytes(damage)
        lines = []
        assert counted(folder, lines.append) == 1
        assert len(lines) == 1
        assert f"{file} is damaged (" in lines[0]
        assert "tiny is decoded again" in lines[0]
        assert counted(folder) == 0, "repaired"


def test_a_folder_that_cannot_be_written_is_noted(counted, tmp_path):
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "cache"
    lines = []
    assert [counted(folder, lines.append) for _ in range(2)] == [1, 1]
    assert len(lines) == 2
    assert f"tiny is not kept in {folder} (" in lines[0]


def test_no_room_is_noted_and_leaves_nothing(counted, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    lines, folder = [], tmp_path / "cache"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert counted(folder, lines.append) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(lines) == 1
    assert f"tiny is not kept in {folder} (" in lines[0]
    assert os.listdir(folder) == []


@pytest.mark.parametrize("given", ["off", None, "here"])
def test_the_option_moves_and_refuses(prepared, tmp_path, monkeypatch, given):
    monkeypatch.setenv("JAXPRUNE_CACHE_DIR", str(tmp_path / "users"))
    where = str(tmp_path / "here") if given == "here" else given
    config = Config(data="tiny", data_dir=prepared, data_cache=where, batch_size=4)
    make_inputs(config, say=None)
    folders = {"off": None, None: tmp_path / "users" / "data", "here": tmp_path / "here"}
    kept = [path for path in (tmp_path / "users", tmp_path / "here") if path.exists()]
    assert [len(os.listdir(path)) for path in kept] == [1] * (given != "off")
    if (folder := folders[given]) is not None:
        assert [path.name[:11] for path in pathlib.Path(folder).iterdir()] == ["tiny-1.0.0-"]
