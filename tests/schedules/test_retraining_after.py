"""One call from a prune to its schedule, and the same schedule after a restart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxprune as jp

DENSE = optax.linear_schedule(0.1, 0.0, 100)
LENGTHS = {"pretraining_steps": 100, "retraining_steps": 12}


def network():
    kernel = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(10)}


def rates(schedule):
    return np.asarray(schedule(jnp.arange(12)))


def test_it_is_the_discount_and_the_schedule_in_one():
    params = network()
    pruned, mask = jp.prune(params, 0.5)
    again, _ = jp.prune(pruned, 0.75, within=mask)
    for before, after, s in ((params, pruned, 0.5), (pruned, again, 0.5)):
        schedule, d = jp.schedules.retraining_after(before, after, DENSE, **LENGTHS)
        expected = jp.schedules.allr_discount(before, after, pruned_fraction=s, **LENGTHS)
        assert d == float(expected)
        by_hand = jp.schedules.allr(DENSE, discount=expected, **LENGTHS)
        np.testing.assert_array_equal(rates(schedule), rates(by_hand))


def test_other_schedules_have_no_discount():
    params = network()
    schedule, d = jp.schedules.retraining_after(
        params, params, DENSE, name="constant", peak=0.3, **LENGTHS
    )
    assert d is None
    np.testing.assert_allclose(rates(schedule).max(), 0.3)
    with pytest.raises(TypeError, match="measures the discount itself"):
        jp.schedules.retraining_after(params, params, DENSE, discount=0.5, **LENGTHS)
    with pytest.raises(ValueError, match="constant has no minimum"):
        jp.schedules.retraining_after(
            params, params, DENSE, name="constant", peak=0.3, minimum=True, **LENGTHS
        )


def test_a_restart_with_orbax_keeps_the_discount(tmp_path):
    """The recipe for a loop of one's own: d is saved beside the state."""
    params = network()
    pruned, mask = jp.prune(params, 0.5)
    schedule, d = jp.schedules.retraining_after(params, pruned, DENSE, **LENGTHS)
    tx = jp.transforms.fixed_mask(optax.sgd(schedule, momentum=0.9), mask)
    grads = jax.tree.map(jnp.ones_like, pruned)
    update = jax.jit(tx.update)

    def steps(params, state, number):
        for _ in range(number):
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    half = steps(pruned, tx.init(pruned), 5)
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "5", {"half": half, "discount": d})
    straight, _ = steps(*half, 7)

    # Another process: the dense parameters are gone, and pruned ones have lost nothing since.
    like = {"half": jax.tree.map(jnp.zeros_like, half), "discount": 0.0}
    with ocp.StandardCheckpointer() as saver:
        saved = saver.restore(tmp_path / "5", like)
    schedule = jp.schedules.retraining("allr", DENSE, discount=saved["discount"], **LENGTHS)
    tx = jp.transforms.fixed_mask(optax.sgd(schedule, momentum=0.9), mask)
    update = jax.jit(tx.update)
    resumed, _ = steps(*saved["half"], 7)
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    # Measured anew from what is there, it would be another one.
    _, anew = jp.schedules.retraining_after(saved["half"][0], saved["half"][0], DENSE, **LENGTHS)
    assert anew != d
