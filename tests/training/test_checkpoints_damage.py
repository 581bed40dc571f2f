"""Checkpoints that are damaged, and machines that have too little room: nothing is lost."""

import contextlib
import gc
import importlib.metadata
import os
import re
import shutil
import subprocess

import orbax.checkpoint as ocp
import pytest

from jaxprune.training import Checkpoints, Preempted
from tests.training.checkpointed import after, assert_same_run, imp, loud_when_collected

pytestmark = loud_when_collected

slow = pytest.mark.slow


def files(folder):
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)


def truncate(folder):
    for file in files(folder / "state"):
        os.truncate(file, file.stat().st_size // 2)


def flip(folder):
    file = files(folder / "state")[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def empty(folder):
    for file in files(folder / "state"):
        os.truncate(file, 0)


def lose_arrays(folder):
    shutil.rmtree(folder / "state" / "d")


def lose_item(folder):
    shutil.rmtree(folder / "state")


def edit_text(folder):
    file = folder / "run" / "metadata"
    file.write_text(file.read_text().replace('\\"steps\\": ', '\\"steps\\": 1'))


def break_text(folder):
    (folder / "run" / "metadata").write_text("{")


def flip_history(folder):
    """The last bytes of the history are those of the newest checkpoint alone."""
    file = folder.parent / "history"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def cut_history(folder):
    file = folder.parent / "history"
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, marks=slow),
        flip,
        pytest.param(empty, marks=slow),
        pytest.param(lose_arrays, marks=slow),
        lose_item,
        edit_text,
        pytest.param(break_text, marks=slow),
        flip_history,
        pytest.param(cut_history, marks=slow),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(stopped, undisturbed, damage):
    older, newest = Checkpoints(stopped).steps()
    damage(stopped / str(newest))
    heard = []
    with pytest.warns(UserWarning, match=f"of step {newest} in .* is damaged .*the one before it"):
        result = imp(Checkpoints(stopped, every=100, resume=True, on_resume=heard.append))
    assert_same_run(result, undisturbed)
    assert heard[0].steps == older
    assert (stopped / f"{newest}.damaged").is_dir()


def test_nothing_whole_is_an_error(stopped):
    steps = Checkpoints(stopped).steps()
    for step in steps:
        truncate(stopped / str(step))
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint in .* can be read \(step .*; step "
    ):
        imp(Checkpoints(stopped, every=5, resume=True))
    assert Checkpoints(stopped).steps() == steps, "left as they are, for who can do more"


def test_a_history_that_is_gone_is_an_error(stopped):
    (stopped / "history").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .* can be read .*No such file"):
        imp(Checkpoints(stopped, every=5, resume=True))


def test_too_little_memory_is_not_taken_for_damage(stopped, undisturbed, monkeypatch):
    steps = Checkpoints(stopped).steps()

    def fail(*arguments, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
        with pytest.raises(MemoryError, match=f"of step {steps[-1]} .* does not fit into memory"):
            imp(Checkpoints(stopped, every=5, resume=True))
    assert Checkpoints(stopped).steps() == steps
    assert_same_run(imp(Checkpoints(stopped, every=100, resume=True)), undisturbed)


def test_a_run_that_goes_on_after_its_end_has_not_ended(ended):
    """Its last checkpoint turned out damaged, so it trains again; another must not replace it."""
    truncate(ended / str(Checkpoints(ended).steps()[-1]))
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(Preempted):
        imp(Checkpoints(ended, every=5, resume=True, stop=after(0)))
    with pytest.raises(FileExistsError, match="of a run that has not ended"):
        imp(Checkpoints(ended, every=5))


def test_other_versions_are_a_warning(stopped, undisturbed, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "jax" else version(name)
    )
    with pytest.warns(UserWarning, match=r"other versions \(jax .* -> 9\.9\)"):
        result = imp(Checkpoints(stopped, every=100, resume=True))
    assert_same_run(result, undisturbed)


@contextlib.contextmanager
def tmpfs(folder, size):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("mounting a small file system needs rights that this user has not")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, undisturbed):
    folder = tmp_path / "small"
    with tmpfs(folder, "3m"):

        def fill():
            if Checkpoints(folder / "run").steps():
                with contextlib.suppress(OSError), (folder / "ballast").open("wb") as ballast:
                    while True:
                        ballast.write(b"0" * 4096)
            return False

        message = (
            r"of step (\d+) could not be written .*No space left.*complete one is of step (\d+)"
        )
        with pytest.raises(OSError, match=message) as caught:
            imp(Checkpoints(folder / "run", every=5, stop=fill))
        # Which of them is the first complete one that `fill` sees depends on the disk.
        failed, newest = map(int, re.search(message, str(caught.value)).groups())
        assert failed == newest + 5
        gc.collect()
        assert Checkpoints(folder / "run").steps()
        (folder / "ballast").unlink()
        result = imp(Checkpoints(folder / "run", every=100, resume=True))
    assert_same_run(result, undisturbed)


def test_a_read_only_file_system(tmp_path):
    folder = tmp_path / "small"
    with tmpfs(folder, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OSError, match=r"cannot be written .Read-only file system"):
            imp(Checkpoints(folder / "run"))
