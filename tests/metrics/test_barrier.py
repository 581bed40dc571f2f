"""The error between two networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.programs import counted

A = {"w": jnp.array([[-1.0, 2.0]]), "n": jnp.int32(3)}
B = {"w": jnp.array([[1.0, 0.0]]), "n": jnp.int32(3)}


def double_well(params):
    return float((params["w"][0, 0] ** 2 - 1) ** 2)


def test_it_is_the_maximum_above_the_mean_of_the_ends():
    found = jp.metrics.barrier(double_well, A, B, points=41)
    t = np.linspace(0, 1, 41)
    np.testing.assert_allclose(found.fractions, t)
    np.testing.assert_allclose(found.errors, ((2 * t - 1) ** 2 - 1) ** 2, atol=1e-6)
    assert found.height == pytest.approx(1.0)
    # The mean of both ends, not the better of them.
    tilted = jp.metrics.barrier(lambda p: double_well(p) + float(p["w"][0, 0]), A, B, points=41)
    assert tilted.height == pytest.approx(max(((2 * t - 1) ** 2 - 1) ** 2 + 2 * t - 1), abs=1e-6)


def test_ends_are_the_networks_themselves_in_every_dtype():
    seen = []
    a, b = (jax.tree.map(lambda x: (x / 3).astype(jnp.bfloat16), {"w": t["w"]}) for t in (A, B))
    jp.metrics.barrier(lambda p: seen.append(p["w"]) or 0.0, a, b, points=3)
    assert seen[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(seen[0], a["w"])
    np.testing.assert_array_equal(seen[2], b["w"])


def test_a_valley_has_no_barrier():
    assert jp.metrics.barrier(lambda p: float(p["w"][0, 0] ** 2), A, B).height == 0.0


def test_all_points_share_a_program():
    a, b = {"w": jnp.ones((3, 5, 7))}, {"w": jnp.zeros((3, 5, 7))}
    with counted() as programs:
        jp.metrics.barrier(lambda p: 0.0, a, b, points=20)
    assert programs.number <= 2


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ({"w": B["w"]}, "only one has 'n'"),
        ({"w": jnp.zeros((2, 2)), "n": jnp.int32(3)}, r"'w' is float32\[1, 2\] in the first"),
        ({"w": B["w"].astype(jnp.bfloat16), "n": jnp.int32(3)}, r"bfloat16\[1, 2\] in the second"),
        ({"w": B["w"], "n": jnp.int32(4)}, "'n' of dtype int32 differs"),
        ({"w": B["w"] / 0, "n": jnp.int32(3)}, "second network"),
    ],
)
def test_networks_that_no_line_joins(b, message):
    with pytest.raises(ValueError, match=message):
        jp.metrics.barrier(double_well, A, b)


def test_other_errors():
    with pytest.raises(ValueError, match="2 or more; got 1"):
        jp.metrics.barrier(double_well, A, B, points=1)
    with pytest.raises(FloatingPointError, match=r"NaN at fraction 0\.5"):
        jp.metrics.barrier(lambda p: float("nan") if p["w"][0, 0] == 0 else 0.0, A, B, points=3)
