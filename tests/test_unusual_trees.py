"""Trees that are easily taken for something else: equal paths, and trees that can be called."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

SMALL = jnp.arange(1.0, 9).reshape(2, 4)
LARGE = jnp.arange(1.0, 65).reshape(8, 8)
# Both leaves have the readable path "a/kernel".
SAME_PATHS = {"a": {"kernel": SMALL}, "a/kernel": LARGE}
WITHIN = {"a": {"kernel": SMALL > 6}, "a/kernel": LARGE > 60}


@jax.tree_util.register_pytree_node_class
class Model:
    """A tree that can be called, as models are in some frameworks."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, x):
        return x @ self.kernel

    def tree_flatten(self):
        return (self.kernel,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_a_report_counts_each_leaf_for_itself():
    lines = jp.masks.report(SAME_PATHS, WITHIN).splitlines()
    assert lines[2:4] == [
        "| a/kernel | 2x4 | float32 | yes | 2 | 0.7500 |",
        "| a/kernel | 8x8 | float32 | yes | 4 | 0.9375 |",
    ]
    assert "| 6 | 0.9167 |" in lines[-1]
    assert "2 of 2 leaves | 72" in jp.masks.report(SAME_PATHS).splitlines()[-1]


def test_sparse_training_keeps_the_counts_of_each_leaf():
    tx = jp.transforms.rigl(
        optax.sgd(0.1), None, key=jax.random.key(0), total_steps=4, interval=1, within=WITHIN
    )
    state = tx.init(SAME_PATHS)
    for _ in range(2):
        _, state = jax.jit(tx.update)(SAME_PATHS, state, SAME_PATHS)
    assert [int(m.sum()) for m in jax.tree.leaves(jp.transforms.get_mask(state))] == [2, 4]


def test_targets_are_checked_against_each_leaf():
    pruned = {"a": {"kernel": SMALL}, "a/kernel": jnp.where(LARGE > 60, LARGE, 0)}
    tx = jp.transforms.prune_at(optax.sgd(0.1), [1], [0.5])
    with pytest.raises(ValueError, match="60 of the 72 prunable weights are zero already"):
        tx.init(pruned)


def test_a_scale_is_named_by_a_path_of_one_leaf():
    params = SAME_PATHS | {"norm": {"scale": jnp.ones(8)}}
    with pytest.raises(ValueError, match="two leaves have the path 'a/kernel'"):
        jp.scores.batch_norm_scale(params, {"a/kernel": "norm/scale"})


@pytest.mark.parametrize("given", ["tree", "function", "partial"])
def test_scores_are_a_tree_or_a_function_by_their_structure(given):
    model = Model(SMALL)
    tree = Model(-SMALL)
    scores = {
        "tree": tree,
        "function": lambda params: Model(-params.kernel),
        "partial": jax.tree_util.Partial(lambda sign, m: Model(sign * m.kernel), -1.0),
    }[given]
    pruned, mask = jp.prune(model, 0.5, scores=scores)
    np.testing.assert_array_equal(mask.kernel, SMALL <= 4)
    np.testing.assert_array_equal(pruned.kernel, jnp.where(SMALL <= 4, SMALL, 0))


def test_norms_are_of_complex_weights_too():
    real = {"a": jnp.arange(1.0, 5), "b": jnp.arange(2.0, 6)}
    pruned = jax.tree.map(lambda x: x.at[:2].set(0), real)
    whole, half = ({"w": jax.lax.complex(x["a"], x["b"])} for x in (real, pruned))
    steps = {"pruned_fraction": 0.5, "pretraining_steps": 10, "retraining_steps": 1}
    for norm in (
        jp.metrics.relative_norm_drop,
        lambda x, y: jp.schedules.allr_discount(x, y, **steps),
        lambda x, y: jax.jit(jp.metrics.relative_norm_drop)(x, y),
    ):
        np.testing.assert_allclose(norm(whole, half), norm(real, pruned), rtol=1e-6)


def test_integers_that_were_pruned_have_no_norm():
    params = {"w": jnp.ones(4), "step": jnp.arange(3), "kernel": jnp.ones((2, 2), jnp.int8)}
    pruned = params | {"w": jnp.array([1.0, 1, 0, 0])}
    np.testing.assert_allclose(jp.metrics.relative_norm_drop(params, pruned), 0.5**0.5)
    with pytest.raises(TypeError, match="'kernel' holds int8 and differs before and after"):
        jp.metrics.relative_norm_drop(params, pruned | {"kernel": jnp.eye(2, dtype=jnp.int8)})


@pytest.mark.parametrize("rows", [3, 300, 3000])
def test_nan_is_found_in_a_channel_of_any_length(rows):
    scores = jnp.ones((rows, 4)).at[rows // 2, 1].set(jnp.nan)
    pattern = jp.masks.channels(1, norm="max")
    with pytest.raises(ValueError, match="scores of 'w' hold NaN"):
        jp.masks.make({"w": scores}, 0.5, pattern=pattern)
    mask, info = jax.jit(lambda s: jp.masks.make_with_info(s, 0.5, pattern=pattern))({"w": scores})
    assert info.nan.tolist() == [True]
    assert mask["w"][:, 1].all()


def test_channels_are_named_by_paths_of_one_leaf():
    def apply(params, x):
        return x @ params["a"]["kernel"] @ params["a/kernel"]

    params = {"a": {"kernel": jnp.ones((3, 4))}, "a/kernel": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match="two leaves of the tree have the same readable path"):
        jp.structured.channel_groups(apply, params, jnp.ones((1, 3)))


def test_nan_is_found_in_a_channel_over_members():
    def apply(params, x):
        return jnp.sum(x @ params["a"] @ params["b"])

    params = {"a": jnp.ones((1, 3000)), "b": jnp.ones((3000, 1))}
    groups = jp.structured.channel_groups(apply, params, jnp.ones((1, 1)))
    params["a"] = params["a"].at[0, 7].set(jnp.nan)
    score = jax.jit(
        lambda p: jp.structured.magnitude(groups, p, over_members="max", normalize="max")
    )
    assert np.flatnonzero(jnp.isnan(score(params)[0])).tolist() == [7]


def test_numpy_leaves_keep_their_dtype():
    params = {"kernel": np.arange(1.0, 9.0).reshape(2, 4), "bias": np.ones(4)}
    pruned, mask = jp.prune(params, 0.5)
    assert pruned["kernel"].dtype == pruned["bias"].dtype == np.float64
    np.testing.assert_array_equal(pruned["kernel"], [[0, 0, 0, 0], [5, 6, 7, 8]])
    again = jp.apply_mask(params, mask)
    assert again["kernel"].dtype == np.float64
    np.testing.assert_array_equal(again["kernel"], pruned["kernel"])
