"""What a run keeps on the disk: the log, and the dense weights."""

import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reports
from experiments.config import Config

PARAMS = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}, "b": jnp.zeros(2)}


def same(held):
    assert jax.tree.structure(held) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, held, PARAMS)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_numbers_that_are_not_finite_are_null(tmp_path):
    folder = reports.RunFolder(tmp_path, Config())
    folder.open()
    row = {"kind": "train", "step": 0, "learning_rate": 0.1, "accuracy": 0.5, "loss": 2.0}
    folder.log(row)
    folder.log({**row, "step": 1, "loss": math.nan})
    folder.log({"kind": "validation", "step": 2, "validation_accuracy": -math.inf})
    mark = folder.sync()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row.get("loss") for row in rows] == [2.0, None, None]
    log = reports.Log()
    log.replay(folder.rows(mark))
    folder.close()
    assert log.accuracies == [0.5, 0.5]
    assert log.validation == [(2, pytest.approx(math.nan, nan_ok=True))]


def test_what_is_noted_stays_when_a_run_goes_on(tmp_path):
    folder = reports.RunFolder(tmp_path, Config())
    folder.open()
    folder.note(seconds_to_first_step=1.5)
    mark = folder.sync()
    folder.close()
    again = reports.RunFolder(tmp_path, Config())
    again.reopen(mark)
    again.note(seconds_to_first_step=9.5)
    again.close()
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["seconds_to_first_step"] == 1.5
    assert document["config"]["model"] == "small_cnn"
    reports.RunFolder(tmp_path / "other", Config(), writes=False).note(seconds_to_first_step=1.5)
    assert not (tmp_path / "other").exists()


def test_weights_before_the_last_prune_come_back(tmp_path):
    with pytest.raises(ValueError, match=r"weights_before\.npz is gone"):
        reports.load_before(PARAMS, tmp_path)
    for _ in range(2):
        reports.save_before(PARAMS, tmp_path)
    same(reports.load_before(PARAMS, tmp_path))
    assert os.listdir(tmp_path) == ["weights_before.npz"]


@pytest.mark.parametrize("size", [0, 10, 500, -1])
def test_damaged_weights_are_refused(tmp_path, size):
    reports.save_before(PARAMS, tmp_path)
    file = tmp_path / "weights_before.npz"
    os.truncate(file, size if size >= 0 else file.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"weights_before\.npz is damaged"):
        reports.load_before(PARAMS, tmp_path)


def test_weights_of_other_shapes_are_refused(tmp_path):
    reports.save_before({**PARAMS, "b": jnp.zeros(3)}, tmp_path)
    with pytest.raises(ValueError, match=r"weights_before\.npz holds weights of other shapes"):
        reports.load_before(PARAMS, tmp_path)
    reports.save_before({"a": PARAMS["a"]}, tmp_path)
    with pytest.raises(ValueError, match=r"weights_before\.npz holds weights of other shapes"):
        reports.load_before(PARAMS, tmp_path)


def test_a_row_of_another_program_is_named():
    log = reports.Log()
    for row in ({"kind": "train", "step": 0}, [], {"step": 1}):
        with pytest.raises(ValueError, match=r"line 2 of metrics\.jsonl is no row"):
            log.replay([{"kind": "other"}, row])


def test_no_room_for_the_configuration(tmp_path, monkeypatch):
    def full(self, text, **_):
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    folder = reports.RunFolder(tmp_path / "run", Config())
    with pytest.raises(
        OSError, match=r"config\.json cannot be written \(No space left on device\).*start the run"
    ):
        folder.open()
    assert not folder.is_open
    assert not os.listdir(tmp_path / "run")


def test_no_room_for_the_weights(tmp_path, monkeypatch):
    reports.save_before(PARAMS, tmp_path)

    def full(file, **arrays):
        del arrays
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        OSError, match=r"weights_before.npz cannot be written \(No space left on dev"
    ):
        reports.save_before(PARAMS, tmp_path)
    assert os.listdir(tmp_path) == ["weights_before.npz"]
    same(reports.load_before(PARAMS, tmp_path))
