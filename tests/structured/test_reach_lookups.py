"""Axes beside those that are looked up or written by index, three variants each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import normal
from tests.structured.test_rules import check, params_of, reasons, removable


class Case(NamedTuple):
    apply: object
    shapes: dict
    inputs: tuple
    expected: dict
    export: bool = False


IDS = jnp.asarray(np.random.default_rng(3).integers(0, 5, size=(2, 4)))


# Lookups.


def last_token(p, x, ids):
    """CLIP: the features at the end of each text, by a gather over whole rows."""
    h = jnp.tanh(x @ p["a"])
    return h[jnp.arange(2), ids.argmax(-1)] @ p["z"]


def mapped_slice(p, x, ids):
    h = jnp.tanh(x @ p["a"])
    return jax.vmap(lambda h, i: lax.dynamic_slice(h, (i, 0), (2, 6)))(h, ids[:, 0] % 3) @ p["z"]


def taken_rows(p, x, ids):
    h = jnp.tanh(x @ p["a"])
    return jnp.take_along_axis(h, (ids % 4)[:, :, None], axis=1) @ p["z"]


def state_space(p, x):
    """Mapped over channels, scanned over time: each channel indexes its own input."""

    def channel(u, dt, a, b):
        def step(h, t):
            h = h * jnp.exp(-jnp.square(dt * a)) + b * u[t]
            return h, (h * p["c"]).sum()

        return lax.scan(step, jnp.zeros(4), jnp.arange(5))[1]

    y = jax.vmap(channel)((x @ p["a"]).T, p["dt"], p["A"], p["B"])
    return y.T @ p["z"]


def state_space_by_index(p, x):
    u = x @ p["a"]
    decay = jax.vmap(lambda d: jnp.exp(-jnp.square(d[:, None] * p["A"])))(u)

    def step(h, i):
        h = decay[i] * h + u[i][:, None] * p["B"]
        return h, h.sum(1)

    return lax.scan(step, jnp.zeros((12, 4)), jnp.arange(5))[1] @ p["z"]


def mamba(p, x):
    """A Mamba block: gates, a causal convolution, an input-dependent state space."""
    u, gate = jnp.split(x @ p["in"], 2, axis=-1)
    padded = jnp.pad(u, ((2, 0), (0, 0)))
    u = jax.nn.silu(sum(padded[i : i + 5] * p["conv"][i][None] for i in range(3)))
    dt, b, c = jnp.split(u @ p["x"], [2, 6], axis=-1)
    dt = jax.nn.softplus(dt @ p["dt"])

    def step(h, t):
        a = jnp.exp(-jnp.square(dt[t])[:, None] * jnp.exp(p["A"]))
        h = a * h + (dt[t] * u[t])[:, None] * b[t][None]
        return h, h @ c[t]

    y = lax.scan(step, jnp.zeros((8, 4)), jnp.arange(5))[1] + u * p["D"][None]
    return (y * jax.nn.silu(gate)) @ p["out"]


TOKENS = (normal(2, 4, 3), IDS)
LAYER = {"a": (3, 6), "z": (6, 2)}
SSM = {"a": (3, 12), "A": (12, 4), "B": (12, 4), "z": (12, 2)}
MAMBA = {
    "in": (3, 16),
    "conv": (3, 8),
    "x": (8, 10),
    "dt": (2, 8),
    "A": (8, 4),
    "D": (8,),
    "out": (8, 3),
}

LOOKUPS = {
    "gather, last token": Case(last_token, LAYER, TOKENS, {"a": 6}, export=True),
    "gather, mapped slice": Case(mapped_slice, LAYER, TOKENS, {"a": 6}),
    "gather, rows": Case(taken_rows, LAYER, TOKENS, {"a": 6}),
    "state space, mapped": Case(
        state_space,
        {**SSM, "dt": (12,), "c": (4,)},
        (normal(5, 3),),
        {"a": 12, "A": 4},
        export=True,
    ),
    "state space, indexed": Case(state_space_by_index, SSM, (normal(5, 3),), {"a": 12, "A": 4}),
    "state space, Mamba": Case(mamba, MAMBA, (normal(5, 3),), {"dt": 8, "x": 6}),
}

# Writes.


def edges(reduce):
    """A graph network: messages along edges, put together at their ends."""

    def apply(p, x, edges):
        h = x @ p["a"]
        messages = jnp.tanh(h[edges[0]] + h[edges[1]])
        return reduce(messages, edges[1], 4) @ p["z"]

    return apply


def mean_of_edges(messages, ends, n):
    total = jax.ops.segment_sum(messages, ends, n)
    count = jax.ops.segment_sum(jnp.ones((6, 1)), ends, n)
    return total / jnp.broadcast_to(jnp.maximum(count, 1.0), total.shape)


def largest_of_edges(messages, ends, n):
    return jnp.zeros((n, 6)).at[ends].max(messages)


def cache_by_example(p, x, t):
    """Each example of a batch writes to its cache at a place of its own."""
    write = jax.vmap(lambda cache, k, t: lax.dynamic_update_slice(cache, k, (t, jnp.int32(0))))
    keys = write(jnp.ones((2, 5, 6)), x @ p["k"], t)
    scores = jnp.einsum("btc,bsc->bts", x @ p["q"], keys)
    return jnp.einsum("bts,bsc->btc", scores, keys) @ p["z"]


def cache_by_set(p, x, t):
    keys = jnp.zeros((2, 5, 6)).at[jnp.arange(2), t].set(x[:, 0] @ p["k"])
    return jnp.einsum("bc,bsc->bs", x[:, 0] @ p["q"], keys) @ jnp.ones((5, 1))


def padded_buffer(p, x, t):
    h = jax.nn.relu(x @ p["k"])
    buffer = jax.vmap(lambda h, t: jnp.zeros((6, 6)).at[t + jnp.arange(2)].set(h))(h, t)
    return buffer @ p["z"] + (x @ p["q"] @ p["z"])[:, :1]


def expert_choice(p, x):
    """Each expert takes its two best tokens; what it makes of them is added up."""
    scores, picked = lax.top_k(jax.nn.softmax(x @ p["router"], axis=-1).T, 2)
    h = jnp.einsum("etc,ecf->etf", x[picked], p["up"])
    y = jnp.einsum("etf,efc->etc", jnp.tanh(h), p["down"]) * scores[..., None]
    return jnp.zeros_like(x).at[picked.reshape(-1)].add(y.reshape(-1, 3))


def expert_choice_batched(p, x):
    return jax.vmap(lambda x: expert_choice(p, x))(x)


def expert_dispatch(p, x):
    """Tokens are put into the buffer of their expert and taken out again."""
    expert, place = jnp.array([0, 1, 0, 1, 1]), jnp.array([0, 0, 1, 1, 2])
    h = x @ p["router"]
    buffer = jnp.zeros((2, 3, 6)).at[expert, place].set(h, mode="drop")
    y = jnp.einsum("etf,efc->etc", jnp.tanh(jnp.einsum("etc,ecf->etf", buffer, p["up"])), p["down"])
    return y[expert, place]


EDGES = (normal(4, 3), jnp.array([[0, 1, 2, 3, 0, 1], [1, 2, 3, 0, 2, 3]]))
CACHE = {"k": (3, 6), "q": (3, 6), "z": (6, 2)}
STEP = (normal(2, 2, 3), jnp.array([1, 3]))
EXPERTS = {"router": (3, 2), "up": (2, 3, 8), "down": (2, 8, 3)}
DISPATCH = {"router": (3, 6), "up": (2, 6, 8), "down": (2, 8, 3)}

WRITES = {
    "scatter-add, sums": Case(edges(jax.ops.segment_sum), LAYER, EDGES, {"a": 6}, export=True),
    "scatter-add, means": Case(edges(mean_of_edges), LAYER, EDGES, {"a": 6}),
    "scatter-max": Case(edges(largest_of_edges), LAYER, EDGES, {"a": 6}),
    "update, mapped": Case(cache_by_example, CACHE, STEP, {"k": 6}, export=True),
    "scatter, set": Case(cache_by_set, {"k": (3, 6), "q": (3, 6)}, STEP, {"k": 6}),
    "scatter, padding": Case(padded_buffer, CACHE, STEP, {"k": 6}),
    "experts choose": Case(
        expert_choice, EXPERTS, (normal(5, 3),), {"down": 2, "up": 8}, export=True
    ),
    "experts choose, mapped": Case(
        expert_choice_batched, EXPERTS, (normal(2, 5, 3),), {"down": 2, "up": 8}
    ),
    "experts' buffers": Case(expert_dispatch, DISPATCH, (normal(5, 3),), {"router": 6, "up": 8}),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_that_do_not_touch_channels(name):
    run(LOOKUPS[name])


@pytest.mark.parametrize("name", WRITES)
def test_writes_that_do_not_touch_channels(name):
    run(WRITES[name])


def run(case):
    check(case.apply, case.shapes, *case.inputs, expected=case.expected, export=case.export)


# Where following is easily wrong.


def test_what_is_added_up_by_index_may_be_channels():
    """Channels are put together by index: the sum may lose those that are zero."""
    ids = jnp.array([0, 1, 0, 2, 2, 1])

    def summed(f):
        return lambda p, x: jnp.zeros((3, 2)).at[ids].add(f(x @ p["a"]).T).T @ p["z"]

    shapes, x = {"a": (3, 6), "z": (3, 2)}, normal(2, 3)
    check(summed(jnp.tanh), shapes, x, expected={"a": 6}, export=True)
    groups = jp.structured.channel_groups(summed(jnp.cos), params_of(shapes), x)
    assert len(groups) == 0
    assert "what is added is not zero where it is masked" in reasons(groups, "a", 1)


OTHER_WRITES = {
    "set": lambda h, i: jnp.zeros((3, 2)).at[i].set(h),
    "max": lambda h, i: jnp.zeros((3, 2)).at[i].max(h),
    "mul": lambda h, i: jnp.ones((3, 2)).at[i].mul(h),
}


@pytest.mark.parametrize("kind", OTHER_WRITES)
def test_what_is_written_otherwise_stays(kind):
    ids = jnp.array([0, 1, 0, 2, 2, 1])

    def apply(p, x):
        return OTHER_WRITES[kind]((x @ p["a"]).T, ids).T @ p["z"]

    params = params_of({"a": (3, 6), "z": (3, 2)})
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    assert removable(groups, "a", 1) == 0
    assert "looked up by index, in scatter" in reasons(groups, "a", 1)


BESIDE = {
    # Of what zeros are written to, or ones: whether the sum over the channels is exact.
    "set in zeros": (lambda h: jnp.zeros((4, 6)).at[1:3].set(h), True),
    "set in ones": (lambda h: jnp.ones((4, 6)).at[1:3].set(h), False),
    "mul of zeros": (lambda h: jnp.tile(h, (2, 1)).at[1].mul(3.0), True),
    "mul by zeros": (lambda h: jnp.ones((4, 6)).at[1:3].mul(h), False),
    "min of zeros": (lambda h: jnp.zeros((4, 6)).at[1:3].min(h), True),
    "add to zeros": (lambda h: jnp.tile(h, (2, 1)).at[1:3].add(jnp.sin(h)), True),
    "add of ones": (lambda h: jnp.tile(h, (2, 1)).at[1:3].add(1.0), False),
    "subtract": (lambda h: jnp.tile(h, (2, 1)).at[1:3].subtract(jnp.sin(h)), True),
    "a function": (lambda h: jnp.tile(h, (2, 1)).at[1].apply(jnp.sin), None),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_written_to_zeros_stays_zero(name):
    """Summed over the channels, which is exact only for zeros."""
    write, exact = BESIDE[name]
    apply = lambda p, x: write(x @ p["a"]).sum(1, keepdims=True)  # noqa: E731
    if exact:
        check(apply, {"a": (3, 6)}, normal(2, 3), expected={"a": 6})
        return
    groups = jp.structured.channel_groups(apply, params_of({"a": (3, 6)}), normal(2, 3))
    assert len(groups) == 0
    reason = "is not zero where it is masked" if exact is False else "a function is applied"
    assert reason in reasons(groups, "a", 1)


def test_a_filling_is_no_zero_along_mapped_channels():
    """An index out of range fills what would be zero, also where each channel has its own."""
    ids = jnp.array([0, 7, 1, 7, 0, 1])

    def apply(fill):
        def f(p, x):
            look_up = lambda h, i: h.at[i].get(mode="fill", fill_value=fill)  # noqa: E731
            return jax.vmap(look_up, in_axes=(1, 0))(x @ p["a"], ids).sum() + x[:1, 0]

        return f

    check(apply(0.0), {"a": (3, 6)}, normal(2, 3), expected={"a": 6})
    groups = jp.structured.channel_groups(apply(2.0), params_of({"a": (3, 6)}), normal(2, 3))
    assert len(groups) == 0


def test_channels_with_an_index_of_their_own():
    """Mapped over channels: each writes to its buffer at its own place."""
    places = jnp.array([0, 2, 1, 1, 0, 2])

    def apply(p, x):
        write = lambda h, i: lax.dynamic_update_slice(jnp.zeros(4), h, (i,))  # noqa: E731
        return jax.vmap(write, in_axes=(1, 0), out_axes=1)(x @ p["a"], places) @ p["z"]

    check(apply, LAYER, normal(2, 3), expected={"a": 6})
