"""Runs that several tests begin from; each gets a copy of the folder."""

import itertools
import shutil

import pytest

from jaxprune.training import Checkpoints, Preempted
from tests.training.checkpointed import after, imp, imp_on


@pytest.fixture(scope="session")
def undisturbed():
    """The run that was never saved nor stopped. Not to be trained further."""
    return imp()


@pytest.fixture(scope="session")
def _stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    count = itertools.count()
    with pytest.raises(Preempted):
        imp(Checkpoints(folder, every=5, stop=after(5), extra=lambda: {"n": [next(count)]}))
    return folder


@pytest.fixture(scope="session")
def _ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended") / "run"
    imp(Checkpoints(folder, every=100))
    return folder


@pytest.fixture
def stopped(_stopped, tmp_path):
    """The folder of that run, stopped in its first phase: it holds two checkpoints."""
    return shutil.copytree(_stopped, tmp_path / "stopped")


@pytest.fixture
def ended(_ended, tmp_path):
    """The folder of that run, ended."""
    return shutil.copytree(_ended, tmp_path / "ended")


@pytest.fixture(scope="session")
def _on_8(tmp_path_factory):
    """A run on eight devices: where it was stopped, where it has ended, its result."""
    folder = tmp_path_factory.mktemp("on-8")
    with pytest.raises(Preempted):
        imp_on("8 sharded", Checkpoints(folder / "stopped", every=100, stop=after(4)))
    shutil.copytree(folder / "stopped", folder / "ended")
    result = imp_on("8 sharded", Checkpoints(folder / "ended", every=100, resume=True))
    return folder, result


@pytest.fixture
def stopped_on_8(_on_8, tmp_path):
    """The folder of a run on eight devices, stopped at the end of its first cycle."""
    return shutil.copytree(_on_8[0] / "stopped", tmp_path / "stopped-on-8")


@pytest.fixture
def ended_on_8(_on_8, tmp_path):
    """The folder of that run, ended, and its result."""
    return shutil.copytree(_on_8[0] / "ended", tmp_path / "ended-on-8"), _on_8[1]
