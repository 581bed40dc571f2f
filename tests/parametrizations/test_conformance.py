"""What holds for every parametrization, whatever its rule."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import parametrizations
from tests.parametrizations import cases

every_method = pytest.mark.parametrize("name", cases.CASES)
# One of a kind, where the rule makes no difference.
ONE_OF_A_KIND = ("dnw", "dpf", "gmp_recover", "sr_ste", "str_", "cs", "dst")
one_of_a_kind = pytest.mark.parametrize("name", ONE_OF_A_KIND)
# Where a check compiles programs of its own: in the fast suite one method with a mask in its state,
# and one that trains more than the weights.
MAIN = ("dpf", "dst")
each_compiled = pytest.mark.parametrize(
    "name", [n if n in MAIN else pytest.param(n, marks=pytest.mark.slow) for n in ONE_OF_A_KIND]
)
# Public, but not checked one by one: `masked` is no parametrization, `identity` has no rule.
OTHERS = {"masked", "identity", "dst_resets"}


def test_the_list_has_everything_public():
    public = {name for name, f in vars(parametrizations).items() if inspect.isfunction(f)}
    assert public - OTHERS == set(ONE_OF_A_KIND)
    assert public >= OTHERS
    assert public - {"masked", "dst_resets"} <= set(cases.CASES)


def at_step(name, carry, step):
    return carry._replace(state=carry.state._replace(step=jnp.asarray(step, jnp.int32)))


def batch(i=0):
    return jax.tree.map(lambda x: x[i], cases.data(cases.STEPS))


@pytest.mark.parametrize(
    "name", [n if n == "dpf" else pytest.param(n, marks=pytest.mark.slow) for n in ONE_OF_A_KIND]
)
def test_jit_equals_no_jit(name):
    p = cases.method(name)
    weights = cases.params(3)

    def loss(trainable, state):
        params, state = p.apply(trainable, state)
        parts = jax.tree.map(lambda a, b: jnp.sum(a * b), params, weights)
        return sum(jax.tree.leaves(parts)) + p.penalty(trainable, state), (params, state)

    def run(trainable, state):
        return jax.value_and_grad(loss, has_aux=True)(trainable, state), p.finalize(
            trainable, state
        )

    trainable, state, _ = at_step(name, cases.start(name, cases.params()), 16)
    cases.near(run(trainable, state), cases.quick(run)(trainable, state))


@one_of_a_kind
def test_forty_steps_compile_once(name):
    programs = cases.compiled_step(name)._cache_size()  # of neighbours, with other dtypes
    carry, _ = cases.train(name, cases.params())
    assert cases.compiled_step(name)._cache_size() <= programs + 1
    assert int(carry.state.step) == cases.STEPS


@each_compiled
def test_a_scan_with_skipped_steps_is_the_loop(name):
    scan, start = cases.compiled_scan(name), cases.start(name, cases.params())
    for steps in (23, cases.STEPS):
        carry, _ = cases.train(name, cases.params(), steps)
        scanned = scan(start, cases.data(cases.STEPS), jnp.int32(steps))
        cases.near(scanned, carry, rtol=1e-3, atol=1e-4)


@each_compiled
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_and_structure_are_kept(name, dtype):
    values = cases.params(dtype=dtype)
    carry = at_step(name, cases.start(name, values), 10)
    assert jax.tree.map(lambda x: x.dtype, cases.dense(carry.trainable)) == jax.tree.map(
        lambda x: x.dtype, values
    )
    after, (_, penalty, weights) = jax.eval_shape(lambda c: cases.step(name, c, batch()), carry)
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype(dtype)}
    assert penalty.dtype == jnp.float32
    assert penalty.shape == ()
    # Same dtypes, shapes, and no weak type: what scan and an uncompiled cache need.
    assert jax.tree.map(jax.typeof, carry) == jax.tree.map(
        lambda s: jax.core.ShapedArray(s.shape, s.dtype, s.weak_type), after
    )
    final, mask = cases.finalize(name)(carry.trainable, carry.state)
    assert {x.dtype for x in jax.tree.leaves(final)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(mask)} == {jnp.dtype(bool)}
    for k, m in cases.flat(mask).items():
        pruned = cases.flat(final)[k][~m].astype(np.float32)
        np.testing.assert_array_equal(pruned.view(np.uint32), 0)  # +0.0


@every_method
def test_works_from_shapes(name):
    p, values = cases.method(name), cases.params()
    abstract = jax.eval_shape(p.init, jax.eval_shape(lambda v: v, values))
    concrete = p.init(values)
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), concrete)
    assert jax.tree.structure(abstract) == jax.tree.structure(described)
    assert jax.tree.leaves(abstract) == jax.tree.leaves(described)
    params, state = jax.eval_shape(p.apply, *abstract)
    assert jax.tree.leaves(state) == jax.tree.leaves(described[1])
    assert jax.tree.structure(params) == jax.tree.structure(values)
    assert jax.eval_shape(p.penalty, *abstract).shape == ()
    final, mask = jax.eval_shape(p.finalize, *abstract)
    assert jax.tree.structure(final) == jax.tree.structure(values)
    assert cases.flat(jax.tree.map(lambda m: np.ones(m.shape, bool), mask)).keys() == {"w1", "w2"}


@one_of_a_kind
def test_init_copies_so_that_a_step_may_donate(name):
    values = cases.params()
    values["steps"] = jnp.arange(3)  # passed through: neither prunable nor floating
    weak = jnp.asarray(2.0)
    assert weak.weak_type
    values["scale"] = weak
    trainable, state = cases.method(name).init(values)
    assert not any(x.weak_type for x in jax.tree.leaves((trainable, state)))
    params, _ = cases.method(name).apply(trainable, state)
    cases.same(params["steps"], values["steps"])

    consume = jax.jit(lambda t: jax.tree.map(lambda x: ~x, t), donate_argnums=0)
    integers = jax.tree.map(
        lambda x: jax.lax.bitcast_convert_type(x, jnp.int32) if x.dtype == jnp.float32 else x,
        (trainable, state),
    )
    consume(integers)
    for donated in jax.tree.leaves((trainable, state)):
        donated.delete()
    for x in jax.tree.leaves(values):
        assert np.isfinite(np.asarray(x)).all()  # a deleted array raises


@each_compiled
def test_vmap_over_two_models_equals_each_alone(name):
    models = [cases.params(seed) for seed in (0, 5)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
    p = cases.method(name)

    def run(values):
        trainable, state = p.init(values)
        state = state._replace(step=jnp.full_like(state.step, 16))  # `dpf` makes a mask here
        return (trainable, *p.apply(trainable, state), p.penalty(trainable, state))

    together = cases.quick(jax.vmap(run))(stacked)
    alone = cases.quick(run)
    for i, values in enumerate(models):
        cases.near(jax.tree.map(lambda x, i=i: x[i], together), alone(values))


@each_compiled
def test_sharded_parameters_give_the_same_masks(name):
    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = PartitionSpec("d"), PartitionSpec()
    spec = {
        "first": {"kernel": rows, "bias": everywhere},
        "last": {"kernel": everywhere, "bias": everywhere},
    }
    values = cases.params()
    sharded = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(mesh, s)), values, spec)
    p = cases.method(name)

    trainable, state = p.init(sharded)
    # What is made for a weight lies where the weight lies.
    for leaf in jax.tree.leaves((trainable, state)):
        if leaf.shape == (8, 6):
            assert leaf.sharding.spec[0] == "d"

    run = cases.quick(p.apply)
    for step in (9, 16):
        results = []
        for source in (sharded, values):
            trainable, state = p.init(source)
            results.append(run(trainable, state._replace(step=jnp.asarray(step, jnp.int32))))
        cases.near(*results)


@each_compiled
def test_restored_in_the_middle_it_continues_bit_for_bit(name, tmp_path):
    step = cases.compiled_step(name)
    carry = at_step(name, cases.start(name, cases.params()), 8)
    for i in range(3):  # over 10, so that a mask is in the state
        carry, _ = step(carry, batch(i))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", carry)
        checkpointer.wait_until_finished()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, cases.start(name, cases.params()))
        restored = checkpointer.restore(tmp_path / "checkpoint", like)
    cases.same(restored, carry)
    for i in range(3, 10):  # over 16
        carry, seen = step(carry, batch(i))
        restored, seen_restored = step(restored, batch(i))
        cases.same(seen_restored, seen)
    cases.same(restored, carry)
    cases.same(cases.finalize(name)(*restored[:2]), cases.finalize(name)(*carry[:2]))


@one_of_a_kind
def test_evaluating_changes_nothing(name):
    p = cases.method(name)
    carry = at_step(name, cases.start(name, cases.params()), 15)
    carry, _ = cases.compiled_step(name)(carry, batch())
    seen, _ = cases.quick(p.apply)(carry.trainable, carry.state)  # its state dropped
    _, (_, _, trained_with) = cases.compiled_step(name)(carry, batch(1))
    cases.near(seen, trained_with)
    params, mask = cases.finalize(name)(carry.trainable, carry.state)
    if name not in ("dpf", "gmp_recover"):  # those end at their last target
        cases.near(jp.apply_mask(seen, mask), params)


@one_of_a_kind
def test_only_selected_leaves_are_pruned(name):
    def where(path, leaf):
        return path == "last/kernel"

    factories = {
        "dnw": lambda f: f(0.5, where=where),
        "dpf": lambda f: f(0.5, total_steps=4, interval=2, where=where),
        "gmp_recover": lambda f: f(0.5, total_steps=4, interval=2, where=where),
        "sr_ste": lambda f: f(cases.NM, where=where),
        "str_": lambda f: f(initial=-1.0, where=where),
        "cs": lambda f: f(total_steps=4, initial=0.5, where=where),
        "dst": lambda f: f(where=where),
    }
    p = factories[name](getattr(jp.parametrizations, name))
    values = cases.params()
    trainable, state = p.init(values)
    params, mask = p.finalize(trainable, state)
    assert set(cases.flat(mask)) == {"w2"}
    for tree in (params, p.apply(trainable, state)[0]):
        cases.same(tree["first"], values["first"])
        cases.same(tree["last"]["bias"], values["last"]["bias"])
