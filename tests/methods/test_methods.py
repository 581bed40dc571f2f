"""Recipes: what they are made of, and what they refuse at once."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp

KEY = jax.random.key(0)


def test_the_table_names_every_public_recipe():
    public = {
        name
        for name in vars(jp.methods)
        if not name.startswith("_") and name not in ("Method", "METHODS")
    }
    assert {name.rstrip("_") for name in public} == set(jp.methods.METHODS)
    for name, recipe in jp.methods.METHODS.items():
        assert recipe is getattr(jp.methods, name, None) or getattr(jp.methods, name + "_")


# Where a recipe has a default of its own, in place of what the part must be told.
OWN_DEFAULTS = {"interval", "every", "warmup_steps", "compressed_steps", "final_steps"}


@pytest.mark.parametrize("name", jp.methods.METHODS)
def test_options_are_those_of_the_part_that_a_recipe_is_made_of(name):
    recipe = jp.methods.METHODS[name]
    places = (jp.transforms, jp.parametrizations)
    other = {"random": "gmp", "sfp": "soft"}.get(name, recipe.__name__)
    part = next((getattr(p, other) for p in places if hasattr(p, other)), None)
    if part is None:
        assert name == "dense"
        return
    ours, theirs = (inspect.signature(f).parameters for f in (recipe, part))
    renamed = {"inner", "every"} | ({"scores"} if name in ("random", "gsm") else set())
    assert theirs.keys() - ours.keys() <= renamed
    for option in (ours.keys() & theirs.keys()) - OWN_DEFAULTS - {"key", "sparsity", "total_steps"}:
        assert ours[option].default == theirs[option].default, option


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jp.methods.gmp(1.5, total_steps=10), r"must lie in \[0, 1\)"),
        (lambda: jp.methods.gmp(0.5, total_steps=10, interval=6), "never prunes"),
        (lambda: jp.methods.gmp(0.5, total_steps=10, end_step=11), "after the end of training"),
        (lambda: jp.methods.dpf(0.5, total_steps=1), "never prunes"),
        (lambda: jp.methods.gsm(1.0), "sparsity"),
        (lambda: jp.methods.lc(0.5, weight_decay=-1.0), "weight_decay"),
        (lambda: jp.methods.dnw(-0.1), "sparsity"),
        (lambda: jp.methods.cs(total_steps=0), "total_steps"),
        (lambda: jp.methods.dst(penalty=-1.0), "penalty"),
        (lambda: jp.methods.static(1.0, key=KEY), "sparsity"),
        (lambda: jp.methods.rigl(0.5, key=KEY, total_steps=10, interval=11), "interval"),
        (lambda: jp.methods.set_(0.5, key=KEY, total_steps=10, interval=11), "interval"),
        (lambda: jp.methods.sfp(0.3, total_steps=10, interval=10), "nothing grow back"),
        (lambda: jp.methods.ac_dc(0.5, total_steps=10, final_steps=20), "step"),
    ],
)
def test_bad_input_is_refused_when_the_recipe_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_in_a_loop_of_ones_own():
    method = jp.methods.lc(0.5, weight_decay=0.5)
    params = {"kernel": jnp.array([[1.0, 0.1, -2.0, 0.2]]), "bias": jnp.zeros((4,))}
    tx = method.transform(optax.sgd(0.1))
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
    final, mask = method.finish(params, state)
    assert mask["kernel"].tolist() == [[True, False, True, False]]
    assert mask["bias"] is None
    assert final["kernel"].tolist() == [[1.0, 0.0, -2.0, 0.0]]


def test_dense_keeps_everything():
    params = {"kernel": jnp.ones((2, 2))}
    final, mask = jp.methods.dense().finish(params, optax.sgd(0.1).init(params))
    assert bool(jnp.all(mask["kernel"]))
    assert final["kernel"].tolist() == params["kernel"].tolist()


def test_finish_without_what_it_needs():
    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    with pytest.raises(ValueError, match=r"holds no mask of gmp.*method\.transform\(optimizer\)"):
        jp.methods.gmp(0.5, total_steps=4, interval=2).finish(params, optax.sgd(0.1).init(params))
    with pytest.raises(ValueError, match="dpf has a parametrization: pass the state"):
        jp.methods.dpf(0.5, total_steps=4, interval=2).finish(params, None)


def test_filters_that_do_not_add_up_to_the_sparsity_are_no_short_training():
    params = {"kernel": jnp.arange(1.0, 109.0).reshape(3, 3, 2, 6)}
    method = jp.methods.sfp(0.25, total_steps=4, interval=2)  # 1.5 of 6 filters: 2
    denser = jp.methods.sfp(0.4, total_steps=4, interval=2)  # 2.4 of 6 filters: 2
    for made in (method, denser):
        tx = made.transform(optax.sgd(0.0))
        state, end = tx.init(params), params
        for _ in range(4):
            updates, state = tx.update(params, state, end)
            end = optax.apply_updates(end, updates)
        assert int((end["kernel"] == 0).sum()) == 2 * 18
        final, mask = made.finish(end, state)
        assert final["kernel"].tolist() == end["kernel"].tolist()
        assert jp.metrics.counts(mask) == (4 * 18, 6 * 18)
    with pytest.warns(UserWarning, match=r"ends at sparsity 0, not 0.4: it was made for 4 steps"):
        denser.finish(params, denser.transform(optax.sgd(0.0)).init(params))
    with pytest.warns(UserWarning, match="ends at sparsity"):
        denser.finish(end, jp.transforms.freeze(state))


def test_training_that_was_too_short():
    params = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    method = jp.methods.gmp(0.5, total_steps=4, interval=2)
    state = method.transform(optax.sgd(0.1)).init(params)
    with pytest.warns(UserWarning, match=r"ends at sparsity 0, not 0.5: it was made for 4 steps"):
        method.finish(params, state)
