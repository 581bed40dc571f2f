"""Other exponents of the sparsity schedule, and what can be pickled."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import parametrizations, schedules, transforms

DENSE = optax.linear_schedule(0.1, 0.0, 10)


def test_a_straight_line_and_a_cube():
    line = schedules.cubic(0.8, begin_step=0, end_step=4, power=1)
    np.testing.assert_allclose(line(jnp.arange(6)), [0, 0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)
    for options in ({}, {"power": 3}, {"power": 3.0}):
        cube = schedules.cubic(0.8, begin_step=0, end_step=4, **options)
        np.testing.assert_array_equal(
            cube(jnp.arange(5)), np.float32([0.8 * (1 - (1 - t / 4) ** 3) for t in range(5)])
        )
    times = {"total_steps": 50, "interval": 10}
    assert schedules.gmp_targets(0.8, **times, power=1)[1] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedules.gmp_targets(0.8, **times, power=2)[1][0] == pytest.approx(0.8 * 7 / 16)
    for wrong in (0, -1, float("inf")):
        with pytest.raises(ValueError, match="power"):
            schedules.cubic(0.8, begin_step=0, end_step=4, power=wrong)
    with pytest.raises(TypeError, match="power must be a static number"):
        schedules.gmp_targets(0.8, **times, power="cubic")


def test_gmp_follows_the_exponent():
    params = {"kernel": jnp.arange(1.0, 101.0).reshape(10, 10)}
    tx = transforms.gmp(optax.sgd(0.0), 0.8, total_steps=5, interval=1, power=1)
    state, found = tx.init(params), []
    for _ in range(5):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
        found.append(int((params["kernel"] == 0).sum()))
    assert found == [20, 40, 60, 80, 80]


def test_a_constant_sparsity_whose_mask_is_made_anew_to_the_end():
    p = parametrizations.dpf(0.5, total_steps=12, interval=4, begin_step=2, end_step=2, refresh=3)
    trainable, state = p.init({"kernel": jnp.array([[4.0, 3.0, 2.0, 1.0]])})
    kept = []
    for step in range(12):
        params, state = p.apply(trainable, state)
        kept.append(np.flatnonzero(params["kernel"][0]).tolist())
        # The largest move to the end one after the other.
        trainable = (
            {"kernel": jnp.roll(trainable["kernel"], 1, axis=1)} if step % 3 == 1 else trainable
        )
    assert kept[:2] == [[0, 1, 2, 3]] * 2
    assert all(len(k) == 2 for k in kept[2:])
    changes = [t for t in range(3, 12) if kept[t] != kept[t - 1]]
    assert changes == [6, 9]  # seen when the mask is made again


def test_schedules_can_be_pickled():
    steps = {"pretraining_steps": 10, "retraining_steps": 5}
    made = [
        schedules.cubic(0.5, begin_step=0, end_step=3),
        schedules.allr(DENSE, **steps, discount=0.5),
        *(
            schedules.retraining(name, DENSE, **steps)
            for name in ("ft", "lrw", "slr", "clr", "llr")
        ),
        schedules.retraining("cosine", DENSE, **steps, peak=0.1),
    ]
    for schedule in made:
        again = pickle.loads(pickle.dumps(schedule))
        np.testing.assert_array_equal(again(jnp.arange(7)), schedule(jnp.arange(7)))


def test_states_can_be_pickled():
    params = {"kernel": jnp.ones((8, 8))}
    key, steps = jax.random.key(0), {"total_steps": 8, "interval": 2}
    made = [
        transforms.fixed_mask(optax.adam(0.1), {"kernel": jnp.ones((8, 8), bool)}),
        transforms.gmp(optax.adam(0.1), 0.5, **steps),
        transforms.rigl(optax.sgd(0.1), 0.5, key=key, **steps),
        transforms.lc(0.5, mu=0.1),
        transforms.averaged(transforms.gmp(optax.adam(0.1), 0.5, **steps)),
    ]
    states = [tx.init(params) for tx in made]
    states += [parametrizations.dst().init(params), parametrizations.cs(total_steps=3).init(params)]
    states.append(jp.training.TrainState.create(params, optax.sgd, key=key))
    for state in states:
        again = pickle.loads(pickle.dumps(state))
        assert jax.tree.structure(again) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)
