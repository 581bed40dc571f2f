"""`lc` against its definition; `lc` and `gsm` as members of a chain."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_gsm import assert_follows, largest, make_batches, make_params, quick_jit, slow_gradient

import jaxprune as jp
from jaxprune.transforms import LCState, lc
from jaxprune.transforms._gsm import gsm


def raised(step):
    """Ten percent more every five steps, like BIMP's decay."""
    return 0.02 * 1.1 ** (step // 5).astype(jnp.float32)


def growing(step):
    return 0.5 * 1.3 ** (step / 4).astype(jnp.float32)


EDITORS = {
    "gsm": lambda **options: gsm(0.6, **options),
    "decay": lambda **options: lc(0.6, 0.1, **options),
    "raised": lambda **options: lc(0.6, raised, **options),
    "penalty": lambda **options: lc(0.6, mu=growing, interval=2, **options),
    "multipliers": lambda **options: lc(0.6, mu=growing, interval=2, multipliers=True, **options),
}
every_editor = pytest.mark.parametrize("name", EDITORS)
# Where every case costs compilations: the one with the largest state, and the one without any.
main_editors = pytest.mark.parametrize(
    "name", ["multipliers", pytest.param("gsm", marks=pytest.mark.slow)]
)


def is_masked_node(x):
    return isinstance(x, optax.MaskedNode)


@functools.cache
def jitted(name, where=None):
    """The editor and its compiled update, so that the tests compile it once."""
    tx = EDITORS[name](where=where)
    return tx, quick_jit(tx.update)


def few_params():
    """Two leaves: compiling takes the longer the more there are."""
    return {"first": make_params()["first"]}


def make_grads():
    return jax.tree.map(lambda p: jnp.cos(9 * p), few_params())


def assert_same(a, b, rtol=1e-6, atol=1e-7):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


# By hand


def test_selective_decay_by_hand():
    params = {"kernel": jnp.array([[4.0, -1.0], [-2.0, 0.5]]), "bias": jnp.array([-0.5, 3.0])}
    grads = jax.tree.map(jnp.ones_like, params)
    # |w|: bias 0.5, 3; kernel 4, 1, 2, 0.5. Three decay.
    updates, state = lc(0.5, 0.5).update(grads, lc(0.5, 0.5).init(params), params)
    np.testing.assert_array_equal(updates["bias"], [0.75, 1.0])
    np.testing.assert_array_equal(updates["kernel"], [[1.0, 0.5], [1.0, 1.25]])
    assert state == LCState(jnp.int32(1), None, None, None)


def test_alternation_by_hand():
    tx = lc(0.5, mu=lambda step: 2 + step, interval=2, multipliers=True)
    params, grads = {"w": jnp.array([4.0, -1.0])}, {"w": jnp.zeros(2)}
    state = tx.init(params)
    # Direct compression: theta = (4, 0), no multipliers yet, mu(0) = 2.
    updates, state = tx.update(grads, state, params)
    np.testing.assert_array_equal(state.theta["w"], [4.0, 0.0])
    np.testing.assert_array_equal(state.multipliers["w"], [0.0, 0.0])
    np.testing.assert_array_equal(updates["w"], [0.0, -2.0])
    # The L step goes on: theta, multipliers and mu are held.
    updates, state = tx.update(grads, state, {"w": jnp.array([3.0, -5.0])})
    np.testing.assert_array_equal(state.theta["w"], [4.0, 0.0])
    np.testing.assert_array_equal(updates["w"], [2 * (3.0 - 4.0), 2 * -5.0])
    # C step with the old mu = 2: theta is the larger of (3, -5); y = -2 (w - theta) = (-6, 0).
    # Then mu(2) = 4, and the gradient is 4 (w - theta) - y = (12 + 6, 0).
    updates, state = tx.update(grads, state, {"w": jnp.array([3.0, -5.0])})
    np.testing.assert_array_equal(state.theta["w"], [0.0, -5.0])
    np.testing.assert_array_equal(state.multipliers["w"], [-6.0, 0.0])
    np.testing.assert_array_equal(updates["w"], [18.0, 0.0])
    _, state = tx.update(grads, state, params)
    # C step: w - y / 4 = (3 + 1.5, -4): the multipliers move what is projected.
    updates, state = tx.update(grads, state, {"w": jnp.array([3.0, -4.0])})
    np.testing.assert_array_equal(state.theta["w"], [4.5, 0.0])
    np.testing.assert_array_equal(state.multipliers["w"], [-6.0 - 4 * (3.0 - 4.5), 16.0])
    np.testing.assert_array_equal(updates["w"], [6 * (3.0 - 4.5) - 0.0, 6 * -4.0 - 16.0])
    assert int(state.step) == 5
    assert float(state.mu) == 6.0


def test_patterns_by_hand():
    params = {"bias": jnp.ones(3), "kernel": jnp.array([[4.0, 1.0], [3.0, -2.0]])}
    rules = {"pattern": jp.masks.nm(1, 2, axis=1), "where": jp.default_where}
    for tx in (lc(None, 0.5, **rules), lc(None, mu=0.5, **rules)):
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        np.testing.assert_array_equal(updates["kernel"], [[0, 0.5], [0, -1.0]])
        assert not np.any(updates["bias"])
    with pytest.raises(ValueError, match=r"1:2 pattern fixes the sparsity, 0.5; got 0.6"):
        lc(0.6, 0.5, **rules).init(params)


# Forty steps


def slow_selective_decay(params, batches, sparsity, decay_at, lr, momentum, nesterov):
    """As the reference code has it: everything decays, the largest get it back."""
    params = [np.asarray(p, np.float64) for p in params]
    buffers, history = [np.zeros_like(p) for p in params], []
    n = sum(p.size for p in params)
    for t, (x, y) in enumerate(zip(*batches, strict=True)):
        decay = decay_at(t)
        large = largest(params, round(sparsity * n))
        for i, g in enumerate(slow_gradient(params, x, y)):
            g = g - decay * params[i] * large[i]
            g = g + decay * params[i]
            buffers[i] = momentum * buffers[i] + g
            params[i] = params[i] - lr * (g + momentum * buffers[i] if nesterov else buffers[i])
        history.append([p.copy() for p in params])
    return history


def slow_alternation(params, batches, sparsity, mu_at, interval, multipliers, lr, momentum, decay):
    """As the paper has it: loops of L steps (with nesterov) and C steps, over kernels alone."""
    params = [np.asarray(p, np.float64) for p in params]
    buffers, history = [np.zeros_like(p) for p in params], []
    chosen = [i for i, p in enumerate(params) if p.ndim == 2]
    removed = round(sparsity * sum(params[i].size for i in chosen))
    y = {i: np.zeros_like(params[i]) for i in chosen}

    def project(vectors):
        kept = largest(vectors, removed)
        return {i: v * k for i, v, k in zip(chosen, vectors, kept, strict=True)}

    theta = project([params[i] for i in chosen])
    steps = list(zip(*batches, strict=True))
    for k in range(len(steps) // interval):
        mu = mu_at(k * interval)
        for batch in steps[k * interval : (k + 1) * interval]:
            grads = slow_gradient(params, *batch)
            for i in chosen:
                grads[i] = grads[i] + mu * (params[i] - theta[i] - y[i] / mu)
            for i, g in enumerate(grads):
                g = g + decay * params[i]
                buffers[i] = momentum * buffers[i] + g
                params[i] = params[i] - lr * (g + momentum * buffers[i])
            history.append([p.copy() for p in params])
        theta = project([params[i] - y[i] / mu for i in chosen])
        if multipliers:
            y = {i: y[i] - mu * (params[i] - theta[i]) for i in chosen}
    return history


@pytest.mark.parametrize("nesterov", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_forty_steps_of_selective_decay(nesterov):
    params, batches = make_params(), make_batches(40)
    decay, slow = (raised, lambda t: 0.02 * 1.1 ** (t // 5)) if nesterov else (0.03, lambda t: 0.03)
    optimizer = optax.sgd(0.05, 0.9, nesterov=nesterov)
    expected = slow_selective_decay(
        jax.tree.leaves(params), batches, 0.7, slow, 0.05, 0.9, nesterov
    )
    assert_follows(jp.methods.lc(0.7, weight_decay=decay), optimizer, params, batches, expected)


@pytest.mark.parametrize("multipliers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_forty_steps_of_the_alternation(multipliers):
    params, batches = make_params(), make_batches(40)
    rules = {"mu": growing, "interval": 4, "multipliers": multipliers}
    method = jp.methods.lc(0.7, ranked=jp.default_where, **rules)
    optimizer = optax.chain(optax.add_decayed_weights(0.02), optax.sgd(0.05, 0.9, nesterov=True))
    expected = slow_alternation(
        jax.tree.leaves(params),
        batches,
        0.7,
        lambda t: 0.5 * 1.3 ** (t / 4),
        interval=4,
        multipliers=multipliers,
        lr=0.05,
        momentum=0.9,
        decay=0.02,
    )
    assert_follows(method, optimizer, params, batches, expected)


# In a chain


@every_editor
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_suffice_and_structure_and_dtypes_stay(name, dtype):
    tx = EDITORS[name]()
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), few_params())
    state = jax.eval_shape(tx.init, shapes)
    updates, after = jax.eval_shape(tx.update, shapes, state, shapes)
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert kinds(updates) == kinds(shapes)
    assert kinds(after) == kinds(state)
    if name in ("penalty", "multipliers"):
        assert kinds(state.theta) == kinds(shapes)
        assert state.mu.dtype == jnp.float32

    def step(yes, grads, state, params):
        keep = lambda: (grads, state)  # noqa: E731
        return jax.lax.cond(yes, lambda: tx.update(grads, state, params), keep)

    yes = jax.ShapeDtypeStruct((), jnp.bool_)
    assert kinds(jax.eval_shape(step, yes, shapes, state, shapes)) == kinds((shapes, state))


def move(params, updates):
    return jax.tree.map(lambda p, u: p - jnp.asarray(0.1, p.dtype) * u, params, updates)


@main_editors
def test_vmap_changes_nothing_and_one_compilation_serves(name):
    tx, compiled = EDITORS[name](), []
    params, grads = few_params(), make_grads()
    other = jax.tree.map(lambda p: p[::-1] * 1.5, params)

    def step(params, state):
        compiled.append(1)
        updates, state = tx.update(grads, state, params)
        return move(params, updates), state

    one = quick_jit(step)
    ends = [one(*one(*one(p, tx.init(p)))) for p in (params, other)]
    assert len(compiled) == 1
    stacked, both = (
        quick_jit(jax.vmap(step)),
        jax.tree.map(lambda *xs: jnp.stack(xs), params, other),
    )
    both = stacked(*stacked(*stacked(both, jax.vmap(tx.init)(both))))
    for i, end in enumerate(ends):
        assert_same(jax.tree.map(lambda x, i=i: x[i], both), end)


@main_editors
def test_jit_changes_nothing(name):
    tx, update = jitted(name)
    params, grads = few_params(), make_grads()
    state = tx.init(params)
    assert_same(update(grads, state, params), tx.update(grads, state, params))
    assert_same(quick_jit(tx.init)(params), state)


@main_editors
def test_eight_devices_do_as_one(name):
    tx = EDITORS[name]()
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), "bias": jnp.ones(6)}
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {
        "kernel": NamedSharding(mesh, PartitionSpec("x")),
        "bias": NamedSharding(mesh, PartitionSpec()),
    }

    @quick_jit
    def steps(params, state):
        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p: jnp.cos(5 * p), params)
            updates, state = tx.update(grads, state, params)
            return (move(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=4)[0]

    spread = jax.device_put(params, specs)
    state = tx.init(spread)
    if name == "multipliers":
        assert state.theta["kernel"].sharding == specs["kernel"]
    assert_same(steps(spread, state), steps(params, tx.init(params)))


def test_specs_for_a_sharded_state():
    params = few_params()
    specs = jax.tree.map(lambda p: f"spec of {p.shape}", params)
    for name in EDITORS:
        tx = optax.chain(EDITORS[name](where=jp.default_where), optax.sgd(0.1, 0.9))
        state = tx.init(params)
        mapped = optax.tree.map_params(
            tx,
            lambda x, spec: x if is_masked_node(x) else spec,
            state,
            specs,
            transform_non_params=lambda _: "replicated",
            is_leaf=is_masked_node,
        )
        assert jax.tree.structure(mapped) == jax.tree.structure(state)
        if name in ("penalty", "multipliers"):
            assert mapped[0].mu == "replicated"
            first = {"bias": optax.MaskedNode(), "kernel": "spec of (4, 5)"}
            assert mapped[0].theta["first"] == first
            assert name == "penalty" or mapped[0].multipliers["first"] == first


@main_editors
def test_in_a_partition_and_beside_leaves_that_are_no_weights(name):
    # None, as Equinox and NNX leave it, and integers.
    params = few_params() | {"static": None, "steps": jnp.int32(3)}
    grads = make_grads() | {"static": None, "steps": jnp.int32(0)}
    alone = EDITORS[name](where=jp.default_where)
    expected, _ = quick_jit(alone.update)(grads, alone.init(params), params)
    label = lambda p: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, p)  # noqa: E731
    rest = {"bias": optax.identity(), "steps": optax.identity()}
    tx = optax.partition({"kernel": EDITORS[name]()} | rest, label)
    state = tx.init(params)
    updates, after = quick_jit(tx.update)(grads, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert_same(updates, expected, rtol=0, atol=0)
    assert_same([updates[k] for k in ("static", "steps")], [None, jnp.int32(0)])
    assert not np.array_equal(updates["first"]["kernel"], grads["first"]["kernel"])
    np.testing.assert_array_equal(updates["first"]["bias"], grads["first"]["bias"])


@main_editors
def test_wrappers(name):
    params, grads = few_params(), make_grads()
    tx, update = jitted(name)
    once, after = update(grads, tx.init(params), params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes dtypes
        wrapped = optax.apply_if_finite(optax.MultiSteps(tx, 2), 3)
        update = quick_jit(wrapped.update)
        first, state = update(grads, wrapped.init(params), params)
        bad = jax.tree.map(lambda g: g * jnp.nan, grads)
        refused, unchanged = update(bad, state, params)
        second, state = update(grads, unchanged, params)
    assert not any(np.any(u) for u in jax.tree.leaves((first, refused)))
    assert_same(unchanged.inner_state.inner_opt_state, tx.init(params))
    assert_same(second, once)
    assert_same(state.inner_state.inner_opt_state, after)


@main_editors
def test_injected_hyperparameters(name):
    params, grads = few_params(), make_grads()
    plain, one = jitted(name)
    with jax.numpy_dtype_promotion("standard"):
        if name == "gsm":
            injected = optax.inject_hyperparams(gsm)(sparsity=0.6)
        else:
            make = optax.inject_hyperparams(lc, ("sparsity",))
            injected = make(0.6, mu=growing, interval=2, multipliers=True)
        state, other, two = plain.init(params), injected.init(params), quick_jit(injected.update)
        for _ in range(3):
            expected, state = one(grads, state, params)
            updates, other = two(grads, other, params)
            assert_same(updates, expected)


@main_editors
def test_extra_arguments_reach_the_scores_that_ask_for_them(name):
    params = few_params()
    order = jax.tree.map(lambda p: jnp.sin(p) if p.ndim == 2 else None, params)
    # What will be scored must be known from the start, hence `where`.
    editor = EDITORS[name](scores=lambda params, order: order, where=jp.default_where)
    tx = optax.chain(editor, optax.identity())
    grads = jax.tree.map(jnp.ones_like, params)
    extra = {"order": order, "loss": jnp.ones(())}
    updates, _ = quick_jit(tx.update)(grads, tx.init(params), params, **extra)
    mask = jp.masks.make(order, 0.6)
    np.testing.assert_array_equal(updates["first"]["bias"], 1.0)
    changed = updates["first"]["kernel"] != 1.0
    np.testing.assert_array_equal(changed, ~mask["first"]["kernel"])
    with pytest.raises(ValueError, match=r"ask for 'order'.*tx\.update\("):
        tx.update(grads, tx.init(params), params)


# Refusals


def test_arguments_that_contradict_each_other():
    with pytest.raises(ValueError, match=r"exactly one.*weight_decay=None and mu=None"):
        lc(0.5)
    with pytest.raises(ValueError, match=r"exactly one.*weight_decay=0.1 and mu=1.0"):
        lc(0.5, 0.1, mu=1.0)
    with pytest.raises(ValueError, match=r"neither interval nor.*interval=3"):
        lc(0.5, 0.1, interval=3)
    with pytest.raises(ValueError, match=r"neither interval nor.*multipliers=True"):
        lc(0.5, 0.1, multipliers=True)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"in \[0, 1\); got 1.0", {"sparsity": 1.0, "mu": 1.0}),
        (ValueError, r"in \[0, 1\); got -0.5", {"sparsity": -0.5, "weight_decay": 1.0}),
        (TypeError, r"sparsity is a number.*got None", {"sparsity": None, "mu": 1.0}),
        (ValueError, r"interval is at least 1.*got 0", {"mu": 1.0, "interval": 0}),
        (TypeError, r"interval is an integer.*got 1\.5", {"mu": 1.0, "interval": 1.5}),
        (TypeError, r"interval is an integer.*got True", {"mu": 1.0, "interval": True}),
        (ValueError, r"weight_decay is finite and at least 0; got -0\.1", {"weight_decay": -0.1}),
        (ValueError, r"weight_decay is finite.*got nan", {"weight_decay": float("nan")}),
        (TypeError, r"weight_decay is a number or a function.*'big'", {"weight_decay": "big"}),
        (ValueError, r"mu is finite and above 0; got 0\.0", {"mu": 0}),
        (TypeError, r"mu is a number or a function of the step", {"mu": np.ones(2)}),
        (TypeError, r"scores must be a function", {"mu": 1.0, "scores": {}}),
    ],
)
def test_arguments_out_of_range(error, message, arguments):
    with pytest.raises(error, match=message):
        lc(**{"sparsity": 0.5} | arguments)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"mu": 1.0}])
def test_trees_that_do_not_fit(options):
    params, allocation = make_params(), jp.masks.per_leaf({"third": 0.5})
    tx = lc(0.5, **options)
    with pytest.raises(ValueError, match=r"lc needs the parameters, got params=None.*tx\.update"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="no prunable leaf among 4"):
        lc(0.5, where=lambda path, leaf: False, **options).init(params)
    with pytest.raises(ValueError, match="rule 'third', which matches no"):
        lc(0.5, allocation=allocation, **options).init(params)


def test_scores_that_change_their_leaves():
    params = make_params()
    tx = lc(0.5, mu=1.0, scores=lambda params, order: order)
    order = {"first": params["first"], "second": {"bias": None, "kernel": None}}
    with pytest.raises(ValueError, match=r"of lc disagree.*'second/bias'"):
        tx.update(params, tx.init(params), params, order=order)
    smaller = {"first": params["first"], "second": {"bias": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"state of lc is of another tree"):
        tx.update(smaller, tx.init(params), smaller, order=order)
