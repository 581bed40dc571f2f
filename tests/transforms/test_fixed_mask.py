"""`fixed_mask` and `zero_updates` as optax transformations: tracing, forwarding, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from transform_cases import CASES, EXACT, make_mask, make_params, masking, pruned_entries

from jaxprune.transforms import PruneMask, fixed_mask, get_mask, set_mask, zero_updates


def is_masked_node(x):
    return isinstance(x, optax.MaskedNode)


def momentum(mask=None):
    return fixed_mask(optax.sgd(0.1, momentum=0.9), make_mask() if mask is None else mask)


def assert_same(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    if tolerance:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)
    else:
        jax.tree.map(np.testing.assert_array_equal, a, b)


def signature(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


# Tracing


@pytest.mark.parametrize("name", ["nesterov", pytest.param("lars", marks=pytest.mark.slow)])
def test_jit_changes_nothing(name):
    tx, params, grads = CASES[name].masked(make_mask()), make_params(), make_params(3)
    state = tx.init(params)
    assert_same(jax.jit(tx.init)(params), state)
    # One rounding may differ: XLA fuses multiply and add.
    assert_same(
        jax.jit(tx.update)(grads, state, params),
        tx.update(grads, state, params),
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("name", CASES)
def test_shapes_suffice_and_the_state_keeps_its_structure(name):
    tx, params = CASES[name].masked(make_mask()), make_params()
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    state = jax.eval_shape(tx.init, abstract)
    updates, after = jax.eval_shape(tx.update, abstract, state, abstract)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert shapes == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]


def test_under_cond():
    tx, params = momentum(), make_params()
    state = tx.init(params)

    def step(yes):
        updates, new = jax.lax.cond(
            yes,
            lambda: tx.update(params, state, params),
            lambda: (jax.tree.map(jnp.zeros_like, params), state),
        )
        return updates, set_mask(new, make_mask())

    updates, taken = jax.jit(step)(True)
    assert not pruned_entries(optax.apply_updates(params, updates), make_mask()).any()
    assert jax.tree.structure(taken) == jax.tree.structure(state)
    assert_same(jax.jit(step)(False)[1], state)


def test_set_mask_does_not_recompile():
    tx, params = momentum(), make_params()
    state, compiled = tx.init(params), []

    @jax.jit
    def step(state):
        compiled.append(1)
        return tx.update(params, state, params)[1]

    state = step(step(state))
    step(set_mask(state, make_mask(seed=9)))
    assert len(compiled) == 1
    assert signature(state) == signature(tx.init(params))


def test_vmap_over_stacked_models_and_masks():
    tx = momentum()
    stack = lambda *trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees)  # noqa: E731
    models, masks = [make_params(i) for i in (0, 1)], [make_mask(i) for i in (5, 6)]

    def two_steps(params, mask):
        state = set_mask(tx.init(params), mask)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return params, get_mask(state)

    both = jax.jit(jax.vmap(two_steps), compiler_options=EXACT)
    alone = jax.jit(two_steps, compiler_options=EXACT)
    params, found = both(stack(*models), stack(*masks))
    assert_same(found, stack(*masks))
    for i, (model, mask) in enumerate(zip(models, masks, strict=True)):
        here = jax.tree.map(lambda x, i=i: x[i], params)
        assert not pruned_entries(here, mask).any()
        assert_same(here, alone(model, mask)[0], rtol=1e-6)


@pytest.mark.parametrize("make", [lambda m: momentum(m), zero_updates])
def test_a_donated_step_leaves_the_callers_masks_alone(make):
    params, mask, other = make_params(), make_mask(), make_mask(seed=4)
    tx = make(mask)
    step = jax.jit(lambda s: tx.update(params, s, params)[1], donate_argnums=0)
    state = set_mask(tx.init(params), other)
    read = get_mask(state)
    step(tx.init(params))
    step(state)
    assert any(x.is_deleted() for x in jax.tree.leaves(state))  # the donation took place
    for leaf in jax.tree.leaves((mask, other, read)):
        np.asarray(leaf)


# Forwarding


def _scaled_by_argument():
    def update(updates, state, params=None, *, factor, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@pytest.mark.parametrize(
    "inner",
    [
        _scaled_by_argument(),
        optax.chain(optax.identity(), _scaled_by_argument()),
        optax.MultiSteps(_scaled_by_argument(), 1),
    ],
    ids=["bare", "chain", "multisteps"],
)
def test_extra_arguments_reach_the_optimizer(inner):
    params, mask = make_params(), make_mask()
    with jax.numpy_dtype_promotion("standard"):  # MultiSteps multiplies floats by a bool
        tx = fixed_mask(inner, mask)
        updates, _ = tx.update(params, tx.init(params), params, factor=jnp.float32(3.0))
    np.testing.assert_allclose(updates["dense"]["bias"], 3 * params["dense"]["bias"], rtol=1e-6)


def test_optimizers_without_extra_arguments_never_see_them():
    tx, params = momentum(), make_params()
    tx.update(params, tx.init(params), params, value=1.0)
    zero = zero_updates(make_mask())
    zero.update(params, zero.init(params), value=1.0)


def test_line_search_gets_its_arguments():
    params, mask = {"w": jnp.array([[3.0, -2.0]])}, {"w": jnp.array([[True, False]])}
    inner = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
    loss = lambda p: jnp.sum(jnp.square(p["w"] - 1.0))  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):  # the line search is optax's
        tx = fixed_mask(inner, mask)
        grad = jax.grad(loss)(params)
        updates, _ = jax.jit(functools.partial(tx.update, value_fn=loss), compiler_options=EXACT)(
            grad, tx.init(params), params, value=loss(params), grad=grad
        )
    assert optax.apply_updates(params, updates)["w"][0, 1] == 0
    assert updates["w"][0, 0] < 0


# Trees


def test_specs_for_a_sharded_state():
    params, mask = make_params(), make_mask()
    for tx in (momentum(mask), optax.chain(optax.sgd(0.1), zero_updates(mask))):
        state = tx.init(params)
        specs = jax.tree.map(lambda p: f"spec of {p.shape}", params)
        mapped = optax.tree.map_params(
            tx,
            lambda x, spec: x if is_masked_node(x) else spec,
            state,
            specs,
            transform_non_params=lambda _: "replicated",
            is_leaf=is_masked_node,
        )
        assert jax.tree.structure(mapped) == jax.tree.structure(state)
        [node] = [
            x
            for x in jax.tree.leaves(mapped, is_leaf=lambda x: isinstance(x, PruneMask))
            if isinstance(x, PruneMask)
        ]
        assert node.tree["conv"] == {"bias": optax.MaskedNode(), "kernel": "spec of (3, 3, 2, 4)"}


def test_one_array_as_parameters():
    params = jnp.array([[1.0, 2.0]])
    tx = fixed_mask(optax.sgd(0.1, 0.9), jnp.array([[True, False]]))
    updates, state = tx.update(jnp.ones_like(params), tx.init(params), params)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)[0, 1], 0)
    np.testing.assert_array_equal(jax.tree.leaves(state.inner_state)[0], [[1.0, 0.0]])


def test_a_mask_in_other_containers_with_the_same_paths():
    params = {"layers": [{"kernel": jnp.ones((2, 2))}]}
    mask = {"layers": ({"kernel": np.eye(2, dtype=bool)},)}
    state = momentum(mask).init(params)
    assert jax.tree.structure(get_mask(state)) == jax.tree.structure(params)


def test_zero_updates_zeroes_updates_and_nothing_else():
    params, mask = make_params(), make_mask()
    tx = optax.chain(optax.sgd(0.1, 0.9), zero_updates(mask))
    updates, state = tx.update(params, tx.init(params), params)
    plain, _ = optax.sgd(0.1, 0.9).update(params, optax.sgd(0.1, 0.9).init(params))
    keep = jax.tree.map(lambda m, p: m, mask, mask)
    for layer in ("conv", "dense"):
        expected = plain[layer]["kernel"] * keep[layer]["kernel"].astype("f4")
        np.testing.assert_array_equal(updates[layer]["kernel"], expected)
        np.testing.assert_array_equal(updates[layer]["bias"], plain[layer]["bias"])
    np.testing.assert_array_equal(state[0][0].trace["conv"]["kernel"], params["conv"]["kernel"])


# Refusals


@pytest.mark.parametrize("make", [momentum, zero_updates])
def test_masks_that_do_not_fit(make):
    params = make_params()
    other = make_mask()
    other["dense"]["kernel"] = jnp.ones((4, 2), bool)
    with pytest.raises(ValueError, match=r"shape \(4, 2\) at 'dense/kernel'.*from these very"):
        make(other).init(params)
    with pytest.raises(ValueError, match=r"another tree.*'Dense_0/kernel'"):
        make({"Dense_0": {"kernel": jnp.ones((4, 3), bool)}}).init(params)
    with pytest.raises(ValueError, match="'conv/bias'"):
        make({"conv": jnp.ones((4, 3), bool), "dense": None}).init(params)
    with pytest.raises(ValueError, match=r"the mask has no leaf: \{'a': None\}"):
        make({"a": None})


@pytest.mark.parametrize("make", [momentum, zero_updates])
@pytest.mark.parametrize("leaf", [np.ones((4, 3), "f4"), np.ones((4, 3), int), True])
def test_masks_that_are_not_bool_arrays(make, leaf):
    mask = make_mask()
    mask["dense"]["kernel"] = leaf
    with pytest.raises(TypeError, match=r"'dense/kernel' (has dtype (float|int)|is a bool).*!= 0"):
        make(mask)


def test_missing_parameters():
    tx, params = momentum(), make_params()
    with pytest.raises(ValueError, match=r"params=None.*tx\.update\(grads, opt_state, params\)"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("inner", [optax.adam, lambda p: p, 0.1])
def test_what_is_no_optimizer(inner):
    with pytest.raises(TypeError, match=r"but got '(adam|<lambda>|float)'.*optax\.adam\(learning"):
        fixed_mask(inner, make_mask())


@pytest.mark.parametrize(
    "inner",
    [
        optax.flatten(optax.adam(0.1)),
        optax.chain(optax.clip(1.0), optax.flatten(optax.sgd(0.1, 0.9))),
    ],
)
def test_flatten_is_refused(inner):
    with pytest.raises(ValueError, match=r"of shape \(91,\) is no copy.*Leave out optax\.flatten"):
        masking(inner, make_mask()).init(make_params())


@pytest.mark.parametrize("search", ["default", None])
def test_lbfgs_is_refused(search):
    inner = optax.lbfgs() if search else optax.lbfgs(0.1, linesearch=None)
    with pytest.raises(ValueError, match=r"history of whole parameters, as lbfgs.*first-order"):
        masking(inner, make_mask()).init(make_params())


def test_an_array_for_several_parameters_is_refused():
    def by_path(params):  # optax sees a copy of the parameters, but "conv" is one array
        return params if not jax.tree.leaves(params) else {"conv": jnp.zeros(5), "dense": params}

    def beside(params):  # nothing here is made of the placeholder
        return {"m": jnp.zeros(len(params))}

    for init, message in (
        (by_path, "does not line up"),
        (beside, r"'m' of shape \(2,\) is no copy"),
    ):
        inner = optax.GradientTransformation(init, optax.identity().update)
        with pytest.raises(ValueError, match=message):
            fixed_mask(inner, make_mask()).init(make_params())


CONTRIB = {
    "adopt": optax.contrib.adopt(0.1),
    "ademamix": optax.contrib.ademamix(0.1),
    "prodigy": optax.contrib.prodigy(),
    "dog": optax.contrib.dog(0.1),
    "cocob": optax.contrib.cocob(),
    "dadapt": optax.contrib.dadapt_adamw(0.1),
    "momo": optax.contrib.momo(0.1),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
    "novograd": optax.novograd(0.1),
    "zero_nans": optax.chain(optax.zero_nans(), optax.sgd(0.1)),
    "adadelta": optax.adadelta(0.1),
    "polyak": optax.polyak_sgd(),
    "plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "freeze": optax.masked(optax.adam(0.1), {"conv": True, "dense": False}),
    "narrow": optax.sgd(0.1, 0.9, accumulator_dtype=jnp.bfloat16),
}


@pytest.mark.parametrize("name", CONTRIB)
def test_no_other_optimizer_is_refused(name):
    tx, params = masking(CONTRIB[name], make_mask()), make_params()
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(
            lambda p: tx.update(p, tx.init(p), p, value=jnp.float32(1.0))[0], compiler_options=EXACT
        )
        updates = step(params)
        end = optax.apply_updates(params, updates)
    assert not pruned_entries(end, make_mask()).any()
