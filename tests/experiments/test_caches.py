"""Where caches lie, and the compilation cache of the commands."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from experiments import caches, torture
from tests.experiments._processes import ARGUMENTS, environment

NAMES = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def unset(monkeypatch):
    """JAX without a cache, as most users have it; what it had comes back."""
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    before = {name: jax.config.values[name] for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def now():
    return [jax.config.values[name] for name in NAMES]


def test_the_folder_on_every_system(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXPRUNE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert caches.folder("data") == tmp_path / ".cache" / "jaxprune" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.folder("data") == tmp_path / "xdg" / "jaxprune" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert caches.folder("data") == tmp_path / ".cache" / "jaxprune" / "data"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert caches.folder("data") == tmp_path / "Library" / "Caches" / "jaxprune" / "data"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert caches.folder("data") == tmp_path / "local" / "jaxprune" / "Cache" / "data"


def test_the_variable_and_the_option(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXPRUNE_CACHE_DIR", "~/mine")
    assert caches.folder("data") == tmp_path / "mine" / "data"
    assert caches.folder("data", "~/other") == tmp_path / "other"
    assert caches.folder("data", "off") is None
    monkeypatch.setenv("JAXPRUNE_CACHE_DIR", "off")
    assert caches.folder("data") is None
    assert caches.folder("data", "~/other") == tmp_path / "other"


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.delenv("JAXPRUNE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", homeless)
    assert caches.folder("data") is None


@pytest.mark.parametrize("given", [None, "here"])
def test_compiled_programs_are_kept(unset, monkeypatch, tmp_path, given):
    monkeypatch.setenv("JAXPRUNE_CACHE_DIR", str(tmp_path / "users"))
    folder = tmp_path / "here" if given else tmp_path / "users" / "compiled"
    lines = []
    caches.keep_compiled(str(folder) if given else None, lines.append)
    assert lines == [f"Compiled programs are kept in {folder} (--compilation-cache off refuses)."]
    assert now() == [True, str(folder), 0.0]
    assert folder.stat().st_mode & 0o077 == 0, "whoever writes here runs code as this user"
    assert os.listdir(folder) == []


def test_what_jax_was_told_stays(unset, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    lines = []
    caches.keep_compiled(None, lines.append)
    assert now() == [True, str(tmp_path), 1.0]
    assert lines == [f"Compiled programs are kept in {tmp_path}, the folder that JAX was told."]


def test_a_threshold_that_jax_was_told_stays(unset, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    caches.keep_compiled(str(tmp_path), str)
    assert now() == [True, str(tmp_path), 1.0]


def test_compiled_programs_are_not_kept(unset, monkeypatch, tmp_path):
    caches.keep_compiled("off", pytest.fail)
    assert now() == [False, None, 1.0]
    # As JAX_ENABLE_COMPILATION_CACHE=0 has it.
    caches.keep_compiled(str(tmp_path / "here"), pytest.fail)
    assert now() == [False, None, 1.0]
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("JAXPRUNE_CACHE_DIR", "off")
    caches.keep_compiled(None, pytest.fail)
    assert now() == [True, None, 1.0]


def test_a_folder_that_cannot_be_written_is_a_note(unset, tmp_path):
    (tmp_path / "file").write_text("no folder")
    folder, lines = tmp_path / "file" / "here", []
    caches.keep_compiled(str(folder), lines.append)
    assert now() == [True, None, 1.0]
    assert lines == [
        f"Compiled programs are not kept: {folder} cannot be written (Not a directory)."
    ]


def test_the_longest_unused_go_first(tmp_path):
    for age, name in enumerate(("new", "read", "old", "oldest")):
        file = tmp_path / f"{name}-cache"
        file.write_bytes(b"0" * 100)
        written = 1_000_000 - age
        os.utime(file, (2_000_000 if name == "read" else written, written))
    (tmp_path / "another file").write_bytes(b"0" * 1000)
    caches.trim(tmp_path, 400)
    assert len(os.listdir(tmp_path)) == 5
    caches.trim(tmp_path, 399)
    assert sorted(os.listdir(tmp_path)) == ["another file", "new-cache", "old-cache", "read-cache"]
    caches.trim(tmp_path, 150)
    assert sorted(os.listdir(tmp_path)) == ["another file", "read-cache"]


@pytest.mark.slow
def test_a_run_from_the_cache_has_the_same_numbers(tmp_path):
    """And compiles nothing that the first one has compiled."""
    surroundings = environment()
    for variable in ("DIR", "MIN_COMPILE_TIME_SECS"):
        for prefix in ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"):
            surroundings.pop(f"{prefix}_{variable}", None)
    surroundings["JAXPRUNE_CACHE_DIR"] = str(tmp_path / "users")
    kept = []
    for name in ("first", "second"):
        command = [sys.executable, "-m", "experiments.run", *ARGUMENTS]
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / name)],
            env=surroundings,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        out = " ".join(done.stdout.split())
        assert f"Compiled programs are kept in {tmp_path / 'users' / 'compiled'} (" in out
        assert re.search(r"First 20 steps, one program, done \d+\.\d s after the start\.", out)
        kept.append(sorted(os.listdir(tmp_path / "users" / "compiled")))
    assert len(kept[0]) > 10
    assert kept[0] == kept[1]
    torture.compare(tmp_path / "first", tmp_path / "second")
