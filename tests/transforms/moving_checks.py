"""What every mask that moves must do, whatever moves it."""

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import transform_cases as tc
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.transforms import get_mask


def strict(wrap, inner):
    """``wrap`` under the strict rule of promotion around an optimizer of optax."""
    return tc._promoting(wrap(tc.relaxed(inner)), "strict")


def run_case(name, wrap, *, counts_constant=True, moves=True):
    """Fifty steps around an optimizer of `transform_cases`: exact zeros, no moments."""
    tx, params = strict(wrap, tc.CASES[name].plain), tc.make_params()
    state = tx.init(params)
    first = get_mask(state)
    params = jax.tree.map(
        lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, tc.full_mask(first)
    )
    (end, state), _ = tc.train(tx, params, state, name=name)
    mask = get_mask(state)
    assert not tc.pruned_entries(end, mask).any()
    assert not tc.moments_of_pruned(state.inner_state, mask).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(end))
    kept = [int(m.sum()) for m in jax.tree.leaves(mask)]
    assert sum(kept) < sum(m.size for m in jax.tree.leaves(mask))
    if counts_constant:
        assert kept == [int(m.sum()) for m in jax.tree.leaves(first)]
    assert moves == any(map(_differ, jax.tree.leaves(mask), jax.tree.leaves(first)))


def run_outside(name, wrap):
    """Under optax's wrappers that decide whether a step happens; steps are those that do."""
    params, masked = tc.make_params(), strict(wrap, optax.adam(tc.LR))
    if name == "multisteps":
        tx, taken = tc.relaxed(optax.MultiSteps(masked, 2)), tc.STEPS // 2
    else:
        tx, taken = tc.relaxed(optax.apply_if_finite(masked, 3)), tc.STEPS - 1
    x, y = tc.make_batches(tc.STEPS)
    y = y.at[4].set(jnp.nan) if name == "apply_if_finite" else y
    state = tx.init(params)
    first = get_mask(state)
    (end, state), path = tc.train(tx, params, state, batches=(x, y))
    (inner,) = _moving_states(state)
    mask = get_mask(state)
    assert int(inner.step) == taken
    assert not tc.pruned_entries(end, mask).any()
    assert not tc.moments_of_pruned(inner.inner_state, mask).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(path))
    assert any(map(_differ, jax.tree.leaves(mask), jax.tree.leaves(first)))


def _moving_states(state):
    def is_moving(x):
        return hasattr(x, "frozen")

    return [x for x in jax.tree.leaves(state, is_leaf=is_moving) if is_moving(x)]


def assert_same_with_and_without_jit(tx, at, steps=9):
    """Compiled and not: the same mask at the move after step ``at``, all of it in one program."""
    params, step = mo.start(), mo.stepper(tx)
    state = jax.jit(tx.init, compiler_options=mo.FAST)(params)
    jax.tree.map(np.testing.assert_array_equal, get_mask(state), get_mask(tx.init(params)))
    like = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for t in range(1, steps + 1):
        grads = mo.gradients(params, *(jnp.asarray(b[t]) for b in mo.data()))
        before, old = get_mask(state), (grads, state, params)
        params, state = step(*old)
        if t == at:
            updates, plain = tx.update(*old)
            after = get_mask(state)
            jax.tree.map(np.testing.assert_array_equal, after, get_mask(plain))
            close = optax.apply_updates(old[2], updates)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, close)
            assert any(map(_differ, jax.tree.leaves(before), jax.tree.leaves(after)))
    assert step._cache_size() == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == like


def _differ(a, b):
    return bool((a != b).any())


def assert_same_when_sharded(tx, steps):
    """The same masks where every kernel lies on eight devices."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    shapes = {"a": (16, 6), "b": (8, 4)}

    def draw():
        return {
            k: {"kernel": jnp.asarray(rng.normal(size=s), jnp.float32)} for k, s in shapes.items()
        }

    def on_mesh(tree):
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("x")))

    params, grads = draw(), [draw() for _ in range(steps)]

    def run(place):
        now, found, step = place(params), [], mo.stepper(tx)
        state = tx.init(now)
        found.append(jax.tree.map(np.asarray, get_mask(state)))
        for g in grads:
            now, state = step(place(g), state, now)
            found.append(jax.tree.map(np.asarray, get_mask(state)))
        return found

    alone, spread = run(lambda tree: tree), run(on_mesh)
    for a, b in zip(alone, spread, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    return alone
