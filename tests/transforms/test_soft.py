"""Soft filter pruning against its definition."""

import jax
import jax.numpy as jnp
import moving_oracle as mo
import numpy as np
import optax
import optax.contrib
import pytest
import transform_cases as tc
from moving_checks import assert_same_when_sharded, assert_same_with_and_without_jit, strict

import jaxprune as jp
from jaxprune.transforms import freeze, get_mask, set_mask, soft

EVERY, END = 6, 33
RESETS = (6, 12, 18, 24, 30, 33)  # of forty steps


def make(sparsity=0.4, inner=None, **options):
    given = {"every": EVERY, "total_steps": mo.STEPS, "end_step": END}
    given |= {"where": jp.default_where} | options
    return soft(mo.inner() if inner is None else inner, sparsity, **given)


def strongest_filters(w, sparsity):
    """Which output channels stay, by L2 norm, as a mask of the matrix."""
    norms = [float(np.sqrt(sum(x * x for x in column))) for column in w.T]
    gone = sorted(range(len(norms)), key=lambda i: norms[i])[: round(sparsity * len(norms))]
    mask = np.ones(w.shape, bool)
    mask[:, gone] = False
    return mask


def slow(params, resets, end, *, reset_moments):
    """Yields weights, mask and momentum of forty steps, written out in NumPy."""
    w = {k: {n: np.asarray(x, np.float64) for n, x in v.items()} for k, v in params.items()}
    momentum = {k: {n: np.zeros_like(x) for n, x in v.items()} for k, v in w.items()}
    masks = {k: np.ones(shape, bool) for k, shape in mo.SHAPES.items()}
    for t, (x, y) in enumerate(zip(*mo.data(), strict=True), start=1):
        gradient = mo.gradients(w, x.astype(np.float64), y.astype(np.float64))
        for layer, leaves in w.items():
            for name in leaves:
                g = gradient[layer][name] + mo.DECAY * leaves[name]
                if end is not None and t > end and name == "kernel":
                    g = g * masks[layer]
                momentum[layer][name] = mo.MOMENTUM * momentum[layer][name] + g
                leaves[name] = leaves[name] - mo.LR * (g + mo.MOMENTUM * momentum[layer][name])
        if t in resets:
            for k in mo.SHAPES:
                masks[k] = strongest_filters(w[k]["kernel"], 0.4)
                w[k]["kernel"] = w[k]["kernel"] * masks[k]
                if reset_moments or t == end:
                    momentum[k]["kernel"] = momentum[k]["kernel"] * masks[k]
        yield jax.tree.map(np.copy, (w, masks, momentum))


@pytest.mark.parametrize(
    ("end", "reset_moments"),
    [
        (END, True),
        (mo.STEPS, False),
        (None, True),
        pytest.param(END, False, marks=pytest.mark.slow),
        pytest.param(mo.STEPS, True, marks=pytest.mark.slow),
        pytest.param(None, False, marks=pytest.mark.slow),
    ],
)
def test_forty_steps_follow_the_definition(end, reset_moments):
    resets = list(range(EVERY, (end or mo.STEPS) + 1, EVERY))
    resets += [end] if end else []
    total = None if end is None else mo.STEPS
    tx = make(total_steps=total, end_step=end, reset_moments=reset_moments)
    params = mo.start()
    (_, state), (path, masks) = mo.train(tx, params, tx.init(params), mo.data())
    before = {k: np.ones(shape, bool) for k, shape in mo.SHAPES.items()}
    came_back = False
    by_hand = list(slow(params, resets, end, reset_moments=reset_moments))
    for t, (weights, expected, _) in enumerate(by_hand, start=1):
        for k in mo.SHAPES:
            now = np.asarray(masks[k]["kernel"])[t - 1]
            np.testing.assert_array_equal(now, expected[k], err_msg=f"step {t}")
            got = np.asarray(path[k]["kernel"])[t - 1]
            np.testing.assert_allclose(got, weights[k]["kernel"], rtol=0, atol=1e-5)
            if t >= RESETS[0]:  # 3 of 8 filters, 2 of 4
                assert now.all(0).sum() == now.any(0).sum() == {"a": 5, "b": 2}[k]
            hard = t in resets or (end is not None and t > end)
            assert now.all() or np.any(got[~now]) != hard
            came_back |= bool((now & ~before[k]).any())
            before[k] = now
        np.testing.assert_allclose(
            np.asarray(path["b"]["bias"])[t - 1], weights["b"]["bias"], atol=1e-5
        )
    assert came_back
    (trace,) = (x for x in jax.tree.leaves(state, is_leaf=_is_trace) if _is_trace(x))
    momentum = by_hand[-1][2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), trace.trace, momentum)


def _is_trace(x):
    return isinstance(x, optax.TraceState)


def test_times_begin_after_begin_step():
    tx = make(begin_step=4, every=5, total_steps=17, end_step=None)
    params, seen = mo.start(), []
    _, (path, _) = mo.train(tx, params, tx.init(params), mo.data(20))
    for t in range(1, 21):
        if np.any(np.all(np.asarray(path["a"]["kernel"])[t - 1] == 0, axis=0)):
            seen.append(t)
    assert seen == [9, 14, 17, 18, 19, 20]


def test_filters_of_convolutions_by_default():
    params = tc.make_params()
    tx = soft(optax.sgd(0.0), 0.5, every=1)
    state = tx.init(params)
    assert get_mask(state)["dense"]["kernel"] is None
    end, _ = mo.stepper(tx)(jax.tree.map(jnp.zeros_like, params), state, params)
    kernel = np.asarray(params["conv"]["kernel"])
    norms = np.sqrt((kernel**2).sum((0, 1, 2)))
    gone = np.argsort(norms)[:2]
    assert not np.any(end["conv"]["kernel"][..., gone])
    assert np.all(np.delete(end["conv"]["kernel"], gone, axis=-1))
    jax.tree.map(np.testing.assert_array_equal, end["dense"], params["dense"])
    # A rule of one's own, or a pattern, and everything prunable is meant.
    for options in ({"where": jp.default_where}, {"pattern": jp.masks.channels(-1)}):
        mask = get_mask(soft(optax.sgd(0.0), 0.5, every=1, **options).init(params))
        assert mask["dense"]["kernel"].shape == (4, 3)


@pytest.mark.parametrize(
    ("sparsity", "options"),
    [
        (None, {"pattern": jp.masks.nm(1, 2, axis=0)}),
        (0.5, {"allocation": jp.masks.globally(), "pattern": lambda path, leaf: None}),
        pytest.param(0.5, {"pattern": lambda path, leaf: None}, marks=pytest.mark.slow),
        (0.5, {"scores": jp.scores.taylor, "allocation": jp.masks.globally()}),
    ],
)
def test_other_rules(sparsity, options):  # a pattern of None: single weights
    tx, params = make(sparsity, every=1, **options), mo.start()
    params, state = mo.stepper(tx)(mo.start(1), tx.init(params), params)
    kept, size = jp.metrics.counts(get_mask(state))
    if options.get("scores"):  # whole filters of two sizes under one threshold: 6 of 12 go
        assert sum(int(m.any(0).sum()) for m in jax.tree.leaves(get_mask(state))) == 6
    else:
        assert kept == size // 2
    if sparsity is None:
        jp.masks.check(get_mask(state), options["pattern"])


# Frozen, and masks from outside


def test_frozen_it_is_hard_from_the_next_step_on():
    tx, params = make(), mo.start()
    batches = [tuple(b[i : i + 8] for b in mo.data()) for i in (0, 8)]
    (params, state), _ = mo.train(tx, params, tx.init(params), batches[0])
    mask = mo.kernels(get_mask(state))
    assert all(np.all(w) for w in mo.kernels(params).values())
    (_, state), (path, masks) = mo.train(tx, params, freeze(state), batches[1])
    for k in mo.SHAPES:
        assert not mask[k].all()
        assert all((m == mask[k]).all() for m in np.asarray(masks[k]["kernel"]))
        assert not np.any(np.asarray(path[k]["kernel"])[:, ~mask[k]])
    assert not any(map(np.any, _pruned_moments(state, mask)))


def _pruned_moments(state, mask):
    (trace,) = (x for x in jax.tree.leaves(state, is_leaf=_is_trace) if _is_trace(x))
    return [np.asarray(trace.trace[k]["kernel"])[~mask[k]] for k in mo.SHAPES]


def test_a_mask_from_outside_holds_where_none_is_made():
    tx, params = make(), mo.start()
    mask = mo.with_none(
        {k: jnp.arange(np.prod(s)).reshape(s) % 3 > 0 for k, s in mo.SHAPES.items()}
    )
    step = mo.stepper(tx)
    state = set_mask(tx.init(params), mask)
    after, _ = step(mo.start(1), state, params)
    assert all(np.all(w) for w in mo.kernels(after).values())
    after, state = step(mo.start(1), freeze(state), params)
    for k, w in mo.kernels(after).items():
        np.testing.assert_array_equal(w != 0, mask[k]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, get_mask(state), mask)


def test_moments_at_a_reset():
    params = {"kernel": jnp.array([[1.0, 2.0]])}
    grads = {"kernel": -jnp.ones((1, 2))}
    seen = {}
    for reset_moments in (False, True):
        tx = make(0.5, optax.sgd(1.0, 0.5), every=2, reset_moments=reset_moments)
        now, state, step, rows = params, tx.init(params), mo.stepper(tx), []
        for _ in range(3):
            now, state = step(grads, state, now)
            rows.append(now["kernel"].tolist()[0])
        seen[reset_moments] = rows
    # Updates 1, 1.5, 1.75; of the weight set to zero 1 where its momentum begins anew.
    assert seen[False] == [[2.0, 3.0], [0.0, 4.5], [1.75, 6.25]]
    assert seen[True] == [[2.0, 3.0], [0.0, 4.5], [1.0, 6.25]]


# Optimizers


NAMES = [name for name in tc.CASES if "_outside" not in name]
QUICK = ("lamb", "adafactor_factored")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_around_other_optimizers(name):
    inner = tc.CASES[name].plain

    def wrap(tx):
        return soft(tx, 0.5, every=9, end_step=30, reset_moments=True, where=jp.default_where)

    tx, params = strict(wrap, inner), tc.make_params()
    (_, state), path = tc.train(tx, params, tx.init(params))
    _, plain = tc.train(inner, params, inner.init(params))
    mask = get_mask(state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(path))
    jax.tree.map(  # until the first reset nothing is different
        lambda a, b: np.testing.assert_allclose(a[:8], b[:8], rtol=1e-5, atol=1e-6), path, plain
    )
    assert tc.pruned_entries(jax.tree.map(lambda x: x[9:17], path), mask).any()
    assert not tc.pruned_entries(jax.tree.map(lambda x: x[29:], path), mask).any()
    assert not tc.moments_of_pruned(state.inner_state, mask).any()
    assert [int(m.sum()) for m in jax.tree.leaves(mask)] == [36, 4]  # 2 of 4 filters, 1 of 3


def test_steps_under_multisteps_are_those_that_happen():
    options = {"every": 1, "total_steps": None, "end_step": None}
    inner = strict(lambda tx: make(inner=tx, **options), mo.inner())
    tx = tc.relaxed(optax.MultiSteps(inner, 2))
    params = mo.start()
    step, state = mo.stepper(tx), tx.init(params)
    params, state = step(mo.start(1), state, params)
    assert all(map(np.all, mo.kernels(get_mask(state)).values()))
    params, state = step(mo.start(1), state, params)
    assert not any(map(np.all, mo.kernels(params).values()))


@pytest.mark.slow
def test_one_program_gives_what_plain_python_gives():
    assert_same_with_and_without_jit(make(), at=EVERY)


@pytest.mark.slow
def test_the_same_masks_on_eight_devices():
    masks = assert_same_when_sharded(make(every=2, total_steps=5, end_step=None), steps=5)
    assert all((masks[0][k]["kernel"] != masks[5][k]["kernel"]).any() for k in "ab")


# Refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0}, "every is 0, but must be at least 1"),
        ({"every": 33}, r"nothing grow back: every=33 from begin_step=0 on .* after step 33"),
        ({"begin_step": 27}, r"every=6 from begin_step=27 .* after step 33.*use one_shot"),
        ({"begin_step": -1}, "begin_step is -1, but must be at least 0"),
        ({"end_step": 41}, r"end_step=41 of soft lies after the end of training, total_steps=40"),
        ({"end_step": None, "total_steps": 6}, "nothing grow back"),
        ({"every": 2**31}, "must be below 2147483647"),
        ({"sparsity": 1.0}, r"must lie in \[0, 1\)"),
        ({"sparsity": 30}, r"For 30 % pass 0\.3"),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match="every must be a static Python integer"):
        make(every=1.0)
    with pytest.raises(TypeError, match="reset_moments is True or False; got 1"):
        make(reset_moments=1)
    with pytest.raises(TypeError, match="scores must be a function"):
        make(scores={"a": 1})
    with pytest.raises(TypeError, match="soft wraps an optimizer"):
        make(inner=optax.adam)


def test_bad_fits_are_found_by_init():
    params = mo.start()
    with pytest.raises(ValueError, match=r"no prunable leaf is of rank above 2\. Say with where="):
        make(where=None).init(params)
    with pytest.raises(ValueError, match=r"soft never prunes: sparsity 0\.05 is less than half"):
        make(0.05).init(params)
    with pytest.raises(ValueError, match=r"fixes the sparsity, 0\.5; got 0\.4"):
        make(pattern=jp.masks.nm(1, 2, axis=0)).init(params)
    with pytest.raises(ValueError, match="no prunable leaf"):
        make(where=lambda path, leaf: False).init(params)
    with pytest.raises(ValueError, match="history of whole parameters"):
        make(inner=optax.lbfgs()).init(params)


def test_scores_without_what_they_need_are_found_by_the_first_step():
    tx, params = make(scores=jp.scores.wanda), mo.start()
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match="scores ask for 'input_norms'"):
            update(params, tx.init(params), params)
