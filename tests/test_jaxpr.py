"""The walk through a jaxpr: which products are found, and what reaches the parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import _jaxpr
from jaxprune.transforms import _zeros


def _normal(seed, *shape):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


X = _normal(0, 5, 3)
W = _normal(1, 3, 4)
NORMS = np.sqrt(np.sum(np.square(np.asarray(X)), axis=0))[:, None]


def _norms(apply, params=None, batch=X):
    params = {"w": W} if params is None else params

    def everything(path, leaf):
        return leaf.ndim >= 2

    return jp.scores.input_norms(apply, params, [batch], where=everything)


@jax.custom_jvp
def _custom_jvp(x, w):
    return x @ w


_custom_jvp.defjvp(lambda primals, tangents: (_custom_jvp(*primals), _custom_jvp(*primals)))


@jax.custom_vjp
def _custom_vjp(x, w):
    return x @ w


_custom_vjp.defvjp(lambda x, w: (x @ w, None), lambda _, g: (g, g))

MASK = jnp.asarray(np.random.default_rng(2).random((3, 4)) < 0.5)


@pytest.mark.parametrize(
    ("apply", "shape"),
    [
        (lambda p, x: x @ p["w"], (3, 1)),
        (lambda p, x: (p["w"].T @ x.T).T, (3, 1)),
        (lambda p, x: jnp.einsum("bi,io->ob", x, p["w"]), (3, 1)),
        (lambda p, x: jnp.einsum("bi,ihk->bhk", x, p["w"].reshape(3, 2, 2)), (3, 1)),
        (lambda p, x: x @ p["w"][:, ::-1], (3, 4)),
        (lambda p, x: jax.vmap(lambda one: p["w"].T @ one)(x), (3, 1)),
        (lambda p, x: jax.jit(jnp.matmul)(x, p["w"]), (3, 1)),
        (lambda p, x: jax.checkpoint(jnp.matmul)(x, p["w"]), (3, 1)),
        (lambda p, x: _custom_jvp(x, p["w"]), (3, 1)),
        (lambda p, x: _custom_vjp(x, p["w"]), (3, 1)),
        (lambda p, x: x @ (p["w"] + 1.0), (3, 1)),
        (lambda p, x: x @ jax.lax.optimization_barrier(jax.lax.stop_gradient(-p["w"])), (3, 1)),
        (lambda p, x: jnp.concatenate(jnp.split(x @ p["w"], 2, axis=1)), (3, 1)),
        (lambda p, x: [x @ part for part in jnp.split(p["w"], 2, axis=1)], (3, 4)),
        (lambda p, x: x @ jnp.concatenate([p["w"], jnp.ones((3, 2))], axis=1), (3, 4)),
        (lambda p, x: [x @ part for part in jnp.stack(list(p["w"].T)).reshape(2, 2, 3).mT], (3, 4)),
        (lambda p, x: x @ jnp.pad(p["w"], ((0, 0), (1, 2))), (3, 4)),
        (lambda p, x: x @ (p["w"] + jax.lax.stop_gradient(p["w"] * MASK.astype(x.dtype) - p["w"])),
         (3, 1)),
    ],
)  # fmt: skip
def test_rearrangements(apply, shape):
    norms = _norms(apply)["w"]
    assert norms.shape == shape
    np.testing.assert_allclose(norms, np.broadcast_to(NORMS, shape), rtol=1e-5)


@pytest.mark.parametrize(
    "masked",
    [
        lambda w: jnp.where(MASK, w, 0.0),
        lambda w: w * MASK.astype(w.dtype),
        lambda w: w / jnp.where(MASK, 1.0, jnp.inf),
    ],
)
def test_masks_count_with_the_input(masked):
    norms = _norms(lambda p, x: x @ masked(p["w"]))["w"]
    np.testing.assert_allclose(norms, NORMS * np.asarray(MASK), rtol=1e-5)


def test_scales_count_with_the_input():
    norms = _norms(lambda p, x: x @ (p["w"] * 3.0))["w"]
    np.testing.assert_allclose(norms, 3 * NORMS, rtol=1e-5)
    scale = jnp.arange(4.0)
    norms = _norms(lambda p, x: x @ (p["w"] * scale[None]))["w"]
    np.testing.assert_allclose(norms, NORMS * np.arange(4.0), rtol=1e-5)


def test_shared_weights_add_up():
    square = {"w": _normal(3, 3, 3)}
    norms = _norms(lambda p, x: x @ p["w"] + (2 * x) @ p["w"], square)["w"]
    np.testing.assert_allclose(norms, np.sqrt(5) * NORMS, rtol=1e-5)
    norms = _norms(lambda p, x: x @ p["w"] + x @ p["w"].T, square)["w"]
    assert norms.shape == (3, 3)
    np.testing.assert_allclose(norms, np.sqrt(NORMS**2 + NORMS.T**2), rtol=1e-5)


def test_fused_projections():
    params = {"q": _normal(1, 3, 2), "k": _normal(2, 3, 4)}

    def fused(p, x):
        return x @ jnp.concatenate([p["q"], p["k"]], axis=1)

    norms = _norms(fused, params)
    for name, leaf in params.items():
        np.testing.assert_allclose(norms[name], np.broadcast_to(NORMS, leaf.shape), rtol=1e-5)


def test_embeddings_biases_and_attention_are_no_products():
    params = {"table": _normal(1, 7, 3), "position": _normal(2, 1, 3), "w": W, "unused": W}

    def apply(p, x):
        tokens = jnp.argmax(x, axis=1)
        y = (p["table"][tokens] + p["position"]) * p["position"]
        return jax.nn.softmax(y @ y.T) @ y @ p["w"]

    norms = _norms(apply, params)
    assert norms["table"] is None
    assert norms["position"] is None
    assert norms["unused"] is None
    assert norms["w"].shape == (3, 1)


def test_products_without_data_do_not_count():
    norms = _norms(lambda p, x: x @ p["a"] @ (p["b"] @ p["c"]), {k: jnp.eye(3) for k in "abc"})
    np.testing.assert_allclose(norms["a"], NORMS, rtol=1e-5)
    assert norms["b"] is None
    assert norms["c"] is None

    def spectral(p, x):
        return x @ (p["w"] / jnp.linalg.norm(jnp.ones((1, 3)) @ p["w"]))

    size = float(jnp.linalg.norm(jnp.ones((1, 3)) @ W))
    np.testing.assert_allclose(_norms(spectral)["w"][:, :1], NORMS / size, rtol=1e-5)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_cond_counts_the_branch_taken(taken):
    def apply(p, batch):
        x, index = batch
        branches = [
            lambda w, x: x @ w,
            lambda w, x: jnp.zeros((5, 4)),
            lambda w, x: 3 * x @ w[:, ::-1],
        ]
        return jax.lax.switch(index, branches, p["w"], x)

    norms = _norms(apply, batch=(X, jnp.int32(taken)))["w"]
    np.testing.assert_allclose(norms, np.broadcast_to((1, 0, 3)[taken] * NORMS, (3, 4)), rtol=1e-5)


def test_scan_over_stacked_layers_and_over_time():
    params = {"stack": _normal(1, 4, 3, 3), "shared": _normal(2, 3, 3)}

    def layer(shared, x, w):
        return jnp.tanh(x @ w + x @ shared)

    def scanned(p, x):
        return jax.lax.scan(lambda x, w: (layer(p["shared"], x, w), None), x, p["stack"])[0]

    def transposed(p, x):
        turned = {"stack": p["stack"].swapaxes(1, 2), "shared": p["shared"].T}

        def step(x, w):
            return (layer(turned["shared"].T, x, w.T), None)

        return jax.lax.scan(step, x, turned["stack"])[0]

    def indexed(p, x):
        def step(i, x):
            return layer(p["shared"], x, p["stack"][i])

        return jax.lax.fori_loop(0, 4, step, x)

    def carried(p, x):
        def step(i, state):
            x, p = state
            return layer(p["shared"], x, p["stack"][i]), p

        return jax.lax.fori_loop(0, 4, step, (x, p))[0]

    def unrolled(p, x):
        for i in range(4):
            x = layer(p["shared"], x, p["stack"][i])
        return x

    want, x = {"stack": [], "shared": 0}, np.asarray(X)
    for i in range(4):
        squares = np.sum(np.square(np.asarray(x)), axis=0)[:, None]
        want["stack"].append(np.sqrt(squares))
        want["shared"] += squares
        x = np.tanh(x @ np.asarray(params["stack"][i]) + x @ np.asarray(params["shared"]))
    for apply in (scanned, transposed, indexed, carried, unrolled):
        norms = _norms(apply, params)
        np.testing.assert_allclose(
            norms["stack"][..., :1], np.stack(want["stack"]), rtol=1e-5, err_msg=str(apply)
        )
        np.testing.assert_allclose(norms["shared"], np.sqrt(want["shared"]), rtol=1e-5)
    assert _norms(scanned, params)["stack"].shape == (4, 3, 1)


def test_while_adds_up():
    def apply(p, x):
        def proceed(state):
            return state[0] < 3

        def step(state):
            return (state[0] + 1, state[1] @ p["w"])

        return jax.lax.while_loop(proceed, step, (0, x))

    norms = _norms(apply, {"w": jnp.eye(3)})["w"]
    np.testing.assert_allclose(norms, np.sqrt(3) * NORMS, rtol=1e-5)


def test_a_tiled_weight_counts_every_copy():
    norms = _norms(lambda p, x: x @ jnp.tile(p["w"], (1, 3)))["w"]
    np.testing.assert_allclose(norms, np.broadcast_to(np.sqrt(3) * NORMS, (3, 4)), rtol=1e-5)


def test_a_batched_while_is_evaluated():
    def until_large(p, x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y @ p["w"] + 1, x)

    assert _norms(lambda p, x: jax.vmap(until_large, (None, 0))(p, x), {"w": jnp.eye(3)}) == {
        "w": None
    }


def test_unknown_primitives_are_evaluated_and_end_the_tracking():
    def apply(p, x):
        sorted_w = jnp.sort(p["w"], axis=0)
        q, _ = jnp.linalg.qr(p["q"])
        looped = jax.lax.while_loop(lambda w: jnp.sum(w) < 0, lambda w: w + 1, p["w"])
        return x @ sorted_w + x @ looped, x @ q, jax.random.uniform(jax.random.key(0))

    norms = _norms(apply, {"w": W, "q": jnp.eye(3)})
    assert norms == {"w": None, "q": None}


def _in_shard_map(f, *args):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=(spec,) * len(args), out_specs=spec)(*args)


def _grown(w):
    return jax.lax.scan(lambda w, _: (w * 2.0, None), w, length=2)[0]


def _inside_a_scan(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=2)[0]


@jax.custom_jvp
def _signs(w):
    return jnp.sign(w)


_signs.defjvp(lambda primals, tangents: (_signs(*primals), tangents[0]))


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x @ (w + w.T),
        lambda x, w: x @ jnp.tanh(w),
        lambda x, w: x @ jnp.tanh(w).T[:, ::-1],
        lambda x, w: x @ (w - jnp.mean(w, axis=0, keepdims=True)),
        lambda x, w: x @ jax.lax.stop_gradient(w - jnp.mean(w, axis=0, keepdims=True)),
        lambda x, w: x @ (w + jax.lax.stop_gradient(w) * jnp.tanh(w)),
        lambda x, w: x @ jax.lax.stop_gradient(jnp.tanh(w)),
        lambda x, w: x @ jax.nn.softmax(w),
        lambda x, w: x @ jnp.linalg.inv(w + 9 * jnp.eye(3)),
        lambda x, w: x @ (w > 0).astype(x.dtype),
        lambda x, w: x @ _signs(w),
        lambda x, w: x @ jnp.where(w > 0, w, jnp.expm1(w)),
        lambda x, w: x @ jnp.where(jnp.sum(x) > 0, w, 2 * w),
        lambda x, w: x @ jax.lax.cond(jnp.sum(x) > 0, lambda w: w, lambda w: 2 * w, w),
        lambda x, w: x @ jax.lax.cond(True, lambda w: w, lambda w: 2 * w, w),
        lambda x, w: jax.lax.cond(True, lambda w: x @ jnp.tanh(w), lambda w: x, w),
        lambda x, w: x @ _grown(w),
        lambda x, w: jax.lax.scan(lambda w, _: (w * 2.0, x @ w), w, length=2)[1],
        lambda x, w: jax.lax.fori_loop(0, 2, lambda _, x: x @ jnp.tanh(w), x),
        lambda x, w: x @ jax.lax.while_loop(lambda w: jnp.sum(w) < 9, lambda w: w + 1, w),
        lambda x, w: _inside_a_scan(x, jnp.tanh(w)),
        lambda x, w: _inside_a_scan(x, w - jnp.mean(w)),
        lambda x, w: jax.jit(lambda x, w: x @ w)(x, jnp.exp(w)),
        lambda x, w: x @ (w @ jnp.ones((3, 3))),
        lambda x, w: (x * jnp.tanh(w[:1])) @ (w * jnp.max(w) + w.T),
        lambda x, w: jax.lax.ragged_dot(x, w[None], jnp.array([5])),
        lambda x, w: _in_shard_map(jnp.matmul, x, w),
        lambda x, w: _in_shard_map(jax.jit(jnp.matmul), x, jnp.tanh(w)),
    ],
)
def test_a_use_that_is_not_followed_leaves_no_partial_sum(use):
    square = {"w": _normal(3, 3, 3), "v": _normal(4, 3, 3)}

    def both(p, x):
        return use(x, p["w"]), x @ p["w"], x @ p["v"]

    norms = _norms(both, square)
    assert norms["w"] is None
    np.testing.assert_allclose(norms["v"], NORMS, rtol=1e-5)
    with pytest.raises(ValueError, match="nothing for the prunable leaf 'w'"):
        jp.scores.wanda(square, norms)
    assert _norms(lambda p, x: use(x, p["w"]), square) == {"w": None, "v": None}


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: x + jnp.tanh(w[:1]),
        lambda x, w: (x * jnp.exp(w[:1])) @ jnp.ones((3, 3)),
        lambda x, w: jnp.sum(jnp.square(w)),
        lambda x, w: jax.nn.softmax(w[jnp.argmax(x, axis=1)]) @ x.T,
        lambda x, w: jnp.where(x > 0, x, jnp.tanh(w[:1])) @ jnp.ones((3, 3)),
        lambda x, w: jnp.ones((3, 3)) @ jnp.tanh(w),
        lambda x, w: _in_shard_map(jnp.add, x, w[:1]) @ jnp.ones((3, 3)),
        lambda x, w: jax.lax.scan(lambda h, x: (jnp.tanh(h + x), None), w[0], x)[0] @ x.T,
        lambda x, w: jax.lax.cond(True, lambda w: x + w[:1], lambda w: x, w) @ x.T,
    ],
)
def test_what_depends_on_the_data_is_no_parameter(use):
    norms = _norms(lambda p, x: (use(x, p["w"]), x @ p["w"]), {"w": _normal(3, 3, 3)})
    np.testing.assert_allclose(norms["w"], NORMS, rtol=1e-5)


def test_factors_masks_and_rounding_of_the_weight_itself():
    def quantised(w):
        return w + jax.lax.stop_gradient(jnp.round(w) - w)

    np.testing.assert_allclose(_norms(lambda p, x: x @ quantised(p["w"]))["w"], NORMS, rtol=1e-5)
    large = np.abs(np.asarray(W)) > 0.5
    for masked in (
        lambda w: jnp.where(jnp.abs(w) > 0.5, w, 0.0),
        lambda w: w * (jnp.abs(w) > 0.5).astype(w.dtype),
    ):
        norms = _norms(lambda p, x, masked=masked: x @ masked(p["w"]))["w"]
        np.testing.assert_allclose(norms, NORMS * large, rtol=1e-5)
    # A mask that is learned is a use of the parameters that it is made of.
    params = {"w": W, "s": W}
    norms = _norms(lambda p, x: (x @ (p["w"] * jax.nn.sigmoid(p["s"])), x @ p["s"]), params)
    assert norms["s"] is None
    np.testing.assert_allclose(norms["w"], NORMS * np.asarray(jax.nn.sigmoid(W)), rtol=1e-5)
    # Of a low-rank update only the factors are lost.
    params = {"w": W, "a": _normal(5, 3, 2), "b": _normal(6, 2, 4)}
    norms = _norms(lambda p, x: (x @ (p["w"] + p["a"] @ p["b"]), x @ p["a"]), params)
    assert norms["a"] is None
    assert norms["b"] is None
    np.testing.assert_allclose(norms["w"], NORMS, rtol=1e-5)


def test_a_barrier_keeps_weights_and_data_apart():
    def apply(p, x):
        x, w, v = jax.lax.optimization_barrier((x, p["w"], jnp.tanh(p["v"])))
        return x @ w, x @ v, x @ p["v"]

    norms = _norms(apply, {"w": W, "v": W})
    np.testing.assert_allclose(norms["w"], NORMS, rtol=1e-5)
    assert norms["v"] is None


def test_products_are_listed_with_their_repeats():
    def apply(p, x):
        def step(x, w):
            return jax.lax.scan(lambda x, _: (x @ w @ p["shared"], None), x, length=2)[0], None

        x, _ = jax.lax.scan(step, x, p["stack"])
        x = jax.lax.while_loop(lambda x: jnp.sum(x) < 0, lambda x: x @ p["shared"], x)
        return x @ x.T

    params = {"stack": jnp.ones((4, 3, 3)), "shared": jnp.ones((3, 3))}
    abstract = jax.eval_shape(lambda: (params, X))
    found = _jaxpr.products(apply, *abstract)
    assert [(p.leaves, p.repeats) for p in found] == [
        (((), ("stack",)), 8),
        (((), ("shared",)), 8),
        (((), ("shared",)), None),
        (((), ()), 1),
    ]
    assert found[0].eqn.outvars[0].aval.shape == (5, 3)


# One function inside each primitive that holds one, the same in all that read programs.
def _behind_custom_vjp(f):
    g = jax.custom_vjp(f)
    g.defvjp(lambda *xs: (f(*xs), xs), lambda xs, ct: jax.vjp(f, *xs)[1](ct))
    return g


def _behind_custom_jvp(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda xs, ts: jax.jvp(f, xs, ts))
    return g


def _scan(f):
    def once(*xs):
        _, (y,) = jax.lax.scan(lambda carry, _: (carry, (f(*xs),)), 0, None, length=1)
        return y[0]

    return once


HOLDERS = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "custom_jvp": _behind_custom_jvp,
    "custom_vjp": _behind_custom_vjp,
    "composite": lambda f: jax.lax.composite(f, name="test.f"),
    "nested": lambda f: jax.jit(jax.checkpoint(_behind_custom_jvp(f))),
    "cond": lambda f: lambda *xs: jax.lax.cond(xs[0].sum() > 0, f, f, *xs),
    "scan": _scan,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_table_names_what_holds_a_function(holder):
    jaxpr = jax.make_jaxpr(HOLDERS[holder](jnp.sin))(1.0).jaxpr
    kind = {"jit": "call", "composite": "call", "nested": "call"}.get(holder, holder)
    assert kind in {_jaxpr.KINDS.get(eqn.primitive.name) for eqn in jaxpr.eqns}


@pytest.mark.parametrize("holder", HOLDERS)
def test_all_readers_see_into_what_holds_a_function(holder):
    hold = HOLDERS[holder]
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    x = jnp.arange(1.0, 7).reshape(2, 3)

    def plain(params, x):
        return jnp.maximum(x @ params["a"], 0) @ params["b"]

    def inside(params, x):
        return hold(lambda x, w: jnp.maximum(x @ w, 0))(x, params["a"]) @ params["b"]

    where = lambda path, leaf: True  # noqa: E731
    assert [p.leaves for p in _jaxpr.products(inside, params, x)][-1:] == [((), ("b",))]
    ours, theirs = (jp.scores.input_norms(f, params, [x], where=where) for f in (inside, plain))
    jax.tree.map(np.testing.assert_allclose, ours, theirs)
    (ours,), (theirs,) = (jp.structured.channel_groups(f, params, x) for f in (inside, plain))
    assert [(m.path, m.axis, m.role) for m in ours.members] == [
        (m.path, m.axis, m.role) for m in theirs.members
    ]
    assert ours.size == theirs.size == 4

    # An optimizer whose update holds functions leaves the zeros of pruned weights alone.
    step = hold(lambda g: -0.1 * g) if holder != "cond" else lambda g: -0.1 * g
    tx = optax.stateless(lambda g, p: jax.tree.map(step, g))
    mask = jax.tree.map(lambda p: p > 0, params)
    zeros = _zeros.examiner(tx)(params, tx.init(params), params, mask, {})
    assert zeros.elementwise == (holder != "scan")  # loops are not read there
