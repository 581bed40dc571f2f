"""The same run on one device and on several: where arrays lie, and three rules.

Of the same parameters the masks are identical. Losses, parameters and moments of twenty steps agree
to rounding. A whole run keeps the same counts and learns as well.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxprune as jp
from tests.training import meshed, problem

P = PartitionSpec


def devices(*default):
    """All of `meshed.DEVICES`, of which these are tried every time."""
    return [
        name if name in default else pytest.param(name, marks=pytest.mark.slow)
        for name in meshed.DEVICES
    ]


def host(tree):
    return jax.tree.map(np.asarray, jax.device_get(tree))


def trained(name, mask):
    return meshed.loop(name)(meshed.state(mask), [0.05] * 20)


@pytest.fixture(scope="module")
def reference():
    mask = jp.prune(meshed.state().params, 0.5)[1]
    return mask, *trained("1", mask)


@pytest.mark.parametrize("name", devices("8 sharded", "2x2", "8 by pmap")[1:])
def test_twenty_steps_agree_and_masks_are_identical(name, reference):
    mask, alone, metrics = reference
    step = meshed.step(name)
    spread, other_metrics = trained(name, mask)
    for part in ("params", "model_state", "opt_state"):
        for a, b in zip(
            jax.tree.leaves(host(getattr(alone, part))),
            jax.tree.leaves(host(getattr(spread, part))),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert metrics.keys() == other_metrics.keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-5, atol=1e-5)
    assert int(spread.step) == 20
    # The same parameters give the identical mask wherever they lie.
    again = step.place(alone) if step.traceable else alone
    ours = jp.prune(again.params, 0.7, within=again.mask)[1]
    theirs = jp.prune(host(alone.params), 0.7, within=host(mask))[1]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", devices("8 sharded", "8 by pmap"))
def test_a_whole_run_agrees_in_counts_and_accuracy(name):
    result = jp.training.imp(
        meshed.state(),
        meshed.loop(name),
        evaluate=meshed.evaluate(),
        recalibrate=jp.training.make_recalibrate(meshed.make_loss_fn(), meshed.batch_at, steps=3),
        pretraining=optax.cosine_decay_schedule(0.2, 60),
        pretraining_steps=60,
        sparsity=0.75,
        cycles=2,
        retraining_steps=15,
    )
    n = 3 * 3 * 2 * 16 + 16 * 64 + 64 * 4
    assert [r.nonzero for r in result.records] == [n, n - round(0.5 * n), n - round(0.75 * n)]
    assert result.records[-1].evaluation["accuracy"] > 0.9
    assert len(result.records[0].metrics["loss"]) == 60


def test_moments_and_masks_lie_as_their_parameters_do():
    step = meshed.step("8 sharded")
    state = step.place(meshed.state())
    kernel = state.params["Dense_1"]["kernel"]
    assert kernel.sharding.spec == P(None, "data")
    assert state.mask["Dense_1"]["kernel"].sharding == kernel.sharding
    trace = optax.tree.get(state.opt_state, "trace")
    assert trace["Dense_1"]["kernel"].sharding == kernel.sharding
    assert state.params["Dense_1"]["bias"].sharding.spec == P("data")  # 64 entries, min_size=64
    assert state.params["Dense_0"]["bias"].sharding.spec == P()
    # And so they come back.
    after, _ = step(state, meshed.batch_at(0), 0.1)
    where = after.params["Dense_1"]["kernel"].sharding
    assert where.is_equivalent_to(NamedSharding(meshed.mesh(8), P(None, "data")), 2)
    assert len(after.params["Dense_1"]["kernel"].addressable_shards[0].data[0]) == 64 // 8


def test_rules_of_your_own_come_first():
    mesh = meshed.mesh(2, 2)
    rule = jp.training.fully_sharded(
        mesh, min_size=1, rules={".*/kernel": P("model"), "Dense_1/.*": P("data")}
    )
    leaf = np.zeros((8, 12))
    assert rule("Dense_1/kernel", leaf) == P("model")
    assert rule("Dense_1/bias", leaf) == P("data")
    assert rule("other", leaf) == P(None, ("data", "model"))
    assert rule("other", np.zeros((3, 5))) == P()
    assert jp.training.replicated()("other", leaf) == P()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (P("data", None, None), "has more axes than the parameter 'BatchNorm_0/bias'"),
        (P("rows"), r"names the axis 'rows', but the mesh has \('data', 'model'\)"),
    ],
)
def test_a_spec_that_does_not_fit_is_named(spec, message):
    mesh = meshed.mesh(2, 2)
    step = jp.training.make_train_step(
        meshed.make_loss_fn(), meshed.sgd, mesh=mesh, sharding=lambda path, leaf: spec
    )
    with pytest.raises(ValueError, match=message):
        step.place(meshed.state())


def test_a_spec_that_does_not_divide_is_named():
    step = jp.training.make_train_step(
        meshed.make_loss_fn(),
        meshed.sgd,
        mesh=meshed.mesh(8),
        sharding=lambda path, leaf: P(*[None] * (leaf.ndim - 1), "data"),
    )
    message = r"axis 0 of the parameter 'Dense_0/bias', of shape \(4,\), into 8 parts"
    with pytest.raises(ValueError, match=message):
        step.place(meshed.state())


def test_devices_that_do_not_divide_the_batch_are_named():
    three = Mesh(np.array(jax.devices()[:3]), ("data",))
    message = "the batch has 32 examples.*3 devices do not divide.*multiple of 3"
    for step in (
        jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=three),
        jp.training.make_pmap_train_step(
            meshed.make_loss_fn("batch"), meshed.sgd, devices=jax.devices()[:3]
        ),
    ):
        with pytest.raises(ValueError, match=message):
            step(meshed.state(), meshed.batch_at(0), 0.1)
        with pytest.raises(ValueError, match=message):
            jp.training.make_loop(step, meshed.batch_at)(meshed.state(), [0.1])


def test_a_sharding_needs_a_mesh():
    with pytest.raises(ValueError, match="pass mesh= as well"):
        jp.training.make_train_step(
            meshed.make_loss_fn(), meshed.sgd, sharding=jp.training.replicated()
        )


def test_meshes_of_explicit_axes_work_too():
    step = jp.training.make_train_step(
        meshed.make_loss_fn(), meshed.sgd, mesh=jax.make_mesh((4, 2), ("a", "b"))
    )
    state, metrics = step(meshed.state(), meshed.batch_at(0), 0.1)
    assert np.isfinite(metrics["loss"])
    assert len(state.params["Dense_0"]["kernel"].sharding.device_set) == 8


def test_pmap_states_are_replicated_and_gathered():
    step = meshed.step("8 by pmap")
    state = step.place(meshed.state())
    assert state.step.shape == (8,)
    assert step.place(state) is state
    state, metrics = step(state, meshed.batch_at(0), 0.1)
    assert np.shape(metrics["loss"]) == ()
    kernel = np.asarray(state.params["Dense_1"]["kernel"])
    assert kernel.shape == (8, 16, 64)
    np.testing.assert_array_equal(kernel, np.broadcast_to(kernel[:1], kernel.shape))
    alone = step.gather(state)
    np.testing.assert_array_equal(alone.params["Dense_1"]["kernel"], kernel[0])
    assert step.gather(alone) is alone
    key = jax.random.key_data(alone.key)
    np.testing.assert_array_equal(key, jax.random.key_data(jax.random.key(1)))


def test_pmap_draws_another_key_on_every_device():
    def loss_fn(params, model_state, batch, key):
        loss, (model_state, _) = problem.loss_fn(params, model_state, batch, key)
        drawn = jax.lax.all_gather(jax.random.uniform(key), "batch")
        return loss, (model_state, {"apart": jnp.min(jnp.abs(jnp.diff(jnp.sort(drawn))))})

    step = jp.training.make_pmap_train_step(loss_fn, problem.sgd)
    _, metrics = step(problem.state(), problem.batch_at(0), 0.1)
    assert metrics["apart"] > 0


def test_counts_are_no_means():
    def loss_fn(params, model_state, batch, key):
        loss, (model_state, _) = meshed.make_loss_fn("batch")(params, model_state, batch, key)
        return loss, (model_state, {"right": jnp.sum(batch["y"] == 0)})

    step = jp.training.make_pmap_train_step(loss_fn, meshed.sgd)
    with pytest.raises(TypeError, match=r"the metric 'right' is int32.*return the mean as a float"):
        step(meshed.state(), meshed.batch_at(0), 0.1)


def test_pmap_loops_take_replicated_states_and_bake_no_data():
    step = meshed.step("8 by pmap")
    train = meshed.loop("8 by pmap")
    state, metrics = train(step.place(meshed.state()), [0.1] * 6)
    assert int(state.step) == 6
    _, expected = train(meshed.state(), [0.1] * 6)
    np.testing.assert_array_equal(metrics["loss"], expected["loss"])


def test_evaluation_on_a_mesh_counts_every_example_once():
    evaluate = problem.evaluate
    state = problem.state()
    alone = evaluate(state)
    spread = evaluate(problem.step(mesh=problem.mesh()).place(state))
    assert alone == spread
    moved = jax.device_put(state, jax.devices()[3])
    assert evaluate(moved) == alone
    whole = NamedSharding(meshed.mesh(2, 2), P())
    batches = [
        {**{k: v[i : i + 28] for k, v in problem.DATA.items()}, "weight": np.ones(28, np.float32)}
        for i in range(0, 196, 28)
    ]
    streamed = jp.training.make_stream_evaluate(
        problem.eval_fn, lambda: iter(batches), mesh=meshed.mesh(2, 2)
    )
    first = {k: v[:196] for k, v in problem.DATA.items()}
    expected = jp.training.make_evaluate(problem.eval_fn, first, batch_size=196)(state)
    assert streamed(jax.device_put(state, whole)) == expected


def test_devices_are_no_mesh():
    with pytest.raises(TypeError, match=r"mesh is a jax\.sharding\.Mesh, e\.g\. .*; got \["):
        jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=jax.devices())
