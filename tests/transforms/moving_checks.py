"""What every mask that moves must do, whatever moves it."""

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import pytest
import transform_cases as tc
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.transforms import get_mask


def strict(wrap, inner):
    """``wrap`` under the strict rule of promotion around an optimizer of optax."""
    return tc._promoting(wrap(tc.relaxed(inner)), "strict")


# Wrappers that decide whether a step happens, and how many of all do.
OUTSIDE = {
    "under_multisteps": (lambda tx: optax.MultiSteps(tx, 2), tc.STEPS // 2),
    "under_apply_if_finite": (lambda tx: optax.apply_if_finite(tx, 3), tc.STEPS - 1),
}


def each_case(*quick):
    """All names for `run_case`; those not ``quick`` are left to the slow tests."""
    names = [*(name for name in tc.CASES if "_outside" not in name), *OUTSIDE]
    assert set(quick) <= set(names)
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def run_case(name, wrap, due=(), *, counts_constant=True, instead_of_step=False):
    """Fifty batches, with an optimizer of `transform_cases`, or with adam under one of `OUTSIDE`.

    After each, weights that are pruned or just came back are zero, and so are their moments. The
    rest, and the state, is what one step of the optimizer alone, by masked gradients, makes of the
    weights and the state before. The mask moves after the steps ``due``, or ``instead_of_step``.
    """
    outer, taken = OUTSIDE.get(name, (lambda tx: tx, tc.STEPS))
    inner = tc.CASES["adam" if name in OUTSIDE else name].plain
    tx, plain = tc.relaxed(outer(strict(wrap, inner))), tc.relaxed(outer(inner))
    x, y = tc.make_batches(tc.STEPS)
    if name == "under_apply_if_finite":
        y[4] = np.nan

    def step(params, state, batch):
        grads, mask = tc.grads_at(params, batch), get_mask(state)
        alone = _times(_unwrapped(state), mask)
        updates, alone = plain.update(_times(grads, mask), alone, params)
        alone = optax.apply_updates(params, updates), alone
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        (moving,) = _moving_states(state)
        masks = mask, get_mask(state)
        own = params, moving.inner_state
        return (params, state), (own, _unwrapped(state), alone, masks, moving.step)

    params = tc.make_params()
    state = tx.init(params)
    step, params, seen = (
        jax.jit(step, compiler_options=mo.FAST),
        _times(params, get_mask(state)),
        [],
    )
    for batch in zip(x, y, strict=True):
        (params, state), of_step = step(params, state, batch)
        seen.append(of_step)
    own, state, alone, (before, after), steps = tc.stacked(seen)
    moved = np.isin(steps, due) & (np.diff(steps, prepend=0) > 0)
    assert steps[-1] == taken
    assert moved.sum() == len(due)

    stayed = jax.tree.map(np.logical_and, before, after)
    assert not tc.moments_of_pruned(own, stayed).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own[0]))
    alone = _times(alone, stayed)
    # Muon iterates on whole matrices, and sums of many terms round as they are fused.
    atol = 1e-6 if name == "muon" else 1e-8
    _assert_close_at(~moved, (own[0], _times(state, stayed)), alone, atol)
    if instead_of_step:
        rested = jax.tree.map(lambda x: np.roll(x, 1, axis=0), own)
        _assert_close_at(moved, own, _times(rested, stayed), atol)
    else:
        _assert_close_at(moved, own[0], alone[0], atol)

    old, new = ([m.reshape(tc.STEPS, -1) for m in jax.tree.leaves(t)] for t in (before, after))
    changed = np.any(np.hstack(old) != np.hstack(new), axis=1)
    assert not changed[~moved].any()
    assert not moved.any() or changed[moved][0]
    assert not np.hstack(new)[-1].all()
    counts = [m.sum(1) for m in new]
    assert not (counts_constant and np.ptp(counts, axis=1).any())


def _times(tree, mask):
    """Whatever has the shape of a leaf of the mask, times that."""
    by_shape = {m.shape: m for m in jax.tree.leaves(mask)}
    return jax.tree.map(
        lambda x: x * by_shape[x.shape].astype(x.dtype) if x.shape in by_shape else x, tree
    )


def _assert_close_at(steps, a, b, atol):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[steps], y[steps], rtol=1e-5, atol=atol), a, b
    )


def _is_moving(x):
    return hasattr(x, "frozen")


def _moving_states(state):
    return [x for x in jax.tree.leaves(state, is_leaf=_is_moving) if _is_moving(x)]


def _unwrapped(state):
    """The state as it would be without the wrap."""
    return jax.tree.map(lambda x: x.inner_state if _is_moving(x) else x, state, is_leaf=_is_moving)


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
