"""apply_mask, prune, dense masks and the report."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp

PARAMS = {"kernel": jnp.array([[3.0, -4.0], [0.5, -0.1]]), "bias": jnp.ones(2)}


def test_magnitude_by_default():
    pruned, mask = jp.prune(PARAMS, 0.5)
    assert pruned["kernel"].tolist() == [[3.0, -4.0], [0.0, 0.0]]
    assert mask["bias"] is None
    np.testing.assert_array_equal(pruned["bias"], PARAMS["bias"])


def test_scores_as_tree_or_function():
    scores = {"kernel": -jnp.abs(PARAMS["kernel"]), "bias": None}
    for given in (scores, lambda params: scores):
        pruned, _ = jp.prune(PARAMS, 0.5, scores=given)
        assert pruned["kernel"].tolist() == [[0.0, 0.0], [0.5, pytest.approx(-0.1)]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_zero_is_positive(dtype):
    params = {"w": -jnp.ones((4,), dtype)}
    pruned = jp.apply_mask(params, {"w": jnp.array([True, False, True, False])})
    assert pruned["w"].dtype == dtype
    assert not np.any(np.signbit(np.asarray(pruned["w"].astype(jnp.float32))[[1, 3]]))


def test_within_is_honoured_where_pruned_weights_tie_with_zeros():
    params = {"w": jnp.zeros((4,))}
    within = {"w": jnp.array([True, True, False, True])}
    _, mask = jp.prune(params, 0.5, within=within, where=lambda path, leaf: True)
    assert mask["w"].tolist() == [False, True, False, True]


def test_prune_under_jit():
    pruned, mask = jax.jit(lambda p: jp.prune(p, 0.5))(PARAMS)
    eager, _ = jp.prune(PARAMS, 0.5)
    np.testing.assert_array_equal(pruned["kernel"], eager["kernel"])
    assert mask["bias"] is None


@pytest.mark.parametrize(("bad", "word"), [(jnp.nan, "NaN"), (jnp.inf, "inf")])
def test_weights_that_are_not_finite(bad, word):
    params = {"net": {"kernel": PARAMS["kernel"].at[0, 1].set(bad)}}
    with pytest.raises(ValueError, match=rf"weights at 'net/kernel' hold {word}"):
        jp.prune(params, 0.5)
    with pytest.raises(ValueError, match=rf"weights at 'net/kernel' hold {word}"):
        jp.prune(params, 0.5, scores=jp.scores.random(jax.random.key(0), params))


def test_bad_arguments():
    with pytest.raises(TypeError, match="pass `where` to the function that makes the scores"):
        jp.prune(PARAMS, 0.5, scores=jp.scores.magnitude(PARAMS), where=lambda p, x: True)
    with pytest.raises(ValueError, match="score tree is of another tree"):
        jp.prune(PARAMS, 0.5, scores={"other": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"mask holds boolean arrays.*'kernel' has dtype float32"):
        jp.apply_mask(PARAMS, {"kernel": jnp.ones((2, 2)), "bias": None})


def test_scores_of_a_parameter_that_is_not_there():
    scores = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones((2, 2))}}
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": None}}
    with pytest.raises(ValueError, match="scores at 'b/kernel', but no parameter"):
        jp.prune(params, 0.5, scores=scores)


def test_report_shows_the_rule_or_the_mask():
    _, mask = jp.prune(PARAMS, 0.25)
    table = jp.masks.report(PARAMS, mask)
    assert "| kernel | 2x2 | float32 | yes | 3 | 0.2500 |" in table
    assert "| bias | 2 | float32 | no | 2 | |" in table
    assert "| all prunable | | | 1 of 2 leaves | 4 | 0.0000 |" in jp.masks.report(PARAMS)


def test_other_containers_with_the_same_paths_are_the_same_parameters():
    frozen = flax.core.freeze({"net": PARAMS})
    scores = {"net": jp.scores.magnitude(PARAMS)}
    pruned, mask = jp.prune(frozen, 0.5, scores=scores)
    assert isinstance(pruned, flax.core.FrozenDict)
    assert pruned["net"]["kernel"].tolist() == [[3.0, -4.0], [0.0, 0.0]]
    assert isinstance(mask, dict)


def test_eight_bit_floats():
    values = jnp.array([[0.5, -2.0], [1.0, 0.25]]).astype(jnp.float8_e4m3fn)
    with jax.numpy_dtype_promotion("standard"):
        pruned, _ = jp.prune({"kernel": values}, 0.5)
    assert pruned["kernel"].dtype == jnp.float8_e4m3fn
    assert pruned["kernel"].astype(jnp.float32).tolist() == [[0.0, -2.0], [1.0, 0.0]]


def test_the_dense_mask_lies_where_the_parameters_lie():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    params = {"kernel": jax.device_put(jnp.ones((8, 2)), sharding)}
    assert jp.masks.dense(params)["kernel"].sharding == sharding
