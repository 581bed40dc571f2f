"""Arrays that grow from checkpoint to checkpoint are stored once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune.training.checkpoints._history import History
from tests.training import problem


def test_only_what_is_new_is_added(tmp_path):
    file = tmp_path / "history"
    history, rng = History(file, writes=True), np.random.default_rng(0)
    loss, sizes, kept = np.zeros(0, np.float32), [], []
    for _ in range(50):
        loss = np.concatenate([loss, rng.normal(size=100).astype(np.float32)])
        before = file.stat().st_size if file.exists() else 0
        places = history.save({"run/metrics/loss": loss, "counts": np.arange(3)})
        sizes.append(file.stat().st_size - before)
        kept.append((places, loss))
    assert max(sizes[1:]) == min(sizes[1:]) < 100 * 4 + 50
    for places, values in kept:  # every checkpoint has its own end
        found = History(file, writes=True).read(places)
        np.testing.assert_array_equal(found["run/metrics/loss"], values)
        np.testing.assert_array_equal(found["counts"], np.arange(3))


def test_a_phase_that_ends_is_not_written_again(tmp_path):
    file, loss = tmp_path / "history", np.arange(1000.0)
    history = History(file, writes=True)
    history.save({"run/metrics/loss": loss[:900], "run/metrics/nan": np.full(900, np.nan)})
    before = file.stat().st_size
    history.save({"run/records/0/metrics/loss": loss, "run/records/0/nan": np.full(900, np.nan)})
    assert file.stat().st_size - before < 100 * 8 + 50


def test_after_going_back_the_new_steps_follow_the_old(tmp_path):
    file, history = tmp_path / "history", History(tmp_path / "history", writes=True)
    first = history.save({"x": np.arange(5.0)})
    history.save({"x": np.arange(9.0)})
    resumed = History(file, writes=True)
    values = np.concatenate([resumed.read(first)["x"], [7.0, 7.0]])
    second = resumed.save({"x": values})
    np.testing.assert_array_equal(History(file, writes=False).read(second)["x"], values)
    np.testing.assert_array_equal(History(file, writes=False).read(first)["x"], np.arange(5.0))


@given(st.data())
def test_a_flipped_bit_is_found(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("history") / "history"
    history = History(file, writes=True)
    history.save({"x": np.arange(4.0)})
    places = history.save({"x": np.arange(6.0), "y": np.ones((2, 3), np.int8)})
    held = bytearray(file.read_bytes())
    held[data.draw(st.integers(0, len(held) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(held)
    with pytest.raises(ValueError, match="its array"):
        History(file, writes=True).read(places)


def test_places_of_another_kind_or_file(tmp_path):
    places = History(tmp_path / "history", writes=True).save({"x": np.arange(4.0)})
    with pytest.raises(ValueError, match="of an earlier jaxprune, whose checkpoints held all"):
        History(tmp_path / "history", writes=True).read({"x": 12345})
    with pytest.raises(ValueError, match="No such file beside it: 'history'"):
        History(tmp_path / "gone" / "history", writes=True).read(places)


def test_the_bytes_of_a_checkpoint_do_not_grow(tmp_path):
    """Of a whole run: the tenth checkpoint costs what the second does."""

    def size(step):
        # Not the arrays of the state, whose size on the disk varies.
        files = (tmp_path / "run" / str(step) / "run").rglob("*")
        return sum(f.stat().st_size for f in files if f.is_file())

    sizes, history = {}, []

    def note():
        for step in jp.training.Checkpoints(tmp_path / "run").steps():
            sizes.setdefault(step, size(step))
        history.append((tmp_path / "run" / "history").stat().st_size if sizes else 0)
        return {}

    jp.training.imp(
        problem.state(),
        problem.loop(),
        evaluate=problem.evaluate,
        pretraining=lambda step: 0.01 + 0 * step,
        pretraining_steps=240,
        sparsity=0.5,
        cycles=1,
        retraining_steps=4,
        checkpoints=jp.training.Checkpoints(tmp_path / "run", every=20, extra=note),
    )
    dense = [sizes[step] for step in sorted(sizes) if step <= 220]
    assert len(dense) >= 8
    assert max(dense) - min(dense) < 30, dense  # digits of numbers
    steps = np.diff(history[2:11])
    assert steps.max() == steps.min()
