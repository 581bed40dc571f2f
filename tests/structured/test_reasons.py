"""Why channels stay: what stopped them, in which line, and what would free them."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import normal


def groups_of(apply, shapes, *inputs):
    params = {name: normal(*shape) for name, shape in shapes.items()}
    return jp.structured.channel_groups(apply, params, *inputs)


def entry(groups, path, axis):
    (found,) = (f for f in groups.fixed if (f.path, f.axis) == (path, axis))
    return found


def orthogonal(h):
    return lax.linalg.qr(h.T @ h)[0]


def test_what_stops_channels_is_named_downstream_with_its_line():
    def apply(p, x):
        h = orthogonal(x @ p["a"]).reshape(2, 3, 6)
        return jnp.tanh(h[0] * p["s"][None]) @ p["z"]

    groups = groups_of(apply, {"a": (3, 6), "s": (6,), "z": (6, 2)}, normal(4, 3))
    line = inspect.getsourcelines(orthogonal)[1] + 1
    for path, axis in (("s", 0), ("z", 0)):
        found = entry(groups, path, axis)
        assert found.reason.startswith("it is not followed through, in ")
        assert found.line.endswith(f"test_reasons.py:{line}")
        assert f"{found.reason} ({found.line})" in str(groups)


STOPS = {
    # A body whose result has an axis that cannot vanish, of a size above one; part of the reason.
    "stacked": (lambda h: jnp.stack([h[0, 0], h[1, 1]] * 3)[None], "stacked values, in stack"),
    "put together": (
        lambda h: jnp.concatenate([h[:, i : i + 1] for i in range(6)] * 2, 1).sum(1, keepdims=True)
        * jnp.concatenate([h.sum(1, keepdims=True)] * 6, 1),
        "put together from axes of one position, in concatenate",
    ),
    "the largest": (lambda h: lax.top_k(h.sum(0), 6)[0][None], "in top_k"),
    "windows": (
        lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"),
        "windows run along it, in reduce_window_max",
    ),
    "a part": (
        lambda h: lax.dynamic_slice_in_dim(jnp.tile(h, (1, 2)), jnp.int32(1), 6, 1),
        "looked up by index, in dynamic_slice",
    ),
    "a loop": (
        lambda h: lax.scan(lambda c, _: (c, c.sum()), h, length=6)[1][None],
        "stacked by a loop, in scan",
    ),
    "an image": (
        lambda h: lax.conv_general_dilated(h[:, None], jnp.ones((1, 1, 3)), (1,), "SAME")[:, 0],
        "in conv_general_dilated",
    ),
    "inner padding": (
        lambda h: lax.pad(h[:, :3], 0.0, ((0, 0, 0), (0, 1, 1))),
        "padded between its positions, in pad",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_axes_downstream_have_the_reason_of_what_stopped_them(name):
    body, reason = STOPS[name]
    shapes = {"a": (3, 6), "z": (6, 2)}
    groups = groups_of(lambda p, x: body(x @ p["a"]) @ p["z"], shapes, normal(2, 3))
    found = entry(groups, "z", 0)
    assert reason in found.reason
    assert "test_reasons.py:" in found.line


def test_no_axis_of_several_positions_is_said_to_have_one():
    for body, _ in STOPS.values():
        shapes = {"a": (3, 6), "z": (6, 2)}
        groups = groups_of(lambda p, x, f=body: f(x @ p["a"]) @ p["z"], shapes, normal(2, 3))
        assert "one position, in dot" not in str(groups)


def test_lines_of_frameworks_are_left_for_those_of_the_user():
    linen = pytest.importorskip("flax.linen")
    layer = linen.Dense(6)

    def apply(p, x):
        return jax.nn.softmax(layer.apply(p, x))

    params = layer.init(jax.random.key(0), normal(2, 3))
    groups = jp.structured.channel_groups(apply, params, normal(2, 3))
    lines = {f.line for f in groups.fixed if f.line}
    assert len(lines) > 0
    assert all("test_reasons.py:" in line for line in lines)


def carry_as_input(p, x, h):
    h = jnp.tanh(x @ p["a"] + h @ p["w"])
    return h, h @ p["z"]


def test_a_carry_that_is_an_input_says_where_to_put_it():
    shapes = {"a": (3, 6), "w": (6, 6), "z": (6, 2)}
    groups = groups_of(carry_as_input, shapes, normal(2, 3), normal(2, 6))
    assert len(groups) == 0
    repair = (
        "If the result '0' is the new value of input 1 (a carry, a cache), put it into the first "
        "argument, and return it under the same path."
    )
    assert entry(groups, "w", 0).repair == entry(groups, "w", 1).repair == repair
    assert str(groups).count(repair) == 1
    with pytest.raises(ValueError, match="put it into the first argument"):
        groups.index("a")

    # That is what frees it.
    def apply(p, x):
        h, y = carry_as_input(p["w"], x, p["h"])
        return y, {"h": h}

    params = {"w": {k: normal(*s) for k, s in shapes.items()}, "h": normal(2, 6)}
    assert [g.size for g in jp.structured.channel_groups(apply, params, normal(2, 3))] == [6]


def test_a_cache_that_is_written_to_says_so_too():
    def apply(p, x, cache, t):
        cache = {"keys": lax.dynamic_update_slice(cache["keys"], x @ p["k"], (t, jnp.int32(0)))}
        return jax.nn.softmax((x @ p["q"]) @ cache["keys"].T) @ cache["keys"] @ p["z"], cache

    shapes = {"k": (3, 6), "q": (3, 6), "z": (6, 2)}
    inputs = normal(1, 3), {"keys": normal(5, 6)}, jnp.int32(0)
    groups = groups_of(apply, shapes, *inputs)
    assert "the result '1/keys' is the new value of input 1/keys" in entry(groups, "k", 1).repair


def test_a_function_without_a_carry_gets_no_advice():
    def autoencoder(p, x):
        return jnp.tanh(x @ p["a"]) @ p["z"]

    groups = groups_of(autoencoder, {"a": (3, 6), "z": (6, 3)}, normal(2, 3))
    assert not any(f.repair for f in groups.fixed)
