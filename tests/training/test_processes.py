"""Two processes of two devices each against four devices of one, for real."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxprune as jp
from tests.training import meshed


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def train(out, processes, *kinds):
    flags = f"--xla_force_host_platform_device_count={4 // processes}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
    }
    port = str(free_port())
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.training.processes_run"),
                *(str(out), port, str(processes), str(index), *kinds),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=500)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in running:
            process.kill()
    with np.load(f"{out}.npz") as held:
        return dict(held)


def test_two_processes_train_like_one(tmp_path):
    two = train(tmp_path / "two", 2, "whole")
    np.testing.assert_array_equal(two["kept of layers"], meshed.LAYERS.sum(axis=1))
    step = jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=meshed.mesh(4))
    loop = jp.training.make_loop(step, meshed.batch_at, chunk_steps=5)
    dense = jp.prune(meshed.state().params, 0.5)[1]
    state, metrics = loop(meshed.state(dense), np.linspace(0.1, 0.01, 20))
    np.testing.assert_allclose(two["whole loss/0"], metrics["loss"], rtol=1e-5, atol=1e-5)
    for i, x in enumerate(jax.tree.leaves(state.params)):
        np.testing.assert_allclose(two[f"whole params/{i}"], x, rtol=1e-5, atol=1e-5)
    for i, x in enumerate(jax.tree.leaves(jp.prune(meshed.state().params, 0.7)[1])):
        np.testing.assert_array_equal(two[f"whole mask/{i}"], x)


@pytest.mark.slow
def test_two_processes_stop_and_go_on_like_one(tmp_path):
    kinds = ("whole", "sharded", "resume", "stream")
    one, two = train(tmp_path / "one", 1, *kinds), train(tmp_path / "two", 2, *kinds)
    assert one.keys() == two.keys()
    for name, x in one.items():
        if " mask" in name and "final" not in name:
            np.testing.assert_array_equal(x, two[name], err_msg=name)
            assert x.dtype == bool
        elif name.split("/")[0].endswith(("params", "loss")):
            np.testing.assert_allclose(x, two[name], rtol=1e-5, atol=1e-5, err_msg=name)
        elif "rates" in name:
            np.testing.assert_allclose(x, two[name], rtol=1e-6, err_msg=name)
        elif "kept" in name:
            np.testing.assert_array_equal(x, two[name], err_msg=name)
    for run in (one, two):
        assert run["sharded went on at"] < run["sharded stopped"], "the newest is damaged"
        assert run["whole went on at"] == run["whole stopped"]
    assert one["whole stopped"] < two["whole stopped"], "agreed on while a chunk runs"
    for kind in ("whole", "sharded"):
        np.testing.assert_allclose(one[f"{kind} accuracy"], two[f"{kind} accuracy"], atol=0.1)
    np.testing.assert_allclose(one["stream params/0"], one["whole params/0"], rtol=1e-5, atol=1e-5)
