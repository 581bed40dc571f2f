"""What every public transform promises, whatever its method: one registry, one list of checks.

To add a transform, give it a line in `REGISTRY`, with settings under which its mask moves after
step 2 and once more before step 8.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal
from transform_cases import EXACT

import jaxprune as jp
from jaxprune import transforms

STEPS = 8
SHAPES = {"hidden": {"kernel": (8, 16), "bias": (16,)}, "out": {"kernel": (16, 8)}}
KEY = jax.random.key(7)


def make_params(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape) * 0.3, dtype),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def make_mask():
    rng = np.random.default_rng(1)
    return {
        "hidden": {"kernel": jnp.asarray(rng.random((8, 16)) < 0.5), "bias": None},
        "out": {"kernel": jnp.asarray(rng.random((16, 8)) < 0.5)},
    }


REGISTRY = {
    "fixed_mask": lambda inner: transforms.fixed_mask(inner, make_mask()),
    "prune_at": lambda inner: transforms.prune_at(inner, (2, 5), (0.3, 0.6), total_steps=STEPS),
    "one_shot": lambda inner: transforms.one_shot(inner, 0.5, step=2),
    "gmp": lambda inner: transforms.gmp(inner, 0.6, total_steps=STEPS, interval=2),
    "set_": lambda inner: transforms.set_(inner, 0.5, key=KEY, total_steps=STEPS, interval=2),
    "rigl": lambda inner: transforms.rigl(
        inner, 0.5, key=KEY, total_steps=STEPS, interval=2, end_step=STEPS
    ),
    "static": lambda inner: transforms.static(inner, 0.5, key=KEY),
    "ac_dc": lambda inner: transforms.ac_dc(
        inner, 0.5, total_steps=STEPS, warmup_steps=2, compressed_steps=2, final_steps=1
    ),
    # Single weights: in so few steps whole filters do not change places.
    "soft": lambda inner: transforms.soft(
        inner, 0.5, every=2, total_steps=STEPS, pattern=lambda path, leaf: None
    ),
    "gsm": lambda inner: optax.chain(transforms.gsm(0.5), inner),
    "lc": lambda inner: optax.chain(transforms.lc(0.5, 0.1), inner),
    "lc with mu": lambda inner: optax.chain(
        transforms.lc(0.5, mu=optax.exponential_decay(0.5, 1, 1.5), interval=2, multipliers=True),
        inner,
    ),
    "zero_updates": lambda inner: optax.chain(inner, transforms.zero_updates(make_mask())),
}
# Public, but no transform: they read or write a state.
HELPERS = {"assert_sparse", "freeze", "get_mask", "has_mask", "set_learning_rate", "set_mask"}
HELPERS |= {"zero_pruned", "keep_zeros", "averaged", "get_average", "check_position"}
EDITORS = ("gsm", "lc", "lc with mu")  # edit gradients and hold no mask
MOVING = ("prune_at", "one_shot", "gmp", "set_", "rigl", "ac_dc", "soft")
each = pytest.mark.parametrize("name", REGISTRY)


def quick(names, among=tuple(REGISTRY)):
    """All of ``among``, of which the fast suite runs ``names``."""
    assert set(names) <= set(among)
    return pytest.mark.parametrize(
        "name", [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in among]
    )


# In the fast suite one mask that stays, one that only loses weights, one that moves by everything
# there is (a key, gradients, skipped steps) and one editor of gradients are trained.
each_trained = quick(("fixed_mask", "gmp", "rigl", "lc with mu"))
# And where a check compiles a program of its own, two of these; `test_lc` has its own checks.
each_compiled = quick(("fixed_mask", "rigl"))


def test_the_registry_has_everything_public():
    public = {name for name, f in vars(transforms).items() if inspect.isfunction(f)}
    assert public - HELPERS == {name.partition(" ")[0] for name in REGISTRY}
    assert public >= HELPERS


# One problem


def batches(dtype=jnp.float32):
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.normal(size=(STEPS, 12, 8)), dtype)


def grads_at(params, x):
    def loss(p):
        h = jnp.tanh(x @ p["hidden"]["kernel"] + p["hidden"]["bias"][None])
        return jnp.mean(jnp.square(h @ p["out"]["kernel"] - jnp.roll(x, 1, axis=1)))

    return jax.grad(loss)(params)


compiled_grads_at = jax.jit(grads_at, compiler_options=EXACT)


def inner():
    # Not adam: its first step is as long for every weight, so that grown weights tie but for
    # round-off, and masks differ from device to device.
    rate = optax.constant_schedule(0.3)  # a schedule, for the count that it keeps
    return optax.chain(optax.add_decayed_weights(0.01), optax.sgd(rate, 0.9, nesterov=True))


@functools.cache
def made(name):
    """One instance, so that it is traced once; its mask is none of a trace that asks for it."""
    with jax.ensure_compile_time_eval():
        return REGISTRY[name](inner())


def mask_of(name, state):
    return None if name in EDITORS else transforms.get_mask(state)


def sparse_steps(name):
    """The steps after which pruned weights are zero: all, but of `soft` only those that reset."""
    return slice(1, None, 2) if name == "soft" else slice(None)


def one_step(name, params, state, batch):
    updates, state = made(name).update(grads_at(params, batch), state, params)
    return optax.apply_updates(params, updates), state


def run(name, params, state, data):
    """All steps under `lax.scan`; also the parameters and masks of each."""

    def step(carry, batch):
        params, state = one_step(name, *carry, batch)
        return (params, state), (params, mask_of(name, state))

    return jax.lax.scan(step, (params, state), data)


@functools.cache
def compiled_run(name):
    return jax.jit(functools.partial(run, name), compiler_options=EXACT)


@functools.cache
def scanned(name, seed=0):
    params = make_params(seed)
    return compiled_run(name)(params, made(name).init(params), batches())


@functools.cache
def looped(name):
    """The user's loop with a donated step: `(params, state)` after each step, and traces."""
    tx, traces = made(name), []

    def step(params, state, batch):
        traces.append(1)
        return one_step(name, params, state, batch)

    step = jax.jit(step, donate_argnums=(0, 1), compiler_options=EXACT)
    params = make_params()
    state, path = tx.init(params), []
    for batch in batches():
        params, state = step(params, state, batch)
        path.append(copied((params, state)))
    return step, path, traces


def copied(tree):
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def arrays(tree):
    """The leaves as NumPy arrays, keys by their data."""
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x) for x in leaves]


def assert_same(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(arrays(a), arrays(b), strict=True):
        if tolerance:
            np.testing.assert_allclose(x, y, **tolerance)
        else:
            assert_array_equal(x, y)


def signature(tree):
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


# The problem is one: masks move, and zeros are exact


@each_trained
def test_weights_outside_the_mask_are_zero_and_masks_move(name):
    _, loop, _ = looped(name)
    path = stacked([params for params, _ in loop])
    masks = stacked([mask_of(name, state) for _, state in loop])
    if name in EDITORS:
        assert all(np.all(x) for x in arrays(path))  # nothing is pruned by these
        return
    for weights, mask in (
        (path["hidden"]["kernel"], masks["hidden"]["kernel"]),
        (path["out"]["kernel"], masks["out"]["kernel"]),
    ):
        # The chain-last form only keeps what is zero already, see `zero_updates`.
        on = sparse_steps(name)
        assert name == "zero_updates" or not np.any(weights[on][~mask[on]])
        moves = np.any(mask[1:] != mask[:-1], axis=(1, 2))
        assert moves[0] == (name in MOVING)
        assert name not in MOVING or name == "one_shot" or moves[1:].any()


# Tracing


@each_compiled
def test_jit_changes_nothing(name):
    tx, params = made(name), make_params()
    assert_same(jax.jit(tx.init, compiler_options=EXACT)(params), tx.init(params))
    _, path, _ = looped(name)
    params, state = path[0]
    grads = compiled_grads_at(params, batches()[1])  # the mask moves for the first time
    updates, state = tx.update(grads, state, params)
    end = optax.apply_updates(params, updates), state
    assert_same(mask_of(name, end[1]), mask_of(name, path[1][1]))
    assert_same(end, path[1], rtol=1e-5, atol=1e-6)


@each_trained
def test_nothing_is_compiled_twice(name):
    _, path, traces = looped(name)
    assert len(path) == STEPS
    assert len(traces) == 1


@each_compiled
def test_a_scan_is_the_loop(name):
    _, loop, _ = looped(name)
    (params, state), (path, masks) = scanned(name)
    for i, (by_loop, loop_state) in enumerate(loop):
        assert_same(mask_of(name, loop_state), at(masks, i))
        assert_same(by_loop, at(path, i), rtol=1e-6, atol=1e-7)
    assert signature(state) == signature(loop[-1][1])
    assert signature(params) == signature(loop[-1][0])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, jnp.float32) for n in REGISTRY]
    + [
        (n, jnp.bfloat16)
        if n in ("fixed_mask", "rigl", "lc with mu")
        else pytest.param(n, jnp.bfloat16, marks=pytest.mark.slow)
        for n in REGISTRY
    ],
)
def test_structure_shapes_and_dtypes_stay_under_cond(name, dtype):
    tx = made(name)
    params = jax.eval_shape(lambda: make_params(dtype=dtype))
    state = jax.eval_shape(tx.init, params)

    def step(yes, params, state, batch):
        return jax.lax.cond(
            yes, lambda: one_step(name, params, state, batch), lambda: (params, state)
        )

    data = jax.ShapeDtypeStruct((12, 8), dtype)
    after = jax.eval_shape(step, jax.ShapeDtypeStruct((), bool), params, state, data)
    assert signature(after) == signature((params, state))
    # Updates are of the weights' dtype: nothing has to be rounded when they are added.
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    assert signature(updates) == signature(params)


@each_compiled
def test_bfloat16_weights(name):
    params, data = make_params(dtype=jnp.bfloat16), batches(jnp.bfloat16)
    state = made(name).init(params)
    (end, after), (path, masks) = compiled_run(name)(params, state, data)
    assert {x.dtype.name for x in jax.tree.leaves(end)} == {"bfloat16"}
    assert signature(after) == signature(state)
    assert all(np.isfinite(x.astype("f4")).all() for x in arrays(path))
    if name not in (*EDITORS, "zero_updates"):
        for layer in SHAPES:
            on = sparse_steps(name)
            pruned = ~np.asarray(masks[layer]["kernel"])[on]
            assert pruned.any()
            assert not np.any(np.asarray(path[layer]["kernel"])[on][pruned])


@each
def test_shapes_suffice_for_init(name):
    tx, params = made(name), make_params()
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    assert signature(jax.eval_shape(tx.init, structs)) == signature(tx.init(params))


# Arguments


def scaled_by_argument():
    def update(updates, state, params=None, *, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@each_trained
def test_extra_arguments_reach_the_optimizer(name):
    tx, params = REGISTRY[name](scaled_by_argument()), make_params()
    state = tx.init(params)

    def bias(factor):
        updates, _ = tx.update(params, state, params, factor=factor)
        return updates["hidden"]["bias"]

    bias = jax.jit(bias, compiler_options=EXACT)
    once, thrice = bias(jnp.float32(1)), bias(jnp.float32(3))
    assert np.any(once != 0)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


@each
def test_parameters_are_needed(name):
    tx, params = made(name), make_params()
    if name == "zero_updates":  # it needs none, the weight decay beside it does
        tx = transforms.zero_updates(make_mask())
        updates, _ = tx.update(params, tx.init(params))
        assert not np.any(updates["out"]["kernel"][~make_mask()["out"]["kernel"]])
        return
    with pytest.raises(ValueError, match=r"needs the parameters, got params=None. Call tx\.update"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("name", ["rigl", "set_", "static", "ac_dc", "soft"])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.flatten(optax.adam(0.1)), r"no copy of the parameters.*Leave out optax\.flatten"),
        (optax.lbfgs(), r"history of whole parameters, as lbfgs.*first-order"),
        (optax.lbfgs(0.1, linesearch=None), r"history of whole parameters, as lbfgs"),
    ],
    ids=["flatten", "lbfgs", "lbfgs without line search"],
)
def test_states_that_mix_weights_are_refused(name, optimizer, message):
    with pytest.raises(ValueError, match=message):
        REGISTRY[name](optimizer).init(make_params())


@quick(("rigl", "lc"), [*MOVING[3:], "static", *EDITORS])
def test_as_one_part_of_a_partition(name):
    labels = {"hidden": {"kernel": "pruned", "bias": "rest"}, "out": {"kernel": "rest"}}
    alone = optax.sgd(0.1, 0.9) if name not in EDITORS else optax.scale(1.0)
    tx = optax.partition({"pruned": REGISTRY[name](alone), "rest": optax.sgd(0.1)}, labels)
    params = make_params()
    state, step = tx.init(params), jax.jit(tx.update, compiler_options=EXACT)
    if name in EDITORS:  # of 128 gradients half are set to zero, of 128 weights half decay
        grads = params if name == "gsm" else jax.tree.map(jnp.zeros_like, params)
        updates, _ = step(grads, state, params)
        assert int(jnp.sum(updates["hidden"]["kernel"] == 0)) == 64
        return
    first = transforms.get_mask(state)
    for batch in batches()[: 4 if name == "soft" else 3]:  # up to a step with zeros, see above
        updates, state = step(compiled_grads_at(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    mask = transforms.get_mask(state)
    assert np.any(mask["hidden"]["kernel"] != first["hidden"]["kernel"]) == (name in MOVING)
    assert mask["out"]["kernel"] is None
    kernel = np.asarray(params["hidden"]["kernel"])
    assert not np.any(kernel[~np.asarray(mask["hidden"]["kernel"])])
    assert np.count_nonzero(mask["hidden"]["kernel"]) == 64
    assert np.all(params["out"]["kernel"] != 0)


# Devices


@each_compiled
def test_eight_devices_give_the_same_masks(name):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    specs = {
        "hidden": {"kernel": PartitionSpec(None, "d"), "bias": PartitionSpec("d")},
        "out": {"kernel": PartitionSpec("d", None)},
    }
    params = jax.tree.map(
        lambda p, s: jax.device_put(p, NamedSharding(mesh, s)), make_params(), specs
    )
    data = jax.device_put(batches(), NamedSharding(mesh, PartitionSpec()))
    state = made(name).init(params)
    (end, _), (path, masks) = compiled_run(name)(params, state, data)
    _, (alone, masks_alone) = scanned(name)
    assert_same(masks, masks_alone)
    assert_same(path, alone, rtol=1e-5, atol=1e-6)
    assert len(end["out"]["kernel"].sharding.device_set) == 8


@each_compiled
def test_vmap_over_stacked_models(name):
    models = [make_params(0), make_params(5)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *models)

    def train(params):
        return run(name, params, made(name).init(params), batches())[1]

    path, masks = jax.jit(jax.vmap(train), compiler_options=EXACT)(stacked)
    for i, seed in enumerate((0, 5)):
        _, (alone, masks_alone) = scanned(name, seed)
        assert_same(at(masks, i), masks_alone)
        assert_same(at(path, i), alone, rtol=1e-5, atol=1e-6)


# States


@each_compiled
def test_a_restored_run_continues_bit_for_bit(name, tmp_path):
    step, path, _ = looped(name)
    params, state = made(name).init(make_params()), None
    with ocp.StandardCheckpointer() as checkpointer:
        saved = path[2]
        checkpointer.save(tmp_path / "run", saved)
        checkpointer.wait_until_finished()
        params = make_params(seed=9)
        template = (params, made(name).init(params))
        params, state = checkpointer.restore(tmp_path / "run", template)
    assert_same((params, state), saved)
    assert signature((params, state)) == signature(saved)
    for batch in batches()[3:]:
        params, state = step(params, state, batch)
    assert_same((params, state), path[-1])


@each_trained
def test_a_donated_step_leaves_what_the_caller_holds(name):
    step, path, _ = looped(name)
    params = make_params()
    tx = made(name)
    state = tx.init(params)
    mask = mask_of(name, state)
    again = tx.init(params)
    first = step(copied(params), state, batches()[0])
    assert any(x.is_deleted() for x in jax.tree.leaves(state))  # the donation took place
    # What was not donated lives on: parameters, masks that were read, states of the same maker.
    arrays((params, mask, again))
    second = step(params, again, batches()[0])
    assert_same(first, second)
    assert_same(first, path[0])


@each
def test_map_params_maps_the_state(name):
    params = make_params()
    state = made(name).init(params)
    specs = jax.tree.map(lambda p: f"spec of {p.shape}", params)

    def is_masked_node(x):
        return isinstance(x, optax.MaskedNode)

    mapped = optax.tree.map_params(
        made(name),
        lambda x, spec: x if is_masked_node(x) else spec,
        state,
        specs,
        transform_non_params=lambda _: "replicated",
        is_leaf=is_masked_node,
    )
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    for leaf, spec in zip(jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True):
        assert spec == (f"spec of {leaf.shape}" if leaf.ndim else "replicated")
    if name not in EDITORS:
        nodes = [
            x
            for x in jax.tree.leaves(mapped, is_leaf=lambda x: isinstance(x, transforms.PruneMask))
            if isinstance(x, transforms.PruneMask)
        ]
        assert [node.tree["out"]["kernel"] for node in nodes] == ["spec of (16, 8)"]


@quick(("fixed_mask", "gmp", "rigl"), [n for n in REGISTRY if n not in (*EDITORS, "zero_updates")])
def test_a_frozen_state_moves_no_more_and_compiles_nothing(name):
    step, path, traces = looped(name)
    params, state = copied(path[2])
    state = transforms.freeze(state)
    before = mask_of(name, state)
    for batch in batches()[3:]:
        params, state = step(params, state, batch)
    assert_same(mask_of(name, state), before)
    pruned = ~np.asarray(before["out"]["kernel"])
    assert not np.any(np.asarray(params["out"]["kernel"])[pruned])
    assert len(traces) == 1


SPARSITIES = {"prune_at": 0.6, "one_shot": 0.5, "gmp": 0.6, "set_": 0.5, "rigl": 0.5}
SPARSITIES |= {"static": 0.5, "ac_dc": 0.5, "soft": 0.5}


@quick(("gmp", "rigl"), SPARSITIES)
def test_the_sparsity_asked_for_is_the_one_in_the_end(name):
    mask = mask_of(name, looped(name)[1][-1][1])
    assert jp.sparsity(mask) == round(SPARSITIES[name] * 256) / 256
