"""What single methods do at their turning points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import parametrizations as pz


def weights(seed, shape=(8, 8)):
    return {"kernel": jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)}


def at(state, step):
    return state._replace(step=jnp.asarray(step, jnp.int32))


def best(values, removed):
    flat = np.abs(np.asarray(values["kernel"])).ravel()
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[:removed]] = False
    return keep.reshape(8, 8)


def run(p, steps, state=None):
    """Applies step t to the weights of seed t; the masks, and the state after."""
    apply, masks = jax.jit(p.apply), []
    state = p.init(weights(0))[1] if state is None else state
    for t in range(steps):
        params, state = apply(weights(t), state)
        masks.append(np.asarray(params["kernel"]) != 0)
    return masks, state


def test_dpf_makes_masks_at_targets_and_at_multiples_of_refresh():
    # 20 // 6 - 1 = 2 targets: round(64 * 0.75 * 7 / 8) = 42 from step 6, 48 from step 12.
    p = pz.dpf(0.75, total_steps=20, interval=6, refresh=5)
    masks, state = run(p, 20)
    source = {0: None}  # step -> the step whose weights made its mask
    for t in range(6):
        assert masks[t].all()
    for t in range(6, 20):
        source[t] = max(s for s in (6, 10, 12, 15) if s <= t)
        np.testing.assert_array_equal(masks[t], best(weights(source[t]), 42 if t < 12 else 48))

    # After step 20, a multiple of 5, the mask of the final weights.
    params, mask = p.finalize(weights(99), state)
    np.testing.assert_array_equal(mask["kernel"], best(weights(99), 48))
    np.testing.assert_array_equal(params["kernel"], jp.apply_mask(weights(99), mask)["kernel"])
    # After step 19 it would have been the last one.
    _, mask = p.finalize(weights(99), at(state, 19))
    np.testing.assert_array_equal(mask["kernel"], masks[-1])
    # Before the last target is reached, a mask at the last target.
    for step in (0, 3, 11):
        _, mask = p.finalize(weights(99), at(state, step))
        np.testing.assert_array_equal(mask["kernel"], best(weights(99), 48))


def test_gmp_recover_makes_masks_at_targets_only():
    p = pz.gmp_recover(0.75, total_steps=20, interval=6)
    masks, state = run(p, 20)
    assert all(m.all() for m in masks[:6])
    for t in range(6, 20):
        wanted = best(weights(6), 42) if t < 12 else best(weights(12), 48)
        np.testing.assert_array_equal(masks[t], wanted)
    assert (masks[12] & ~masks[11]).any()  # not nested
    _, mask = p.finalize(weights(99), state)
    np.testing.assert_array_equal(mask["kernel"], masks[-1])
    _, mask = p.finalize(weights(99), at(state, 7))
    np.testing.assert_array_equal(mask["kernel"], best(weights(99), 48))


def test_gradual_takes_scores_allocation_and_pattern():
    values = {"a": weights(1), "b": jax.tree.map(lambda w: 10 * w, weights(2))}
    p = pz.gmp_recover(
        0.5,
        total_steps=4,
        interval=2,
        scores=lambda params: jax.tree.map(lambda w: -jnp.abs(w), params),
        allocation=jp.masks.uniform(),
        pattern=jp.masks.channels(1),
    )
    trainable, state = p.init(values)
    params, _ = jax.jit(p.apply)(trainable, at(state, 2))
    for k in values:
        w = np.asarray(values[k]["kernel"])
        smallest = np.argsort(np.abs(w).sum(0))[:4]  # the highest scores
        columns = np.flatnonzero((np.asarray(params[k]["kernel"]) != 0).all(0))
        assert sorted(columns) == sorted(smallest)


def test_dnw_takes_nm_patterns():
    p = pz.dnw(None, pattern=jp.masks.nm(2, 4, layout="flax"))
    _, mask = p.finalize(*p.init(weights(0)))
    assert (np.asarray(mask["kernel"]).reshape(2, 4, 8).sum(1) == 2).all()


def test_sr_ste_leaves_other_leaves_dense_and_undecayed():
    pattern = jp.masks.nm(1, 2, axis=0)
    p = pz.sr_ste(lambda path, leaf: pattern(path, leaf) if "a" in path.split("/") else None)
    values = {"a": weights(1), "b": weights(2)}
    trainable, state = p.init(values)
    params, mask = p.finalize(trainable, state)
    assert mask["b"]["kernel"].all()
    np.testing.assert_array_equal(params["b"]["kernel"], values["b"]["kernel"])
    decay = jax.grad(p.penalty)(trainable, state)
    assert not decay["b"]["kernel"].any()
    wanted = np.where(mask["a"]["kernel"], 0, 2e-4 * np.asarray(values["a"]["kernel"]))
    np.testing.assert_allclose(decay["a"]["kernel"], wanted, rtol=1e-6)


def temperature(p, step):
    """Read off the penalty of one gate at 1, which is sigmoid(beta)."""
    trainable, state = p.init({"w": jnp.ones((1, 1))})
    gates = {"w": jnp.asarray([[0.01]])}
    value = float(p.penalty(trainable._replace(gates=gates), at(state, step)))
    return np.log(value / (1 - value)) / 0.01


def test_cs_temperatures():
    p = pz.cs(total_steps=4, final_temperature=16.0, penalty=1.0)
    found = [temperature(p, t) for t in (0, 1, 2, 4, 100)]
    np.testing.assert_allclose(found, [1, 2, 4, 16, 16], rtol=1e-4)
    # 10 steps in epochs of 4: the third, of two steps, is the last.
    p = pz.cs(total_steps=10, final_temperature=16.0, penalty=1.0, interval=4)
    found = [temperature(p, t) for t in (0, 3, 4, 7, 8, 9, 10, 100)]
    np.testing.assert_allclose(found, [1, 1, 4, 4, 16, 16, 16, 16], rtol=1e-4)


@pytest.mark.parametrize("final", ["soft", "hard"])
def test_cs_final_values(final):
    p = pz.cs(total_steps=4, initial=1.0, final_temperature=16.0, final=final)
    trainable, state = p.init({"w": jnp.array([[2.0, 3.0, 4.0]])})
    gates = np.array([[0.1, -0.1, 0.0]])
    trainable = trainable._replace(gates={"w": jnp.asarray(gates, jnp.float32)})
    params, mask = p.finalize(trainable, at(state, 4))
    assert mask["w"].tolist() == [[True, False, False]]
    gate = 1 / (1 + np.exp(-16 * 0.1)) if final == "soft" else 1.0
    np.testing.assert_allclose(params["w"], [[2.0 * gate * (1 + np.exp(-1.0)), 0, 0]], rtol=1e-6)


def test_str_keeps_the_soft_values_and_their_mask():
    p = pz.str_(initial=0.0)
    trainable, state = p.init({"w": jnp.array([[2.0, 0.5, -0.75]])})
    params, mask = p.finalize(trainable, state)
    assert params["w"].tolist() == [[1.5, 0.0, -0.25]]
    assert mask["w"].tolist() == [[True, False, True]]


def test_dst_restarts_the_thresholds_of_a_leaf_that_keeps_too_little():
    p = pz.dst(1.0, reset_at=0.25)
    trainable, state = p.init({"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])})

    def with_thresholds(*values):
        return trainable._replace(thresholds={"w": jnp.array(values)})

    # 2 of 4 are kept: no reset. The penalty is that of the thresholds.
    params, after = p.apply(with_thresholds(2.5, 2.5), state)
    assert params["w"].tolist() == [[0.0, 0.0], [3.0, 4.0]]
    np.testing.assert_array_equal(after.offsets["w"], [0, 0])
    np.testing.assert_allclose(p.penalty(with_thresholds(2.5, 2.5), state), 2 * np.exp(-2.5))

    # 1 of 4 is: they restart at 0 before this forward pass, and the penalty sees it.
    high = with_thresholds(3.0, 3.0)
    params, after = p.apply(high, state)
    assert params["w"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(after.offsets["w"], [3, 3])
    np.testing.assert_allclose(p.penalty(high, state), 2.0)
    assert p.finalize(high, state)[1]["w"].all()
    # The gradient still reaches the thresholds, at their restarted value.
    np.testing.assert_allclose(jax.grad(p.penalty)(high, state).thresholds["w"], [-1.0, -1.0])

    # From there they count anew.
    params, again = p.apply(with_thresholds(3.0 + 1.5, 3.0), after)
    assert params["w"].tolist() == [[0.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(again.offsets["w"], [3, 3])


def test_dst_counts_the_kept_fraction_exactly():
    values = {"w": jnp.arange(1.0, 101.0).reshape(100, 1)}
    p = pz.dst(reset_at=0.29)  # 0.29 * 100 is 28.999... in floats
    trainable, state = p.init(values)
    for kept, reset in ((29, True), (30, False)):
        t = trainable._replace(thresholds={"w": jnp.array([100.0 - kept])})
        assert bool(p.apply(t, state)[1].offsets["w"][0] != 0) is reset


def test_dst_weight_decay_acts_on_the_raw_threshold():
    """The one difference to overwriting a threshold, as the code says."""
    p = pz.dst(reset_at=0.25)
    trainable, state = p.init({"w": jnp.array([[1.0], [2.0]])})
    _, state = p.apply(trainable._replace(thresholds={"w": jnp.array([5.0])}), state)
    decayed = trainable._replace(thresholds={"w": jnp.array([5.0 * 0.9])})
    _, state = p.apply(decayed, state)
    np.testing.assert_allclose(decayed.thresholds["w"] - state.offsets["w"], [-0.5])


@pytest.mark.parametrize(
    ("options", "path", "shape", "expected"),
    [
        ({}, "dense", (3, 5), (5,)),
        ({"layout": "flax"}, "query", (6, 2, 3), (2, 3)),
        ({"axis": (-1, 0)}, "stacked", (2, 3, 5), (2, 5)),
        ({"axis": lambda path, leaf: 1}, "stacked", (2, 3, 5), (3,)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ({"layout": "flax"}, "conv", (3, 3, 2, 4), (4,)),
                ({"layout": "flax"}, "out", (2, 3, 6), (6,)),
                ({"layout": "haiku"}, "dense", (3, 5), (5,)),
                ({"layout": "equinox"}, "dense", (5, 3), (5,)),
                ({"layout": "equinox"}, "conv", (4, 2, 3, 3), (4,)),
                ({"axis": 0}, "dense", (3, 5), (3,)),
            )
        ),
    ],
)
def test_dst_has_one_threshold_an_output_unit(options, path, shape, expected):
    values = {path: {"kernel": jnp.ones(shape)}}
    p = pz.dst(**options)
    trainable, state = p.init(values)
    threshold = trainable.thresholds[path]["kernel"]
    assert threshold.shape == expected
    # The threshold of one unit prunes that unit and nothing else.
    raised = threshold.at[(0,) * len(expected)].set(2.0)
    trainable = trainable._replace(thresholds={path: {"kernel": raised}})
    pruned = ~np.asarray(p.finalize(trainable, state)[1][path]["kernel"])
    others = [i for i in range(len(shape)) if not (pruned.any() and pruned.all(i).any())]
    assert pruned.sum() == np.prod(shape) // np.prod(expected)
    assert len(others) == len(expected)


def test_nan_stays_in_sight():
    """A weight that is not a number is neither pruned nor hidden in a traced step."""
    values = {"w": jnp.array([[jnp.nan, 1.0, 2.0, 3.0]])}
    for p in (pz.dnw(0.5), pz.str_(initial=0.0), pz.cs(total_steps=2, initial=1.0), pz.dst()):
        trainable, state = jax.jit(p.init)(values)
        params, _ = jax.jit(p.apply)(trainable, state)
        assert np.isnan(params["w"][0, 0])
