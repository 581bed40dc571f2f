"""What holds for every score that is made of weights and a tree beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

SCORES = {
    "taylor": jp.scores.taylor,
    "snip": jp.scores.snip,
    "grasp": jp.scores.grasp,
    "fisher": jp.scores.fisher,
    "movement": jp.scores.movement,
}


def _trees(dtype=jnp.float32, leading=()):
    rng = np.random.default_rng(0)
    shapes = {"a": {"kernel": (8, 3), "bias": (3,)}, "b": {"w": (2, 4)}, "steps": None}

    def draw(positive):
        def make(shape):
            return rng.normal(size=(*leading, *shape))

        tree = jax.tree.map(make, shapes, is_leaf=lambda x: isinstance(x, tuple))
        return jax.tree.map(
            lambda x: jax.device_put((np.abs(x) if positive else x).astype(dtype)), tree
        )

    return draw(positive=False), draw(positive=True)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_same_under_jit_and_float32_at_least(name, dtype):
    params, grads = _trees(dtype)
    params["count"] = grads["count"] = jnp.arange(3)
    scores = SCORES[name](params, grads)
    assert scores["count"] is None
    assert scores["a"]["bias"] is None
    assert {leaf.dtype for leaf in jax.tree.leaves(scores)} == {jnp.dtype("float32")}
    compiled = jax.jit(SCORES[name])(params, grads)
    assert jax.tree.structure(compiled) == jax.tree.structure(scores)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scores, compiled)


def test_mixed_dtypes():
    params, grads = _trees(jnp.bfloat16)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    scores = jp.scores.taylor(params, grads)
    want = params["b"]["w"].astype(jnp.float32) * grads["b"]["w"]
    np.testing.assert_array_equal(scores["b"]["w"], np.abs(want))


def test_products_of_small_numbers_do_not_underflow():
    params, grads = {"w": jnp.full((1, 1), 1e-4, jnp.float16)}, {"w": jnp.full((1, 1), 1e-6)}
    grads = {"w": grads["w"].astype(jnp.float16)}
    assert jp.scores.taylor(params, grads)["w"] > 0


@pytest.mark.parametrize("name", SCORES)
def test_vmap_over_stacked_models(name):
    params, grads = _trees(leading=(3,))
    stacked = jax.vmap(SCORES[name])(params, grads)
    for i in range(3):
        single = SCORES[name](*jax.tree.map(lambda x, i=i: x[i], (params, grads)))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), stacked, single
        )


@pytest.mark.parametrize("name", SCORES)
def test_sharded(name):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params, grads = _trees()
    params, grads = ({"w": tree["a"]["kernel"]} for tree in (params, grads))
    want = SCORES[name](params, grads)["w"]
    got = jax.jit(SCORES[name])(*jax.device_put((params, grads), split))["w"]
    assert got.sharding.is_equivalent_to(split, 2)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_bad_input(name):
    score = SCORES[name]
    params = {"a": jnp.ones(2), "w": jnp.ones((2, 2))}
    grads = {"a": jnp.ones(2), "w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="it has 'v' where 'w' is"):
        score(params, {"a": jnp.ones(2), "v": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"has shape \(3, 2\) at 'w', the parameter \(2, 2\)"):
        score(params, grads | {"w": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="have nothing for the prunable leaf 'w'"):
        score(params, grads | {"w": None})
    with pytest.raises(ValueError, match="the weights at 'w' hold NaN"):
        score(params | {"w": jnp.full((2, 2), jnp.nan)}, grads)
    with pytest.raises(ValueError, match=r"the .* at 'w' hold inf"):
        score(params, grads | {"w": jnp.full((2, 2), jnp.inf)})
    with pytest.raises(ValueError, match="no prunable leaf"):
        score({"a": jnp.ones(2)}, {"a": jnp.ones(2)})
    integers = {"w": jnp.ones((2, 2), jnp.int32)}
    with pytest.raises(TypeError, match="only floating leaves"):
        score(integers, integers, where=lambda path, leaf: True)


def test_gradients_may_leave_out_what_is_not_prunable():
    params = {"a": jnp.ones(2), "w": jnp.ones((2, 2))}
    scores = jp.scores.taylor(params, {"a": None, "w": jnp.ones((2, 2))})
    assert scores["a"] is None
    assert scores["w"].tolist() == [[1, 1], [1, 1]]
