"""Static sparse training."""

import functools

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import pytest
from moving_checks import assert_same_when_sharded, run_case

import jaxprune as jp
from jaxprune.transforms import get_mask, rigl, set_, set_mask, static

KEY = jax.random.key(7)


def test_forty_steps_follow_the_definition():
    tx = static(mo.inner(), 0.6, key=KEY)
    seen = mo.assert_follows(tx, mo.start(), lambda t, weights, grads, mask: None)
    for k in mo.SHAPES:
        assert all((masks[k] == seen[0][k]).all() for masks in seen)
    assert sum(int(m.sum()) for m in seen[0].values()) == 80 - round(0.6 * 80)


def test_the_mask_is_random_by_the_key_and_spread_by_erk():
    params = {"a": {"kernel": jnp.ones((10, 10))}, "b": {"kernel": jnp.ones((40, 40))}}

    def drawn(**options):
        def draw(key):
            return get_mask(static(optax.sgd(0.1), 0.9, key=key, **options).init(params))

        return jax.jit(draw, compiler_options=mo.FAST)

    draw = drawn()
    mask, same, other = draw(KEY), draw(KEY), draw(jax.random.key(8))
    jax.tree.map(np.testing.assert_array_equal, mask, same)
    assert (mask["b"]["kernel"] != other["b"]["kernel"]).any()
    # Densities as (10 + 10) / 100 to (40 + 40) / 1600, 170 weights in all: 34 and 136.
    assert [int(m.sum()) for m in jax.tree.leaves(mask)] == [34, 136]
    # 136 of 40 rows: 3.4 each with a standard deviation of 1.8.
    assert np.asarray(mask["b"]["kernel"]).sum(1).max() < 12
    together = drawn(allocation=jp.masks.globally())(KEY)
    assert sum(int(m.sum()) for m in jax.tree.leaves(together)) == 170
    only = drawn(where=lambda path, leaf: path.startswith("a"))(KEY)
    assert only["b"]["kernel"] is None
    assert int(only["a"]["kernel"].sum()) == 10


def test_it_is_the_first_mask_of_the_others():
    params = mo.start()
    options = {"key": KEY, "total_steps": 40, "interval": 5}
    masks = [
        get_mask(tx.init(params))
        for tx in (
            static(optax.sgd(0.1), 0.6, key=KEY),
            set_(optax.sgd(0.1), 0.6, **options),
            rigl(optax.sgd(0.1), 0.6, **options),
        )
    ]
    for mask in masks[1:]:
        jax.tree.map(np.testing.assert_array_equal, masks[0], mask)


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 0), (1, 2, 1)])
def test_n_m(n, m, axis):
    params = {"kernel": jnp.ones((8, 4))}
    tx = static(optax.sgd(0.1), None, key=KEY, pattern=jp.masks.nm(n, m, axis=axis))
    mask = np.moveaxis(np.asarray(get_mask(tx.init(params))["kernel"]), axis, -1)
    assert (mask.reshape(-1, m).sum(1) == n).all()
    assert len({tuple(group) for group in mask.reshape(-1, m).tolist()}) > 1


def test_old_keys_and_keys_under_jit():
    params = mo.start()
    old = static(optax.sgd(0.1), 0.6, key=jax.random.PRNGKey(7)).init(params)
    new = static(optax.sgd(0.1), 0.6, key=KEY).init(params)
    jax.tree.map(np.testing.assert_array_equal, get_mask(old), get_mask(new))

    def init(key):
        return static(optax.sgd(0.1), 0.6, key=key).init(params)

    stacked = jax.jit(jax.vmap(init), compiler_options=mo.FAST)(jax.random.split(KEY, 2))
    masks = get_mask(stacked)["a"]["kernel"]
    assert (masks[0] != masks[1]).any()
    assert masks[0].sum() == masks[1].sum()


def test_other_scores():
    params = {"kernel": jnp.array([[1.0, -5.0, 3.0, 2.0]])}
    tx = static(optax.sgd(0.1), 0.5, scores=jp.scores.magnitude)
    np.testing.assert_array_equal(get_mask(tx.init(params))["kernel"], [[0, 1, 1, 0]])

    def noisy(params, key):
        return {"kernel": jax.random.uniform(key, params["kernel"].shape)}

    masks = [
        get_mask(static(optax.sgd(0.1), 0.5, scores=noisy, key=jax.random.key(i)).init(params))
        for i in range(5)
    ]
    assert len({tuple(m["kernel"].tolist()[0]) for m in masks}) > 1
    with pytest.raises(TypeError, match=r"static draws its first mask .* got key=None"):
        static(optax.sgd(0.1), 0.5, scores=noisy)
    with pytest.raises(ValueError, match=r"scores of static ask for 'grads'.* use fixed_mask"):
        static(optax.sgd(0.1), 0.5, scores=jp.scores.taylor)


def test_set_mask_moves_it():
    tx, params = static(optax.sgd(0.0), 0.6, key=KEY), mo.start()
    state = tx.init(params)
    mask = jax.tree.map(jnp.logical_not, get_mask(state))
    params, state = mo.stepper(tx)(mo.start(), set_mask(state, mask), params)
    jax.tree.map(np.testing.assert_array_equal, get_mask(state), mask)
    assert not np.asarray(params["a"]["kernel"])[~np.asarray(mask["a"]["kernel"])].any()


@pytest.mark.slow
def test_the_same_masks_on_eight_devices():
    assert_same_when_sharded(static(optax.sgd(0.1), 0.6, key=KEY), steps=2)


@pytest.mark.parametrize(
    "name",
    [
        "adafactor",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("adam", "muon", "schedule_free")),
    ],
)
def test_around_other_optimizers(name):
    run_case(name, functools.partial(static, sparsity=0.7, key=KEY))


@pytest.mark.parametrize(
    ("sparsity", "options", "match"),
    [
        (1.0, {}, r"sparsity is 1.0, but a fraction"),
        (-0.5, {}, r"sparsity is -0.5, but a fraction"),
        (0.6, {"pattern": jp.masks.nm(2, 4, axis=1)}, r"2:4 pattern fixes the sparsity, 0.5"),
        (0.99, {}, r"no weight is left of 'b/kernel'"),
        (0.5, {"where": lambda path, leaf: False}, r"no prunable leaf"),
    ],
)
def test_bad_values(sparsity, options, match):
    with pytest.raises(ValueError, match=match):
        static(optax.sgd(0.1), sparsity, key=KEY, **options).init(mo.start())


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match=r"static draws its first mask .* got key=0. Pass one"):
        static(optax.sgd(0.1), 0.5, key=0)
    with pytest.raises(TypeError, match=r"sparsity must be a static number"):
        static(optax.sgd(0.1), "0.5", key=KEY)
