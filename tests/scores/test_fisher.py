"""Fisher: saliency, and the diagonal from a stream of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


def _loss(params, example):
    y = jnp.tanh(example["x"] @ params["w"].astype(jnp.float32) + params["b"].astype(jnp.float32))
    return jnp.sum(jnp.square(y - example["y"]))


def _data(n):
    rng = np.random.default_rng(0)
    shapes = {"x": (n, 3), "y": (n, 2)}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def _params(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    w = jnp.asarray(rng.normal(size=(3, 2)), dtype)
    return {"w": w, "b": jnp.zeros(2, dtype), "step": jnp.int32(0)}


def _one_by_one(params, data):
    w = {k: params[k].astype(jnp.float32) for k in ("w", "b")}
    grad = jax.jit(jax.grad(_loss))
    grads = [grad(w, jax.tree.map(lambda x, i=i: x[i], data)) for i in range(10)]
    return {k: np.mean([np.square(g[k], dtype=np.float64) for g in grads], axis=0) for k in w}


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_diagonal(dtype, rtol):
    params, data = _params(dtype), _data(10)
    batches = (jax.tree.map(lambda x, i=i: x[i : i + 4], data) for i in (0, 4, 8))
    got = jp.scores.diagonal_fisher(_loss, params, batches)
    assert got["step"] is None
    for name, want in _one_by_one(params, data).items():
        assert got[name].dtype == jnp.float32
        np.testing.assert_allclose(got[name], want, rtol=rtol)
    scores = jp.scores.fisher(params, got)
    want = 0.5 * np.square(params["w"].astype(jnp.float32)) * got["w"]
    np.testing.assert_allclose(scores["w"], want, rtol=1e-6)


def test_squares_of_whole_batches():
    params, data = _params(), _data(8)
    batches = [jax.tree.map(lambda x, i=i: x[i : i + 4], data) for i in (0, 4)]

    def mean(params, batch):
        return jnp.mean(jax.vmap(_loss, (None, 0))(params, batch))

    got = jp.scores.diagonal_fisher(mean, params, batches, per_example=False)["w"]
    grad = jax.jit(jax.grad(lambda w, batch: mean(params | {"w": w}, batch)))
    grads = [grad(params["w"], batch) for batch in batches]
    np.testing.assert_allclose(got, np.mean(np.square(grads), axis=0), rtol=1e-5)


def test_batches_are_streamed_and_compiled_once():
    traced = []

    def loss(params, example):
        traced.append(1)
        return jnp.sum(params["w"] * example)

    jp.scores.diagonal_fisher(loss, {"w": jnp.ones((1, 1))}, (jnp.ones(4) for _ in range(5)))
    assert len(traced) == 1


def test_bad_input():
    params = {"w": jnp.ones((1, 1))}

    def loss(params, batch):
        return jnp.sum(params["w"]) * batch["x"] * batch["y"]

    with pytest.raises(ValueError, match="`batches` is empty"):
        jp.scores.diagonal_fisher(loss, params, [])
    with pytest.raises(ValueError, match="one common leading axis"):
        jp.scores.diagonal_fisher(loss, params, [{"x": jnp.ones(3), "y": jnp.ones(2)}])
    with pytest.raises(ValueError, match="one common leading axis"):
        jp.scores.diagonal_fisher(loss, params, [{"x": jnp.ones(3), "y": jnp.float32(1)}])
    with pytest.raises(ValueError, match="squared gradients at 'w' are negative"):
        jp.scores.fisher(params, {"w": -jnp.ones((1, 1))})
