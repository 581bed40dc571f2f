"""Bad input is one line; a bug looks like a bug."""

import json
import pathlib
import pickle

import jax
import numpy as np
import pytest

from experiments import devices, job, run
from experiments.errors import UnreadableError, is_of_input
from tests.experiments._processes import ARGUMENTS

pytestmark = pytest.mark.usefixtures("jax_defaults")


def caught(f):
    try:
        f()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


BUGS = {
    "broadcasting": lambda: np.zeros(2) + np.zeros(3),
    "decoding": lambda: json.loads("{"),
    "unpacking": lambda: devices._own_door("no port"),  # a call of ours that fails by itself
    "jax": lambda: jax.numpy.zeros(2).reshape(3),
    "type": lambda: len(3),  # pyright: ignore[reportArgumentType]
    "zero": lambda: 1 / 0,
    "name": lambda: {}["key"],
}
INPUT = {
    "ours": lambda: run.checks.check_name("model", "x", ["y"]),
    "file": lambda: pathlib.Path("/nowhere/at/all").read_text(),
    "package": lambda: __import__("no_such_package"),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_none_of_the_input(name):
    assert not is_of_input(caught(BUGS[name]))


@pytest.mark.parametrize("name", INPUT)
def test_what_the_user_can_repair(name):
    assert is_of_input(caught(INPUT[name]))


def test_what_a_worker_hands_over():
    error = pickle.loads(pickle.dumps(UnreadableError("example 3 cannot be read")))
    assert is_of_input(error)
    assert str(error) == "example 3 cannot be read"


@pytest.mark.parametrize(
    "error", [TypeError("'NoneType' is no callable"), RuntimeError("no"), ValueError("shapes (2,)")]
)
def test_a_bug_in_a_run_keeps_its_traceback(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(job, "run", fail)
    with pytest.raises(type(error), match=str(error)[:5]):
        run.main([*ARGUMENTS, "--run-dir", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("address", "door"),
    [
        ("localhost:1234", "localhost:1234"),
        ("127.0.0.1:1234", "127.0.0.1:1234"),
        ("[::1]:1234", "[::1]:1234"),
        ("node7:1234", None),
        ("10.0.0.3:1234", None),
    ],
)
def test_what_is_local_listens_on_loopback_only(monkeypatch, address, door):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    assert devices._own_door(address).get("coordinator_bind_address") == door
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0.0.0.0:1")
    assert not devices._own_door(address)
