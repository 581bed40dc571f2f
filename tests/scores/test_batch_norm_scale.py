"""Batch norm scale: one score per output channel."""

import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp

PARAMS = {
    "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "other": {"kernel": jnp.ones((4, 2))},
    "norm": {"scale": jnp.array([-1.0, 2.0, 0.0, 4.0]), "count": jnp.int32(1)},
}


def test_broadcast_along_the_channel_axis():
    scores = jp.scores.batch_norm_scale(PARAMS, {"conv/kernel": "norm/scale"})
    assert scores["conv"]["kernel"].shape == (3, 3, 2, 4)
    assert scores["conv"]["kernel"][2, 1, 0].tolist() == [1, 2, 0, 4]
    assert jax.tree.leaves(scores)[1:] == []

    both = {"conv/kernel": "norm/scale", "other/kernel": "norm/scale"}
    axes = {"conv/kernel": -1, "other/kernel": 0}
    scores = jax.jit(lambda p: jp.scores.batch_norm_scale(p, both, axis=axes))(PARAMS)
    assert scores["other"]["kernel"].tolist() == [[1, 1], [2, 2], [0, 0], [4, 4]]


def test_bad_input():
    score = jp.scores.batch_norm_scale
    with pytest.raises(ValueError, match="`scales` is empty"):
        score(PARAMS, {})
    with pytest.raises(ValueError, match=r"no leaf 'con/kernel'; .*'conv/kernel'"):
        score(PARAMS, {"con/kernel": "norm/scale"})
    with pytest.raises(ValueError, match=r"no leaf 'norm/gamma'; .*'norm/"):
        score(PARAMS, {"conv/kernel": "norm/gamma"})
    with pytest.raises(ValueError, match=r"'norm/scale' has shape \(4,\), .* has 2 channels"):
        score(PARAMS, {"other/kernel": "norm/scale"})
    with pytest.raises(ValueError, match="`axis` gives 4 for 'conv/kernel'"):
        score(PARAMS, {"conv/kernel": "norm/scale"}, axis=4)
    with pytest.raises(ValueError, match="`axis` gives None for 'conv/kernel'"):
        score(PARAMS, {"conv/kernel": "norm/scale"}, axis={})
    with pytest.raises(TypeError, match="'norm/count' is not floating"):
        score(PARAMS, {"conv/kernel": "norm/count"})
    bad = {"kernel": jnp.ones((1, 1)), "scale": jnp.array([jnp.nan])}
    with pytest.raises(ValueError, match="scales at 'scale' hold NaN"):
        score(bad, {"kernel": "scale"})


def test_channels_are_compared_by_their_scales_and_not_by_their_fan_in():
    params = {
        "a": {"kernel": jnp.ones((2, 4)), "scale": jnp.array([9.0, 8.0, 7.0, 6.0])},
        "b": {"kernel": jnp.ones((100, 4)), "scale": jnp.array([1.0, 2.0, 3.0, 4.0])},
    }
    scales = {"a/kernel": "a/scale", "b/kernel": "b/scale"}
    scores = jp.scores.batch_norm_scale(params, scales)
    pattern = jp.masks.channels(norm="max")
    allocation = jp.masks.globally(on_collapse="allow")
    mask = jp.masks.make(scores, 0.5, pattern=pattern, allocation=allocation)
    assert mask["a"]["kernel"].all()
    assert not mask["b"]["kernel"].any()
    # The default norm is a sum, and would have it the other way round.
    mask = jp.masks.make(scores, 0.5, pattern=jp.masks.channels(), allocation=allocation)
    assert not mask["a"]["kernel"].any()
