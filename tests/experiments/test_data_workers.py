"""Worker processes: the same batches, errors that arrive, and an end with their parent."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from experiments.data import PadCropFlip, make_evaluation_stream
from tests.experiments._streams import (
    assert_equal,
    stream_of,
    take,
    train_file,
    write_numbered,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir(tmp_path):
    return write_numbered(tmp_path)


@pytest.mark.slow
def test_worker_processes_change_nothing(data_dir):
    stream = stream_of(data_dir, preprocess=PadCropFlip(2))
    batches = take(stream, 3, 9)
    for workers in (1, 2):
        assert_equal(take(dataclasses.replace(stream, workers=workers), 3, 9), batches)
    evaluation = make_evaluation_stream("tiny", data_dir=data_dir, batch_size=11, workers=2)
    # One batch for two workers: one has nothing to do.
    assert_equal(list(evaluation()), list(dataclasses.replace(evaluation, workers=0)()))


def test_a_worker_s_error_reaches_the_caller(data_dir):
    path = train_file(data_dir)
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
