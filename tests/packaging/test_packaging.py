"""What is built installs into an empty environment and works there, outside of the checkout.

Needs pip and a package index; skips without.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMOKE = pathlib.Path(__file__).with_name("smoke.py")


def call(*words, cwd, status=0):
    """What a command prints; it sees nothing of the checkout."""
    hidden = ("PYTHONPATH", "XLA_FLAGS", "VIRTUAL_ENV", "PYTHONHOME")
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [os.fspath(w) for w in words],
        cwd=cwd,
        env={**kept, "JAX_PLATFORMS": "cpu", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def environment(folder, python):
    call(python, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin"


def install(bin_, *words):
    return call(bin_ / "python", "-m", "pip", "install", "--quiet", *words, cwd=bin_.parent)


@functools.cache
def newest_python():
    """The newest Python that is found and newer than 3.11; `None` if there is none."""
    found = [shutil.which(f"python3.{minor}") for minor in (14, 13, 12)]
    home = pathlib.Path.home() / ".pyenv" / "versions"
    found += sorted(home.glob("3.1[234].*/bin/python3"), reverse=True)
    for python in filter(None, found):
        asked = [python, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 12))"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """An environment with what builds and resolves."""
    bin_ = environment(tmp_path_factory.mktemp("tools") / "env", sys.executable)
    try:
        install(bin_, "hatchling", "uv")
    except AssertionError as error:
        pytest.skip(f"pip cannot install here: {error}"[:300])
    return bin_


@pytest.fixture(scope="module")
def dist(tools, tmp_path_factory):
    """The source distribution and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    call(tools / "python", "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_contents(dist):
    sdist, wheel = dist
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jaxprune"}
    assert "jaxprune/py.typed" in names
    assert "jaxprune/_bundled/experiments/run.py" in names
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"Makefile", "LICENSE", "experiments/run.py", "tests/conftest.py"} <= inside
    assert not [name for name in (*names, *inside) if "__pycache__" in name or ".venv" in name]


def test_the_source_on_this_python(dist, tmp_path):
    bin_ = environment(tmp_path / "env", sys.executable)
    install(bin_, dist[0])
    assert "80.11 % sparse" in call(bin_ / "python", SMOKE, ROOT, cwd=tmp_path)
    # What is not installed is named.
    said = call(bin_ / "jaxprune", "run", "--help", cwd=tmp_path, status=2)
    assert "pip install 'jaxprune[experiments]'" in said
    drawn = call(
        bin_ / "python", "-c", "import jaxprune as jp; jp.plots.figure()", cwd=tmp_path, status=1
    )
    assert "pip install 'jaxprune[plots]'" in drawn


def test_the_lowest_versions_that_are_allowed(tools, dist, tmp_path):
    bin_, wanted = environment(tmp_path / "env", sys.executable), tmp_path / "lowest.txt"
    lowest = ("--resolution", "lowest-direct", "--extra", "plots", "--python", bin_ / "python")
    call(
        tools / "uv", "pip", "compile", *lowest, "-o", wanted, ROOT / "pyproject.toml", cwd=tmp_path
    )
    install(bin_, "-r", wanted, dist[1])
    said = call(bin_ / "python", SMOKE, ROOT, cwd=tmp_path)
    assert "80.11 % sparse" in said
    assert "jax 0.10.0" in said
    call(
        bin_ / "python", "-c", "import jaxprune as jp; jp.plots.figure()._repr_png_()", cwd=tmp_path
    )


def test_the_wheel_on_the_newest_python_with_its_command(dist, tmp_path):
    python = newest_python()
    if python is None:
        pytest.skip("there is no Python 3.12 or newer here")
    bin_ = environment(tmp_path / "env", python)
    install(bin_, f"{dist[1]}[experiments]")
    assert "80.11 % sparse" in call(bin_ / "python", SMOKE, ROOT, cwd=tmp_path)
    # Somebody else's experiments lie in the way.
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise AssertionError('not these')")
    jaxprune = bin_ / "jaxprune"
    for name in ("run", "sweep", "report", "prune", "prune-file"):
        assert f"jaxprune {name}" in call(jaxprune, name, "--help", cwd=tmp_path)
    assert "jaxprune bench masks" in call(jaxprune, "bench", "masks", "--help", cwd=tmp_path)
    assert "no command 'train'" in call(jaxprune, "train", cwd=tmp_path, status=2)
    small = ("--epochs", "2", "--retrain-epochs", "1", "--cycles", "1", "--sparsity", "0.8")
    call(jaxprune, "run", *small, "--run-dir", "runs/one", cwd=tmp_path)
    final = "runs/one/final.safetensors"
    said = call(
        jaxprune,
        "prune-file",
        final,
        "--sparsity",
        "0.9",
        "--out",
        "more.safetensors",
        cwd=tmp_path,
    )
    assert "| 0.9000 |" in said.split("all prunable")[1]
    assert (tmp_path / "more.safetensors").exists()
