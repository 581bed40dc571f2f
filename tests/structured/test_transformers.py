"""Transformers of three frameworks: grouped queries, fused projections, SwiGLU pairs, experts."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from tests.structured.checks import check_shrunk, normal, random_params

WIDTH, KV, GROUP, HEAD, HIDDEN, EXPERTS = 8, 2, 3, 4, 10, 3
X = normal(2, 5, WIDTH)
SIZES = {"q": KV * GROUP * HEAD, "k": KV * HEAD, "v": KV * HEAD, "o": WIDTH}
SIZES |= {"qkv": 3 * KV * HEAD, "out": WIDTH, "gate": HIDDEN, "up": HIDDEN, "down": WIDTH}


def block(x, linear, norm):
    """What the three compute: ``linear`` applies the layer of a name."""
    h = norm("norm_0", x)
    x = x + linear("o", grouped(linear("q", h), linear("k", h), linear("v", h)))
    h = norm("norm_1", x)
    x = x + linear("out", fused(linear("qkv", h)))
    h = norm("norm_2", x)
    return x + linear("down", jax.nn.silu(linear("gate", h)) * linear("up", h))


def grouped(q, k, v):
    """Grouped queries: each key and value serves several heads."""
    b, t, _ = q.shape
    q = q.reshape(b, t, KV, GROUP, HEAD)
    k, v = (a.reshape(b, t, KV, HEAD) for a in (k, v))
    p = jax.nn.softmax(jnp.einsum("bikgd,bjkd->bkgij", q, k) / 2.0, axis=-1)
    return jnp.einsum("bkgij,bjkd->bikgd", p, v).reshape(b, t, KV * GROUP * HEAD)


def fused(qkv):
    """One projection for queries, keys and values of all heads."""
    b, t, _ = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(b, t, 3, KV, HEAD), 2, 0)
    p = jax.nn.softmax(jnp.einsum("bikd,bjkd->bkij", q, k) / 2.0, axis=-1)
    return jnp.einsum("bkij,bjkd->bikd", p, v).reshape(b, t, KV * HEAD)


IN = {"o": KV * GROUP * HEAD, "out": KV * HEAD, "down": HIDDEN}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = {n: nn.Dense(size, name=n) for n, size in SIZES.items()}
        norms = {f"norm_{i}": nn.RMSNorm(name=f"norm_{i}") for i in range(3)}
        return block(x, lambda n, h: layers[n](h), lambda n, h: norms[n](h))


def of_linen():
    model = Linen()
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), X)


class NNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        for name, size in SIZES.items():
            setattr(self, name, nnx.Linear(IN.get(name, WIDTH), size, rngs=rngs))
        for i in range(3):
            setattr(self, f"norm_{i}", nnx.RMSNorm(WIDTH, rngs=rngs))

    def __call__(self, x):
        return block(x, lambda n, h: getattr(self, n)(h), lambda n, h: getattr(self, n)(h))


def of_nnx():
    graph, state = nnx.split(nnx.eval_shape(NNX))
    return lambda state, x: nnx.merge(graph, state)(x), state


class Equinox(eqx.Module):
    layers: dict

    def __init__(self, key):
        self.layers = {n: eqx.nn.Linear(IN.get(n, WIDTH), s, key=key) for n, s in SIZES.items()}
        self.layers |= {f"norm_{i}": eqx.nn.RMSNorm(WIDTH) for i in range(3)}

    def __call__(self, x):
        def each(n, h):
            return jax.vmap(jax.vmap(self.layers[n]))(h)

        return block(x, each, each)


def of_equinox():
    model = eqx.filter_eval_shape(Equinox, jax.random.key(0))
    params, rest = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    return lambda params, x: eqx.combine(params, rest)(x), params


@pytest.mark.parametrize("framework", [of_linen, of_nnx, of_equinox])
def test_grouped_queries_fused_projections_and_swiglu(framework):
    apply, params = framework()
    params = random_params(params)
    groups = jp.structured.channel_groups(apply, params, X)
    assert {layer(g.name): g.size for g in groups} == {
        "k": KV,  # with its queries, its values and what reads them
        "k#2": HEAD,  # features in which queries and keys meet
        "q": GROUP,  # queries of each key
        "v": HEAD,
        "qkv": KV,
        "qkv#2": HEAD,  # of queries, keys and values, which one axis holds
        "gate": HIDDEN,  # with "up"
    }, str(groups)
    gate = next(g for g in groups if layer(g.name) == "gate")
    assert {layer(m.path) for m in gate.role("out")} == {"gate", "up"}
    check_shrunk(apply, params, (X,), 0.5, groups=groups, gradients=framework is of_linen)


def test_a_cut_network_is_that_of_smaller_sizes():
    """One key with its queries, one query of each, half of SwiGLU: by hand."""
    apply, params = of_linen()
    params = random_params(params)
    groups = jp.structured.channel_groups(apply, params, X)
    kept = [np.ones(group.size, bool) for group in groups]
    for group, stays in zip(groups, kept, strict=True):
        gone = {"k": [1], "q": [0], "gate": range(5)}.get(layer(group.name), [])
        stays[list(gone)] = False
    small = jp.structured.cut(params, groups, jp.structured.masks(groups, kept))["params"]
    q = np.asarray(params["params"]["q"]["kernel"]).reshape(WIDTH, KV, GROUP, HEAD)
    np.testing.assert_array_equal(small["q"]["kernel"], q[:, :1, 1:].reshape(WIDTH, -1))
    o = np.asarray(params["params"]["o"]["kernel"]).reshape(KV, GROUP, HEAD, WIDTH)
    np.testing.assert_array_equal(small["o"]["kernel"], o[:1, 1:].reshape(-1, WIDTH))
    assert small["v"]["kernel"].shape == (WIDTH, HEAD)
    assert small["up"]["kernel"].shape == (WIDTH, 5)


def test_experts_go_with_their_gates_and_hidden_units_with_all():
    """A mixture whose router weighs all experts: experts, and the hidden width that they share."""
    params = {
        "router": normal(WIDTH, EXPERTS),
        "gate": normal(EXPERTS, WIDTH, HIDDEN, seed=2),
        "up": normal(EXPERTS, WIDTH, HIDDEN, seed=3),
        "down": normal(EXPERTS, HIDDEN, WIDTH, seed=4),
    }

    def apply(p, x):
        weights = jax.nn.sigmoid(x @ p["router"])
        h = jax.nn.silu(jnp.einsum("btd,edf->btef", x, p["gate"]))
        h = h * jnp.einsum("btd,edf->btef", x, p["up"])
        return jnp.einsum("btef,efd,bte->btd", h, p["down"], weights)

    groups = jp.structured.channel_groups(apply, params, X)
    assert sorted(group.size for group in groups) == [EXPERTS, HIDDEN]
    experts = next(group for group in groups if group.size == EXPERTS)
    assert {m.path for m in experts.members} == {"router", "gate", "up", "down"}
    check_shrunk(apply, params, (X,), 0.5, groups=groups)


def layer(name):
    """The layer that a group is named after, with what tells its groups apart."""
    path, _, number = name.partition("#")
    parts = [p for p in path.replace(":", "/").split("/") if p in SIZES]
    return parts[-1] + (f"#{number}" if number else "")
