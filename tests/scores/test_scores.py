"""Scores of the spine: magnitude and random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.programs import counted


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_magnitude(dtype):
    scores = jp.scores.magnitude({"kernel": jnp.array([[-2, 1]], dtype), "bias": jnp.ones(2)})
    assert scores["bias"] is None
    assert scores["kernel"].dtype == dtype
    assert scores["kernel"].tolist() == [[2, 1]]


def test_random_depends_on_key_and_leaf_but_not_on_the_others():
    params = {"a": {"kernel": jnp.ones((50, 40))}, "b": {"kernel": jnp.ones((50, 40))}}
    scores = jp.scores.random(jax.random.key(0), params)
    again = jp.scores.random(jax.random.key(0), params)
    other = jp.scores.random(jax.random.key(1), params)
    a = np.asarray(scores["a"]["kernel"])
    np.testing.assert_array_equal(a, again["a"]["kernel"])
    assert not np.array_equal(a, other["a"]["kernel"])
    assert not np.array_equal(a, scores["b"]["kernel"])
    assert a.min() >= 0
    assert a.max() < 1
    assert abs(a.mean() - 0.5) < 0.03


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_random_draws_each_leaf_from_its_own_key_in_one_program(make_key):
    key = make_key(3)
    shapes = [(4, 6), (1, 24), (3, 5, 2), (24,), (1025, 512), (512, 1025), (0, 3)]
    params = [jnp.ones(shape) for shape in shapes]
    with counted() as programs:
        scores = jp.scores.random(key, params, where=lambda path, leaf: True)
    assert programs.number <= 1
    for i, (score, shape) in enumerate(zip(scores, shapes, strict=True)):
        expected = jax.random.uniform(jax.random.fold_in(key, i), shape, jnp.float32)
        np.testing.assert_array_equal(score, expected)


def test_bad_input():
    for make in (jp.scores.magnitude, lambda p, **k: jp.scores.random(jax.random.key(0), p, **k)):
        with pytest.raises(ValueError, match="no prunable leaf"):
            make({"bias": jnp.ones(3)})
        with pytest.raises(TypeError, match="only floating leaves"):
            make({"w": jnp.ones((3, 3), jnp.int32)}, where=lambda path, leaf: True)
    with pytest.raises(ValueError, match="weights at 'w' hold NaN"):
        jp.scores.magnitude({"w": jnp.full((2, 2), jnp.nan)})


CLOSED_OVER = {
    "magnitude": jp.scores.magnitude,
    "taylor": lambda p: jp.scores.taylor(p, p),
    "snip": lambda p: jp.scores.snip(p, p),
    "grasp": lambda p: jp.scores.grasp(p, p),
    "fisher": lambda p: jp.scores.fisher(p, p),
    "movement": lambda p: jp.scores.movement(p, p, previous=p),
    "wanda": lambda p: jp.scores.wanda(p, p),
    "lamp": jp.scores.lamp,
    "synflow": lambda p: jp.scores.synflow(lambda p, x: x @ p["w"], p, jnp.ones((1, 2))),
    "geometric_median": jp.scores.geometric_median,
    "batch_norm_scale": lambda p: jp.scores.batch_norm_scale(p | {"s": p["w"][0]}, {"w": "s"}),
    "input_norms": lambda p: jp.scores.input_norms(lambda p, x: x @ p["w"], p, [jnp.ones((1, 2))]),
}


@pytest.mark.parametrize("loop", [False, True])
def test_values_that_a_compiled_function_closes_over(loop):
    params = {"w": jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}

    def scores():
        return {name: score(params)["w"] for name, score in CLOSED_OVER.items()}

    def compiled(x):
        if loop:
            return jax.lax.scan(lambda x, _: (x, scores()), x, length=2)[1]
        return jax.tree.map(lambda score: score[None] * x, scores())

    got, want = jax.jit(compiled)(jnp.ones(())), scores()
    for name in CLOSED_OVER:
        np.testing.assert_allclose(got[name][0], want[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("traced", ["weights", "the others"])
def test_traced_values_beside_closed_over_ones(traced):
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    names = ("taylor", "snip", "grasp", "fisher", "movement", "wanda")

    def scores(weights, others):
        return {name: getattr(jp.scores, name)(weights, others)["w"] for name in names}

    if traced == "weights":
        got = jax.jit(lambda weights: scores(weights, params))(params)
    else:
        got = jax.jit(lambda others: scores(params, others))(params)
    want = scores(params, params)
    for name in names:
        np.testing.assert_allclose(got[name], want[name], err_msg=name)


def test_bad_values_that_a_compiled_function_closes_over_do_not_raise():
    bad = {"w": jnp.array([[-1.0, jnp.nan]])}
    for score in (jp.scores.magnitude, jp.scores.lamp, lambda p: jp.scores.fisher(p, p)):
        assert jnp.isnan(jax.jit(lambda x, score=score: score(bad)["w"] * x)(1.0)).any()


def test_prune_with_a_traced_sparsity_and_closed_over_weights():
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    pruned, mask = jax.jit(lambda s: jp.prune(params, s))(0.5)
    assert pruned["w"].tolist() == [[0, 0], [3, 4]]
    assert mask["w"].tolist() == [[False, False], [True, True]]
