"""`gsm` against its definition. What it has in common with `lc` is tested in `test_lc`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transform_cases import EXACT, stacked

import jaxprune as jp
from jaxprune.transforms._gsm import gsm

# Most of the time goes into compiling, which is faster without LLVM's optimizations.
quick_jit = functools.partial(jax.jit, compiler_options=EXACT)


def make_params():
    rng = np.random.default_rng(0)
    shapes = {
        "first": {"bias": (5,), "kernel": (4, 5)},
        "second": {"bias": (2,), "kernel": (5, 2)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def make_batches(steps):
    # Something to learn, for which both layers are needed.
    x = np.random.default_rng(1).normal(size=(steps, 8, 4))
    return x, 2 * np.roll(x, 1, axis=-1)[..., :2]


def loss(params, x, y):
    h = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    out = h @ params["second"]["kernel"] + params["second"]["bias"][None]
    return jnp.mean(jnp.square(out - y))


def slow_gradient(params, x, y):
    """The gradient of `loss`, written out; ``params`` and result are lists of arrays."""
    b1, w1, b2, w2 = params
    h = np.tanh(x @ w1 + b1)
    d_out = 2 * (h @ w2 + b2 - y) / y.size
    d_h = (d_out @ w2.T) * (1 - h * h)
    return [d_h.sum(0), x.T @ d_h, d_out.sum(0), h.T @ d_out]


def slow_gsm(params, batches, ranked, sparsity, lr, momentum, nesterov, decay):
    """Every step, entry by entry; ``ranked`` says of which arrays the gradient is masked."""
    params = [np.asarray(p, np.float64) for p in params]
    buffers, history = [np.zeros_like(p) for p in params], []
    for x, y in zip(*batches, strict=True):
        grads = slow_gradient(params, x, y)
        order = [
            (abs(w * g), i, place)
            for i, (ws, gs) in enumerate(zip(params, grads, strict=True))
            if ranked[i]
            for place, (w, g) in enumerate(zip(ws.ravel(), gs.ravel(), strict=True))
        ]
        for _, i, place in sorted(order)[: round(sparsity * len(order))]:
            grads[i].reshape(-1)[place] = 0.0
        for i, g in enumerate(grads):
            g = g + decay * params[i]
            buffers[i] = momentum * buffers[i] + g
            params[i] = params[i] - lr * (g + momentum * buffers[i] if nesterov else buffers[i])
        history.append([p.copy() for p in params])
    return history


def largest(vectors, removed):
    """For each array, which entries are not among the ``removed`` smallest of all."""
    order = sorted((abs(x), i, j) for i, v in enumerate(vectors) for j, x in enumerate(v.ravel()))
    kept = [np.ones(v.size, bool) for v in vectors]
    for _, i, j in order[:removed]:
        kept[i][j] = False
    return [k.reshape(v.shape) for k, v in zip(kept, vectors, strict=True)]


def assert_follows(method, optimizer, params, batches, expected):
    """A recipe that ends at sparsity 0.7: the weights of each step, then what it keeps of them."""
    tx = method.transform(optimizer)
    history = train(tx, params, batches)
    for i, leaf in enumerate(jax.tree.leaves(history)):
        slow = np.stack([step[i] for step in expected])
        np.testing.assert_allclose(leaf, slow, rtol=2e-4, atol=2e-5)
    end = jax.tree.map(lambda x: x[-1], history)
    final, mask = method.finish(end, tx.init(params))
    kernels = [w for w in expected[-1] if w.ndim == 2]
    kept = largest(kernels, round(0.7 * sum(w.size for w in kernels)))
    for layer, slow, m in zip(("first", "second"), kernels, kept, strict=True):
        np.testing.assert_array_equal(mask[layer]["kernel"], m)
        np.testing.assert_allclose(final[layer]["kernel"], slow * m, rtol=2e-4, atol=2e-5)
        assert mask[layer]["bias"] is None


def train(tx, params, batches):
    """The parameters after every step."""

    @quick_jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state, path = tx.init(params), []
    for batch in zip(*(x.astype(np.float32) for x in batches), strict=True):
        params, state = step(params, state, *batch)
        path.append(params)
    return stacked(path)


def test_one_step_by_hand():
    params = {"kernel": jnp.array([[4.0, -1.0], [2.0, 0.0]]), "bias": jnp.array([0.5, -3.0])}
    grads = {"kernel": jnp.array([[0.5, 1.0], [-1.5, 9.0]]), "bias": jnp.array([3.0, -0.5])}
    # |w g|: bias 1.5, 1.5; kernel 2, 1, 3, 0. Three go; of the tie the one that comes first.
    updates, state = gsm(0.5).update(grads, gsm(0.5).init(params), params)
    np.testing.assert_array_equal(updates["bias"], [0.0, -0.5])
    np.testing.assert_array_equal(updates["kernel"], [[0.5, 0.0], [-1.5, 0.0]])
    assert state == optax.EmptyState()


def test_all_weights_decay_and_keep_their_momentum():
    params = {"kernel": jnp.array([[4.0, 1.0]])}
    tx = optax.chain(gsm(0.5), optax.add_decayed_weights(0.5), optax.sgd(1.0, 0.5))
    state = tx.init(params)
    updates, state = tx.update({"kernel": jnp.array([[1.0, 1.0]])}, state, params)
    np.testing.assert_array_equal(updates["kernel"], [[-3.0, -0.5]])
    updates, state = tx.update({"kernel": jnp.array([[1.0, 8.0]])}, state, params)
    np.testing.assert_array_equal(updates["kernel"], [[-(1.5 + 2.0), -(0.25 + 8.5)]])


@pytest.mark.parametrize(
    ("nesterov", "where", "ranked"),
    [
        (True, None, (True, True, True, True)),
        (False, lambda path, leaf: leaf.ndim in (2, 4), (False, True, False, True)),
    ],
    ids=["all", "original"],
)
def test_forty_steps(nesterov, where, ranked):
    params, batches = make_params(), make_batches(40)
    optimizer = optax.chain(
        optax.add_decayed_weights(0.02), optax.sgd(0.05, 0.9, nesterov=nesterov)
    )
    expected = slow_gsm(
        jax.tree.leaves(params), batches, ranked, 0.7, 0.05, 0.9, nesterov, decay=0.02
    )
    assert_follows(jp.methods.gsm(0.7, ranked=where), optimizer, params, batches, expected)


def test_the_count_is_that_of_the_ranked_leaves_and_allocation_spreads_it():
    params, grads = make_params(), jax.tree.map(lambda p: p + 1, make_params())
    updates, _ = quick_jit(gsm(0.77).update)(grads, optax.EmptyState(), params)
    assert sum(int(jnp.sum(u == 0)) for u in jax.tree.leaves(updates)) == round(0.77 * 37)
    tx = gsm(0.5, allocation=jp.masks.uniform(), where=jp.default_where)
    updates, _ = quick_jit(tx.update)(grads, tx.init(params), params)
    assert [int(jnp.sum(u == 0)) for u in jax.tree.leaves(updates)] == [0, 10, 0, 5]


def test_patterns():
    params = {"bias": jnp.ones(3), "kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]])}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = gsm(None, pattern=jp.masks.nm(1, 2, axis=1), where=jp.default_where)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(updates["bias"], 1)
    with pytest.raises(ValueError, match=r"1:2 pattern fixes the sparsity, 0.5; got 0.6"):
        gsm(0.6, pattern=jp.masks.nm(1, 2, axis=1), where=jp.default_where).init(params)
    with pytest.raises(TypeError, match="sparsity is a number"):
        gsm(None)


def test_the_recipe_prunes_by_the_pattern_that_it_trained_for():
    params = {"bias": jnp.ones(3), "kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]])}
    for recipe in (jp.methods.gsm, jp.methods.lc):
        method = recipe(None, pattern=jp.masks.nm(1, 2, axis=1))
        tx = method.transform(optax.sgd(0.1))
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        assert not np.any(updates["bias"])
        _, mask = method.finish(params, state)
        np.testing.assert_array_equal(mask["kernel"], [[1, 0], [1, 0]])
        uniform = recipe(0.5, allocation=jp.masks.uniform())
        _, mask = uniform.finish(params, uniform.transform(optax.sgd(0.1)).init(params))
        np.testing.assert_array_equal(mask["kernel"], [[1, 0], [1, 0]])


def test_a_leaf_without_gradient_is_no_collapse():
    params = {"bias": jnp.zeros(2), "kernel": jnp.ones((2, 3))}
    updates, _ = gsm(0.5).update(params, gsm(0.5).init(params), params)
    np.testing.assert_array_equal(updates["bias"], 0)
    assert int(jnp.sum(updates["kernel"])) == 4


def test_what_is_not_finite_is_let_through():
    params = {"kernel": jnp.arange(1.0, 5.0).reshape(2, 2)}
    grads = {"kernel": jnp.array([[jnp.nan, 1.0], [-jnp.inf, 1.0]])}
    updates, _ = quick_jit(gsm(0.5).update)(grads, optax.EmptyState(), params)
    np.testing.assert_array_equal(updates["kernel"], [[np.nan, 0.0], [-np.inf, 0.0]])
    with pytest.raises(ValueError, match="the gradients at 'kernel' hold NaN"):
        gsm(0.5).update(grads, optax.EmptyState(), params)


def test_products_of_16_bits_do_not_tie():
    # 1.0078125 ** 2 and 1.015625 * 1.0 are the same bfloat16; the first is larger.
    params = {"kernel": jnp.array([[1.0078125, 1.015625]], jnp.bfloat16)}
    grads = {"kernel": jnp.array([[1.0078125, 1.0]], jnp.bfloat16)}
    updates, _ = gsm(0.5).update(grads, optax.EmptyState(), params)
    assert updates["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["kernel"].astype(jnp.float32), [[1.0078125, 0.0]])


def test_refusals():
    params = make_params()
    with pytest.raises(ValueError, match=r"gsm needs the parameters, got params=None"):
        gsm(0.5).update(params, optax.EmptyState())
    with pytest.raises(ValueError, match=r"in \[0, 1\); got 90.0. For 90 % pass 0.9"):
        gsm(90)
    with pytest.raises(ValueError, match=r"in \[0, 1\); got -0.1"):
        gsm(-0.1)
    with pytest.raises(TypeError, match=r"sparsity is a number.*got 'high'"):
        gsm("high")
    with pytest.raises(ValueError, match="no prunable leaf among 4"):
        gsm(0.5, where=lambda path, leaf: False).init(params)
    grads = {"first": params["first"], "second": {**params["second"], "bias": None}}
    with pytest.raises(ValueError, match="nothing for the prunable leaf 'second/bias'"):
        gsm(0.5).update(grads, optax.EmptyState(), params)
    with pytest.raises(TypeError, match=r"scores must be a function.*dict"):
        gsm(0.5, scores=params)
