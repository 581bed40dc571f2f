"""The flag for convolutions on a CPU."""

import os
import subprocess
import sys

import jax
import pytest

from experiments.models import _convolution
from experiments.models._convolution import prefer_eigen_convolutions

FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def test_the_flag_is_added_to_those_that_are_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert prefer_eigen_convolutions()
    expected = f"--xla_cpu_enable_fast_math=false {FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    assert os.environ["XLA_FLAGS"] == expected
    assert not prefer_eigen_convolutions()  # once is enough
    assert os.environ["XLA_FLAGS"] == expected


def test_a_choice_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=")
    assert not prefer_eigen_convolutions()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}="


@pytest.mark.parametrize("version", [(0, 9, 2), (0, 13, 0)])
def test_releases_that_were_not_tried_are_left_alone(monkeypatch, version):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(jax, "__version_info__", version)
    assert not prefer_eigen_convolutions()


def test_hosts_of_tpus_are_left_alone(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(_convolution.importlib.util, "find_spec", lambda name: name)
    assert not prefer_eigen_convolutions()


@pytest.mark.slow
def test_this_xla_knows_the_flag_and_computes_the_same():
    # A process of its own: XLA reads its flags once, and an unknown one ends the process.
    code = """
import jax, jax.numpy as jnp
from experiments.models._convolution import prefer_eigen_convolutions
assert prefer_eigen_convolutions()
x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
def loss(kernel):
    y = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(y**2)
print(repr(float(jax.jit(loss)(kernel))), repr(float(jnp.sum(jax.jit(jax.grad(loss))(kernel)))))
"""
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def loss(kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (y**2).sum()

    value, gradient = map(float, done.stdout.split())
    assert value == pytest.approx(float(loss(kernel)), rel=1e-5)
    assert gradient == pytest.approx(float(jax.grad(loss)(kernel).sum()), rel=1e-4)
