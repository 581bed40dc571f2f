"""Paths, the default rule of what is prunable, trees side by side."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune import _tree

W, V = jnp.ones((3, 2)), jnp.ones((2,))


class Pair(NamedTuple):
    w: jax.Array
    b: jax.Array


def taken(params, where=None):
    return [path for path, _ in _tree.named_leaves(_tree.prunable(params, where))]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"Dense_0": {"kernel": W, "bias": V}}, ["Dense_0/kernel"]),
        ({"linear": {"w": W, "b": V}}, ["linear/w"]),
        ({"W1": W, "b1": V, "kernel_2": W}, ["W1", "kernel_2"]),
        ([(W, V), (W, V)], ["0/0", "1/0"]),
        ((Pair(W, V), Pair(W, V)), ["0/w", "1/w"]),
        ({"layers": [(W, V)]}, ["layers/0/0"]),
        ({"Embed_0": {"embedding": W}, "d": {"kernel": W}}, ["d/kernel"]),
        ({"embeddings": [W], "w": W}, ["w"]),
        ({"upscale": [W], "unnormalised": [W]}, ["unnormalised/0", "upscale/0"]),
        ({"w_out": W, "hidden_kernel": W, "proj": W, "w_scale": W}, ["hidden_kernel", "w_out"]),
        ({"layer_norm": [W], "scale_2": [W], "w": W}, ["w"]),
        ({"weight_hh_l0": W, "in_proj_weight": W}, ["in_proj_weight", "weight_hh_l0"]),
        ({"norm": {"scale": W, "bias": W}, "w": W}, ["w"]),
        ({"kernel": jnp.ones((2, 2), jnp.int32), "w": W}, ["w"]),
    ],
)
def test_default_rule(params, expected):
    assert taken(params) == expected


def test_flax_linen_attention_and_norms():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(nn.Embed(7, 8)(x))
            x = nn.MultiHeadDotProductAttention(num_heads=2)(x)
            return nn.Conv(4, (3,))(x)

    shapes = jax.eval_shape(Block().init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))
    assert [p.split("/", 1)[1] for p in taken(shapes)] == [
        "Conv_0/kernel",
        "MultiHeadDotProductAttention_0/key/kernel",
        "MultiHeadDotProductAttention_0/out/kernel",
        "MultiHeadDotProductAttention_0/query/kernel",
        "MultiHeadDotProductAttention_0/value/kernel",
    ]


def test_flax_nnx_state():
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    pruned, mask = jp.prune(state, 0.5)
    assert jp.metrics.counts(mask) == (3, 6)
    assert jax.tree.structure(pruned) == jax.tree.structure(state)


def test_where_chooses():
    params = {"a": {"kernel": W}, "b": {"kernel": W}}
    assert taken(params, lambda path, leaf: path.startswith("b")) == ["b/kernel"]


def test_nothing_prunable_lists_what_there_is():
    with pytest.raises(ValueError, match=r"no prunable leaf among 1: \[bias\(2,\)\].*where="):
        jp.prune({"bias": V}, 0.5)


def test_where_selecting_integers_names_the_leaf():
    with pytest.raises(TypeError, match=r"'steps' of dtype int32"):
        jp.prune({"steps": jnp.ones((2, 2), jnp.int32), "w": W}, 0.5, where=lambda p, x: True)


def test_default_where_is_public_and_composes():
    rule = lambda path, leaf: jp.default_where(path, leaf) and "head" not in path  # noqa: E731
    assert taken({"head": {"kernel": W}, "body": {"kernel": W}}, rule) == ["body/kernel"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"a": jnp.ones((3, 2), bool), "c": None}, r"it has 'c' where 'b' is"),
        ({"a": jnp.ones((2, 2), bool), "b": None}, r"shape \(2, 2\) at 'a'.*\(3, 2\)"),
        ({"a": jnp.ones((3, 2), bool)}, r"only the parameters have a leaf 'b'"),
        ({"a": None, "b": None, "z": None}, r"only the mask has a leaf 'z'"),
    ],
)
def test_trees_that_do_not_match_name_the_path(mask, message):
    with pytest.raises(ValueError, match=message):
        jp.apply_mask({"a": W, "b": V}, mask)


def test_absent_parameters_pass_through():
    params = {"a": W, "b": None, "c": optax.MaskedNode()}
    out = jp.apply_mask(params, {"a": jnp.zeros((3, 2), bool), "b": None, "c": None})
    assert out["b"] is None
    assert isinstance(out["c"], optax.MaskedNode)
    np.testing.assert_array_equal(out["a"], np.zeros((3, 2)))


def test_squared_norm_accumulates_bfloat16_in_float32():
    # In bfloat16 a running sum of ones stops growing at 256.
    assert float(_tree.squared_norm({"w": jnp.ones((5000,), jnp.bfloat16)})) == 5000.0
