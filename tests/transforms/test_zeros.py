"""What is proved of an optimizer's zeros, and that acting on it changes nothing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import transform_cases as tc

from jaxprune.transforms import _wrap, _zeros, fixed_mask, get_mask, gmp, static
from jaxprune.transforms._zeros import Zeros

BOTH, KEPT, NEITHER = Zeros(True, True), Zeros(True, False), Zeros(False, False)
LR = 0.05
TABLE = {
    "sgd": (optax.sgd(LR), BOTH),
    "momentum": (optax.sgd(LR, 0.9), BOTH),
    "nesterov": (optax.chain(optax.add_decayed_weights(0.1), optax.sgd(LR, 0.9, True)), BOTH),
    "adam": (optax.adam(LR), BOTH),
    "adamw": (optax.adamw(LR, weight_decay=0.1), BOTH),
    "scheduled": (optax.adamw(optax.cosine_decay_schedule(LR, 10)), BOTH),
    "amsgrad": (optax.amsgrad(LR), BOTH),
    "lion": (optax.lion(LR, weight_decay=0.1), BOTH),
    "rmsprop": (optax.rmsprop(LR, centered=True, momentum=0.9), BOTH),
    "injected": (optax.inject_hyperparams(optax.adamw)(learning_rate=LR), BOTH),
    "clip": (optax.chain(optax.clip(0.1), optax.adam(LR)), BOTH),
    "accumulated": (optax.MultiSteps(optax.adamw(LR), 3), BOTH),
    "schedule_free": (optax.contrib.schedule_free_adamw(LR), BOTH),
    "clip_by_global_norm": (
        optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(LR)),
        KEPT,
    ),
    "lamb": (optax.lamb(LR, weight_decay=0.1), KEPT),
    "lars": (optax.lars(LR), KEPT),
    "muon": (optax.contrib.muon(LR), KEPT),
    "apply_if_finite": (optax.apply_if_finite(optax.adam(LR), 3), KEPT),
    # The epsilon is in the moment itself.
    "adabelief": (optax.adabelief(LR), NEITHER),
    "adafactor": (optax.adafactor(LR), NEITHER),
    "sm3": (optax.sm3(LR), NEITHER),
    # 0 / 0 goes into the momentum.
    "rmsprop_no_eps": (optax.rmsprop(LR, eps=0.0, momentum=0.9), NEITHER),
}


def transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(init, update)


def examined(tx, params=None, mask=None, **extra_args):
    params = tc.make_params() if params is None else params
    mask = tc.make_mask() if mask is None else mask
    tx = _wrap.as_transformation(tc.relaxed(tx), name="test")
    state = tx.init(params)
    return _zeros.examiner(tx)(params, state, params, mask, extra_args)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_known_of_an_optimizer(name):
    tx, expected = TABLE[name]
    assert examined(tx) == expected


def stateful(update):
    """An optimizer whose moment and update are ``update(grads, moment, params)``."""

    def apply(g, s, p, **_):
        new = update(g, s, p)
        return new, new

    return transformation(lambda p: jax.tree.map(jnp.zeros_like, p), apply)


def leafwise(f):
    return stateful(lambda g, s, p: jax.tree.map(f, g, s, p))


SQUARE = {"w": jnp.ones((3, 3))}
PAIR = {"v": jnp.ones((3, 3)), "w": jnp.ones((3, 3))}
WRITTEN = {
    "own": (leafwise(lambda g, s, p: g * 2 + jnp.sqrt(jnp.abs(s)) - p * g), BOTH),
    "constant": (leafwise(lambda g, s, p: g + 1), NEITHER),
    "cancelling": (leafwise(lambda g, s, p: g + 1 - 1), NEITHER),
    "cosine": (leafwise(lambda g, s, p: jnp.cos(g)), NEITHER),
    "zero_over_zero": (leafwise(lambda g, s, p: g / jnp.abs(s)), NEITHER),
    "zero_by_infinity": (leafwise(lambda g, s, p: g * jnp.log(jnp.abs(s))), NEITHER),
    "tiny_divisor": (leafwise(lambda g, s, p: g / (jnp.abs(s) + jnp.float32(1e-39))), NEITHER),
    "small_divisor": (leafwise(lambda g, s, p: g / (jnp.abs(s) + 1e-20)), BOTH),
    "transposed": (leafwise(lambda g, s, p: g.T), NEITHER),
    "reversed": (leafwise(lambda g, s, p: g[::-1]), NEITHER),
    "summed": (leafwise(lambda g, s, p: g + g.sum()), NEITHER),
    "scaled_by_sum": (leafwise(lambda g, s, p: g * g.sum()), KEPT),
    "chosen_by_sum": (
        leafwise(lambda g, s, p: jax.lax.cond(g.sum() > 0, lambda: g, lambda: s)),
        KEPT,
    ),
    "scaled_by_row_sums": (leafwise(lambda g, s, p: g * g.sum(0, keepdims=True)), NEITHER),
    "reshaped": (leafwise(lambda g, s, p: jnp.reshape(g, (9,)).reshape(3, 3)), NEITHER),
    "branched": (leafwise(lambda g, s, p: jnp.where(g > 0, g, s)), BOTH),
    "branched_to_one": (leafwise(lambda g, s, p: jnp.where(g > 0, g, 1.0)), NEITHER),
    "checkpointed": (leafwise(jax.checkpoint(lambda g, s, p: jnp.tanh(g) + s)), BOTH),
    "looped": (leafwise(lambda g, s, p: jax.lax.fori_loop(0, 2, lambda _, x: x * 2, g)), NEITHER),
    "swapped": (stateful(lambda g, s, p: {"v": g["w"], "w": g["v"]}), NEITHER),
    "other_leaf": (stateful(lambda g, s, p: {"v": g["v"] * g["w"], "w": g["w"]}), NEITHER),
    "raising": (stateful(lambda g, s, p: 1 / 0), NEITHER),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_known_of_a_written_function(name):
    tx, expected = WRITTEN[name]
    mask = jax.tree.map(lambda x: x != 0, PAIR)
    assert examined(tx, PAIR, mask) == expected


def test_what_is_not_prunable_may_be_mixed_in():
    tx = stateful(lambda g, s, p: {"v": g["v"].T, "w": g["w"] * g["v"].sum()})
    assert examined(tx, PAIR, {"v": None, "w": SQUARE["w"] != 0}) == BOTH
    tx = stateful(lambda g, s, p: {"v": g["v"] + g["w"], "w": g["w"]})
    assert examined(tx, PAIR, {"v": None, "w": SQUARE["w"] != 0}) == KEPT


def test_a_bool_state_is_not_cleared_so_it_must_not_depend_on_weights():
    def update(g, s, p, **_):
        return g, jax.tree.map(lambda x: x > 0, g)

    def init(p):
        return jax.tree.map(lambda x: x > 0, p)

    tx = transformation(init, update)
    assert examined(tx, SQUARE, {"w": SQUARE["w"] != 0}) == KEPT


def test_with_a_function_among_the_extra_arguments_nothing_is_known():
    assert examined(optax.sgd(LR), value_fn=lambda x: x) == NEITHER
    assert examined(optax.sgd(LR), value=jnp.zeros(())) == BOTH


def test_the_answer_is_remembered_for_equal_shapes_only():
    traced = []

    def update(g, s, p, **_):
        traced.append(g)
        return g, s

    tx = transformation(lambda p: (), update)
    zeros = _zeros.examiner(tx)
    mask = {"w": SQUARE["w"] != 0}
    for _ in range(3):
        assert zeros(SQUARE, (), SQUARE, mask, {}) == BOTH
    assert len(traced) == 1
    other = {"w": jnp.ones((2, 3))}
    zeros(other, (), other, {"w": other["w"] != 0}, {})
    assert len(traced) == 2


KEPT_IN_FACT = ("adamw", "accumulated", "lamb", "schedule_free")


@pytest.mark.parametrize(
    "name",
    [
        name if name in KEPT_IN_FACT else pytest.param(name, marks=pytest.mark.slow)
        for name, (_, known) in TABLE.items()
        if known.kept
    ],
)
def test_zeros_are_kept_in_fact(name):
    params, mask = tc.times(tc.make_params(), tc.make_mask()), tc.make_mask()
    tx = _wrap.as_transformation(tc.relaxed(TABLE[name][0]), name="test")
    step, full = tc.compiled_step(tx, by_hand=True), tc.full_mask(mask)
    state = tx.init(params)
    for batch in zip(*tc.make_batches(4), strict=True):
        params, state = step(params, state, batch, full)
        moments = tc.moments_of_pruned(state, mask)
        assert not moments.any()


# With a function among the extra arguments nothing is known of an optimizer that ignores it: the
# wrap masks at every step, and takes the long way.
LONG = {"value_fn": abs}


def trained(name, **extra_args):
    """Forty steps of `gmp`, which prunes after every fifth; the state is kept at every step."""
    tx = tc.relaxed(gmp(tc.relaxed(TABLE[name][0]), 0.8, total_steps=40, interval=5))

    @functools.partial(jax.jit, compiler_options=tc.EXACT)
    def step(params, state, batch):
        updates, state = tx.update(tc.grads_at(params, batch), state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    params, seen = tc.make_params(), []
    state = tx.init(params)
    for batch in zip(*tc.make_batches(40), strict=True):
        params, state = step(params, state, batch)
        seen.append((params, state.inner_state, get_mask(state)))
    return tc.stacked(seen)


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("nesterov", "lion", "accumulated")),
    ],
)
def test_the_short_way_is_the_long_way(name):
    assert examined(TABLE[name][0]) == BOTH
    assert examined(TABLE[name][0], **LONG) == NEITHER
    params, inner_state, mask = trained(name)
    long_params, long_inner_state, long_mask = trained(name, **LONG)
    for a, b in zip(jax.tree.leaves(mask), jax.tree.leaves(long_mask), strict=True):
        np.testing.assert_array_equal(a, b)
    kept = [int(m[-1].sum()) for m in jax.tree.leaves(mask)]
    assert sum(kept) == 84 - round(0.8 * 84)
    for got, want in ((params, long_params), (inner_state, long_inner_state)):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def mlp_params():
    rng = np.random.default_rng(0)
    return {
        str(i): {"kernel": jnp.asarray(rng.normal(size=(64, 64)) * 0.1, jnp.float32)}
        for i in range(3)
    }


def temporary_bytes(tx, params, **extra_args):
    def loss(params, x):
        for layer in params.values():
            x = jnp.tanh(x @ layer["kernel"])
        return jnp.mean(jnp.square(x))

    def step(params, state, x):
        updates, state = tx.update(jax.grad(loss)(params, x), state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1), compiler_options=tc.EXACT).lower(
        params, state, jnp.ones((8, 64))
    )
    analysis: Any = compiled.compile().memory_analysis()
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("wrap", ["fixed_mask", "static"])
def test_a_fixed_mask_takes_no_memory(wrap):
    params, inner = mlp_params(), tc.relaxed(optax.adamw(LR))
    mask = jax.tree.map(lambda p: p > 0, params)
    tx = {
        "fixed_mask": lambda: fixed_mask(inner, mask),
        "static": lambda: static(inner, 0.5, key=jax.random.key(0)),
    }[wrap]()
    assert temporary_bytes(tx, params) <= temporary_bytes(inner, params) + 1024 * len(params)


def test_the_short_way_of_a_moving_mask_takes_less_memory():
    params = mlp_params()
    tx = gmp(tc.relaxed(optax.adamw(LR)), 0.8, total_steps=40, interval=5)
    assert temporary_bytes(tx, params) < temporary_bytes(tx, params, **LONG)
