"""What is computed from parameters alone is theirs: roles, scores and widths know it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import check_shrunk, normal
from tests.structured.test_rules import conv, params_of, sizes


class Case(NamedTuple):
    kernel: object  # of parameters
    shapes: dict
    roles: dict  # of the axes of its parameters that make the channels, by path
    gradients: bool = True


def normed(p):
    return p["v"] * p["g"][None] * lax.rsqrt(jnp.square(p["v"]).sum(0, keepdims=True) + 1e-3)


def normed_by_function(p):
    norm = jnp.linalg.norm(p["v"], axis=0) + 1e-3
    return p["v"] * (p["g"] / norm)[None]


def normed_in_float64_style(p):
    v = p["v"].astype(jnp.bfloat16).astype(jnp.float32)
    norm = jnp.sqrt(jnp.einsum("io,io->o", v, v) + 1e-3)
    return v / norm[None] * jnp.exp(p["g"])[None]


def power_iteration(w, u, steps):
    for _ in range(steps):
        v = w @ u
        u = v @ w
    return v / (jnp.sqrt((v * v).sum()) + 1e-3), u / (jnp.sqrt((u * u).sum()) + 1e-3)


def spectral(p):
    v, u = power_iteration(p["w"], p["u"], 1)
    return p["w"] / (jnp.abs(v @ p["w"] @ u) + 0.1)


def spectral_in_rows(p):
    """As in Linen: the vector is a row, and the kernel comes second."""
    u = p["u"][None]
    v = u @ p["w"].T
    return p["w"] / (jnp.sqrt(jnp.square(v).sum()) + 0.1)


def spectral_in_a_loop(p):
    def step(_, u):
        u = (p["w"] @ u) @ p["w"]
        return u / (jnp.sqrt((u * u).sum()) + 1e-3)

    u = lax.stop_gradient(lax.fori_loop(0, 3, step, p["u"]))
    return p["w"] / (jnp.sqrt(jnp.square(p["w"] @ u).sum()) + 0.1)


PATTERN = np.asarray(np.random.default_rng(5).random((3, 6)) < 0.7, np.float32)


def masked(p):
    return p["w"] * PATTERN


def masked_by_scores(p):
    scores = jax.nn.sigmoid(p["s"])
    return jnp.where(scores > 0.4, p["w"] * scores, 0.0)


@jax.custom_vjp
def signed(w):
    return jnp.sign(w)


signed.defvjp(lambda w: (signed(w), w), lambda w, t: (jnp.where(jnp.abs(w) < 1, t, 0.0),))


def binary(p):
    return signed(p["w"]) * jnp.abs(p["w"]).mean(0, keepdims=True)


def transposed(p):
    return p["w"].T


def positive(p):
    return jnp.exp(p["w"])


def softened(p):
    return jax.nn.softplus(p["w"]) * jax.nn.relu(p["s"])


def standardised(p):
    w = p["w"] - p["w"].mean(0, keepdims=True)
    return w * lax.rsqrt(jnp.square(w).mean(0, keepdims=True) + 1e-2)


def low_rank(p):
    return p["w"] + p["a"] @ p["b"]


def noisy(p):
    return p["w"] + jax.nn.softplus(p["s"]) * jax.random.normal(jax.random.key(3), (3, 6))


def chosen(p):
    """A layer's kernel by a counter."""
    return lax.dynamic_index_in_dim(p["w"], jnp.int32(1), keepdims=False)


def permuted(p):
    return p["w"][jnp.array([2, 0, 1])]


def written(p):
    return jnp.zeros((3, 6)).at[jnp.array([2, 0, 1])].set(p["w"])


W = {"w": (3, 6)}
V = {"v": (3, 6), "g": (6,)}
OUT = {"w": {1: "out"}}
OF_V = {"v": {1: "out"}, "g": {0: "out"}}
WITH_U = {**W, "u": (6,)}
WITH_S = {**W, "s": (3, 6)}

CASES = {
    "weight normalisation": Case(normed, V, OF_V),
    "weight normalisation, norm first": Case(normed_by_function, V, OF_V, gradients=False),
    "weight normalisation, log scale": Case(normed_in_float64_style, V, OF_V),
    "spectral norm": Case(spectral, WITH_U, {**OUT, "u": {0: "along"}}),
    "spectral norm, rows": Case(spectral_in_rows, WITH_U, {**OUT, "u": {0: "along"}}),
    "spectral norm, loop": Case(spectral_in_a_loop, WITH_U, {**OUT, "u": {0: "along"}}),
    "mask": Case(masked, W, OUT),
    "mask of scores": Case(masked_by_scores, WITH_S, {**OUT, "s": {1: "out"}}),
    "binary": Case(binary, W, OUT),
    "transposed": Case(transposed, {"w": (6, 3)}, {"w": {0: "out"}}),
    "exp": Case(positive, W, OUT),
    "softplus": Case(softened, WITH_S, {**OUT, "s": {1: "out"}}),
    "standardised": Case(standardised, W, OUT),
    "low rank": Case(low_rank, {**W, "a": (3, 4), "b": (4, 6)}, {**OUT, "b": {1: "out"}}),
    "noise": Case(noisy, WITH_S, {**OUT, "s": {1: "out"}}),
    "chosen": Case(chosen, {"w": (4, 3, 6)}, {"w": {2: "out"}}),
    "permuted": Case(permuted, W, OUT),
    "written": Case(written, W, OUT),
}


def network(case):
    return lambda p, x: jax.nn.relu(x @ case.kernel(p["a"])) @ p["z"]


@pytest.mark.parametrize("name", CASES)
def test_kernels_that_are_computed_have_their_roles(name):
    case = CASES[name]
    apply, params = network(case), params_of({"a": case.shapes, "z": (6, 2)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    (group,) = [g for g in groups if any(m.path == "z" for m in g.members)]
    found = {(m.path, m.axis): m.role for m in group.members}
    expected = {(f"a/{path}", i): r for path, axes in case.roles.items() for i, r in axes.items()}
    assert found == {**expected, ("z", 0): "in"}
    check_shrunk(
        apply, params, (normal(2, 3),), 0.5, groups=groups, gradients=case.gradients,
        export=name == "weight normalisation",
    )  # fmt: skip


# Those whose rows are neither tied to each other nor looked up.
READERS = (
    "mask", "mask of scores", "transposed", "exp", "softplus", "low rank", "noise", "chosen",
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_computed_kernels_that_read_channels_sum_over_them(name):
    case = CASES[name]

    def apply(p, x):
        return jax.nn.relu(x @ p["b"]) @ case.kernel(p["a"])

    params = params_of({"a": case.shapes, "b": (4, 3)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 4))
    (group,) = [g for g in groups if any(m.path == "b" for m in g.members)]
    assert group.name == "b"
    assert {m.role for m in group.members if m.path != "b"} == {"in"}


def test_ranks_of_a_product_are_a_group_of_their_own():
    case = CASES["low rank"]
    apply, params = network(case), params_of({"a": case.shapes, "z": (6, 2)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    assert sizes(groups) == {"a/b": 6, "a/a": 4}
    ranks = {(m.path, m.axis): m.role for m in groups["a/a"].members}
    assert ranks == {("a/a", 1): "out", ("a/b", 0): "in"}


def test_scores_and_widths_of_a_normalised_convolution():
    def apply(p, x):
        norm = lax.rsqrt(jnp.square(p["v"]).sum((0, 1), keepdims=True) + 1e-3)
        h = conv(x, p["v"] * norm * p["g"][None, None])
        return conv(jax.nn.relu(h), p["z"])

    params = params_of({"v": (3, 3, 4), "g": (4,), "z": (3, 4, 2)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 8, 3))
    assert sizes(groups) == {"v": 4}
    (scores,) = jp.structured.magnitude(groups, params)
    filters = np.abs(np.asarray(params["v"])).sum((0, 1)) + np.abs(np.asarray(params["g"]))
    others = np.argsort(np.asarray(scores))
    np.testing.assert_array_equal(others, np.argsort(filters))
    masks = jp.structured.masks(groups, [np.array([True, False, True, True])])
    assert jp.structured.widths(groups, masks) == {"g": 3, "v": 3}


def test_stacked_kernels_that_are_normalised_inside_of_a_loop():
    def apply(p, x):
        def layer(h, weights):
            v, g, down = weights
            return h + jax.nn.relu(h @ normed({"v": v, "g": g})) @ down, None

        return lax.scan(layer, x, (p["v"], p["g"], p["down"]))[0]

    params = params_of({"v": (2, 3, 6), "g": (2, 6), "down": (2, 6, 3)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    roles = {(m.path, m.axis): m.role for m in groups["v"].members}
    assert roles == {("v", 2): "out", ("g", 1): "out", ("down", 1): "in"}
    check_shrunk(apply, params, (normal(2, 3),), 0.5, groups=groups)


def test_learned_activations_are_no_kernels():
    """Queries that are parameters: what makes them is a product of parameters, too."""

    def apply(p, x):
        q, k = p["latents"] @ p["q"], x @ p["k"]
        return jax.nn.softmax(q @ k.T, axis=-1) @ k @ p["z"]

    params = params_of({"latents": (2, 4), "q": (4, 6), "k": (3, 6), "z": (6, 2)})
    groups = jp.structured.channel_groups(apply, params, normal(5, 3))
    roles = {(m.path, m.axis): m.role for g in groups for m in g.members}
    assert roles == {
        ("latents", 1): "out", ("q", 0): "in", ("q", 1): "out", ("k", 1): "out", ("z", 0): "in",
    }  # fmt: skip


def test_norms_of_linen():
    linen = pytest.importorskip("flax.linen")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.WeightNorm(linen.Conv(8, (3,)))(x))
            x = linen.relu(linen.SpectralNorm(linen.Conv(6, (3,)))(x, update_stats=True))
            return linen.Dense(3)(x.mean(1))

    model, x = Network(), normal(2, 8, 3)
    variables = model.init(jax.random.key(0), x)

    def apply(variables, x):
        return model.apply(variables, x, mutable=["batch_stats"])

    groups = jp.structured.channel_groups(apply, variables, x)
    assert sizes(groups) == {"params/Conv_0/kernel": 8, "params/Conv_1/kernel": 6}
    members = groups["params/Conv_0/kernel"].members
    assert {(m.path.split("/", 1)[1], m.axis): m.role for m in members} == {
        ("Conv_0/kernel", 2): "out",
        ("WeightNorm_0/Conv_0/kernel/scale", 0): "out",
        ("Conv_0/bias", 0): "along",
        ("Conv_1/kernel", 1): "in",
    }
    check_shrunk(apply, variables, (x,), 0.5, groups=groups)
