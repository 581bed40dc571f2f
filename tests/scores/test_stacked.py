"""Scores that compare weights within a layer: of stacked layers the same as of each alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

SHAPE, DEPTH = (3, 7, 6), 4


def layers(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=SHAPE) * 10.0**i for i in range(DEPTH)]
    return [jnp.asarray(array, dtype) for array in arrays]


def stack(arrays, axes):
    """Layers along one axis, or as a grid along two."""
    if len(axes) == 1:
        return jnp.stack(arrays, axes[0])
    grid = jnp.stack(arrays).reshape(2, 2, *SHAPE)
    return jnp.moveaxis(grid, (0, 1), axes)


def apart(whole, axes):
    return jnp.moveaxis(whole, axes, range(len(axes))).reshape(DEPTH, *SHAPE)


AXES = [(0,), (1,), (3,), (0, 2)]


def check(score, axes, dtype=jnp.float32):
    """Scores of a tree with these layers stacked, and of one with a leaf for each."""
    alone = {f"l{i}": {"kernel": x} for i, x in enumerate(layers(dtype))}
    other = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), dtype)
    whole = {"layers": {"kernel": stack(layers(dtype), axes)}, "out": {"kernel": other}}
    rule = {"layers/.*": axes if len(axes) > 1 else axes[0]}
    got = score(whole, rule)
    want = score(alone | {"out": {"kernel": other}}, None)
    each = np.asarray(apart(got["layers"]["kernel"], axes))
    for i in range(DEPTH):
        np.testing.assert_array_equal(each[i], want[f"l{i}"]["kernel"])
    np.testing.assert_array_equal(got["out"]["kernel"], want["out"]["kernel"])
    mixed = score(whole, None)["layers"]["kernel"]
    assert not np.array_equal(mixed, got["layers"]["kernel"])


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lamp(axes, dtype):
    check(lambda p, s: jp.scores.lamp(jp.scores.magnitude(p), stacked=s), axes, dtype)


def test_lamp_within_and_in_jit():
    arrays = [jnp.abs(x) for x in layers()]
    kept = [jnp.asarray(np.random.default_rng(i).random(SHAPE) < 0.5) for i in range(DEPTH)]
    got = jax.jit(lambda u, m: jp.scores.lamp({"w": u}, within={"w": m}, stacked={"w": 1}))(
        stack(arrays, (1,)), stack(kept, (1,))
    )["w"]
    for i in range(DEPTH):
        want = jp.scores.lamp({"w": arrays[i]}, within={"w": kept[i]})["w"]
        np.testing.assert_array_equal(got[:, i], want)


def test_lamp_of_many_weights_to_the_last_bit():
    arrays = [jnp.asarray(np.random.default_rng(i).random(50_001) ** 4) for i in range(3)]
    got = jp.scores.lamp({"w": jnp.stack(arrays).astype(jnp.float32)}, stacked={"w": 0})["w"]
    for array, found in zip(arrays, got, strict=True):
        np.testing.assert_array_equal(found, jp.scores.lamp({"w": array.astype(jnp.float32)})["w"])


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("axis", [-1, 0])
def test_geometric_median(axes, axis):
    # The axis is one of a layer: -1 for Flax, 0 for Equinox, wherever the layers are stacked.
    check(lambda p, s: jp.scores.geometric_median(p, axis=axis, stacked=s), axes)


def test_geometric_median_asks_for_the_axis_of_a_layer():
    asked = []

    def axis(path, leaf):
        asked.append((path, leaf.shape))
        return 0

    jp.scores.geometric_median({"w": stack(layers(), (1,))}, axis=axis, stacked={"w": 1})
    assert asked == [("w", SHAPE)]


@pytest.mark.parametrize("axes", [0, 1])
def test_batch_norm_scale(axes):
    kernels = [jnp.ones((5, 6))] * DEPTH
    scales = [jnp.arange(6.0) - i for i in range(DEPTH)]
    params = {"kernel": jnp.stack(kernels, axes), "scale": jnp.stack(scales, axes)}
    got = jp.scores.batch_norm_scale(params, {"kernel": "scale"}, stacked={"kernel|scale": axes})
    for i in range(DEPTH):
        alone = {"kernel": kernels[i], "scale": scales[i]}
        want = jp.scores.batch_norm_scale(alone, {"kernel": "scale"})["kernel"]
        np.testing.assert_array_equal(jnp.take(got["kernel"], i, axes), want)
    assert got["scale"] is None


def test_rules_that_do_not_fit_are_refused():
    params = {"w": stack(layers(), (0,))}
    for score in (jp.scores.lamp, jp.scores.geometric_median):
        with pytest.raises(ValueError, match="'layers', which matches no prunable leaf"):
            score(jax.tree.map(jnp.abs, params), stacked={"layers": 0})
        with pytest.raises(ValueError, match=r"names axis 4 of 'w', whose shape is \(4, 3, 7, 6\)"):
            score(jax.tree.map(jnp.abs, params), stacked={"w": 4})
    with pytest.raises(ValueError, match=r"axis 3 is out of range for the layers of 'w'"):
        jp.scores.geometric_median(params, axis=3, stacked={"w": 0})
    with pytest.raises(ValueError, match=r"has 6 channels along axis -1, of layers \[4\]"):
        jp.scores.batch_norm_scale(
            {"w": params["w"], "g": jnp.ones((6, 4))}, {"w": "g"}, stacked={"w": 0}
        )


def test_prune_hands_the_rules_to_scores_that_ask_for_them():
    params, rule = {"w": stack(layers(), (0,))}, {"w": 0}
    pattern = jp.masks.channels(norm="max")
    options = {"stacked": rule, "pattern": pattern, "allocation": jp.masks.uniform()}
    scores = jp.scores.geometric_median(params, stacked=rule)
    want = jp.masks.make(scores, 0.5, **options)
    other = jp.masks.make(jp.scores.geometric_median(params), 0.5, **options)
    assert not np.array_equal(want["w"], other["w"])
    _, mask = jp.prune(params, 0.5, scores=jp.scores.geometric_median, **options)
    np.testing.assert_array_equal(mask["w"], want["w"])
    bound = functools.partial(jp.scores.geometric_median, stacked=None)
    _, mask = jp.prune(params, 0.5, scores=bound, **options)
    np.testing.assert_array_equal(mask["w"], other["w"])
    rest = {"iterations": 1, "allocation": jp.masks.uniform(), "stacked": rule}
    _, mask = jp.masks.prune_iteratively(params, 0.5, scores=jp.scores.geometric_median, **rest)
    _, want = jp.prune(params, 0.5, scores=scores, stacked=rule, allocation=jp.masks.uniform())
    np.testing.assert_array_equal(mask["w"], want["w"])
