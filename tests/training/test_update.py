"""Mixed precision, accumulated gradients and recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.training.steps._update import recomputed
from tests.training import meshed, problem


def one_step(**options):
    return problem.step(**options)(problem.state(), problem.batch_at(0), 0.1)


def difference(a, b):
    pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


def test_bfloat16_computes_in_it_and_keeps_float32_weights():
    full, metrics = one_step()
    half, half_metrics = one_step(compute_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.float32)}
    assert half_metrics["loss"].dtype == jnp.float32
    assert 0 < difference(full, half) < 0.02
    assert float(half_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=0.02)

    def seen(params, model_state, batch, key):
        dtypes = {x.dtype for x in (*jax.tree.leaves(params), batch["x"])}
        assert dtypes == {jnp.dtype(jnp.bfloat16)}
        assert batch["y"].dtype == jnp.int32
        assert model_state["mean"].dtype == jnp.float32
        after = {"mean": model_state["mean"].astype(jnp.bfloat16)}
        loss, (_, metrics) = problem.loss_fn(params, None, batch, key)
        return loss, (after, metrics)

    step = jp.training.make_train_step(seen, problem.sgd, compute_dtype=jnp.bfloat16)
    state, _ = step(problem.state(model_state={"mean": jnp.zeros(3)}), problem.batch_at(0), 0.1)
    assert state.model_state["mean"].dtype == jnp.float32


def test_master_weights_take_steps_that_bfloat16_would_lose():
    def loss_fn(params, model_state, batch, key):
        del batch, key
        return jnp.sum(params["w"]), (model_state, {})

    sgd = lambda lr: optax.sgd(lr)  # noqa: E731
    params = {"w": jnp.ones((2, 2))}
    state = jp.training.TrainState.create(params, sgd, key=jax.random.key(0))
    step = jp.training.make_train_step(loss_fn, sgd, compute_dtype=jnp.bfloat16)
    for _ in range(16):
        state, _ = step(state, None, 2.0**-12)  # a 16th of what bfloat16 can tell from 1
    np.testing.assert_array_equal(state.params["w"], 1 - 2.0**-8)


@pytest.mark.parametrize("method", ["dpf", "cs"])
def test_a_parametrization_counts_steps_and_not_the_parts_of_one(method):
    made = {"dpf": lambda: jp.methods.dpf(0.75, total_steps=8, interval=2)}
    made["cs"] = lambda: jp.methods.cs(total_steps=8)
    prepared = jp.training.prepare(
        made[method](), problem.params(), problem.loss_fn, problem.sgd, key=jax.random.key(1)
    )
    ends = []
    for parts in (1, 4):
        step = jp.training.make_train_step(
            prepared.loss_fn, prepared.make_optimizer, accumulate=parts
        )
        state = jax.tree.map(jnp.copy, prepared.state)
        for i in range(3):
            state, _ = step(state, problem.batch_at(i), 0.1)
        ends.append((prepared.deployed(state).params, state.model_state.parametrization))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *ends)


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
    whole, metrics = one_step()
    split, split_metrics = one_step(accumulate=parts)
    assert difference(whole, split) < 1e-6
    for name, value in metrics.items():
        assert float(split_metrics[name]) == pytest.approx(float(value), rel=1e-5)
    both, _ = one_step(accumulate=parts, compute_dtype=jnp.bfloat16, remat=True)
    assert difference(whole, both) < 0.02


@pytest.mark.slow
def test_accumulation_on_devices_moves_no_example():
    options = {"accumulate": 2}
    alone = jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, **options)
    mesh = meshed.mesh(8)
    spread = jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=mesh, **options)
    batch, rate = meshed.batch_at(0), jnp.float32(0.1)
    a, _ = alone(meshed.state(), batch, rate)
    placed = spread.place(meshed.state()), spread.place_batch(batch), rate
    program = spread.compiled.lower(*placed).compile()
    b, _ = program(*placed)
    assert difference(a, b) < 1e-6
    text = program.as_text()
    assert "all-reduce" in text
    assert "all-to-all" not in text
    assert "collective-permute" not in text


def test_model_state_goes_from_part_to_part_and_keys_differ():
    def loss_fn(params, model_state, batch, key):
        loss, (_, metrics) = problem.loss_fn(params, None, batch, key)
        drawn = model_state["drawn"].at[model_state["part"]].set(jax.random.uniform(key))
        after = {"part": model_state["part"] + 1, "drawn": drawn}
        return loss, (after, metrics)

    start = {"part": jnp.int32(0), "drawn": jnp.zeros(4)}
    step = jp.training.make_train_step(loss_fn, problem.sgd, accumulate=4)
    state, _ = step(problem.state(model_state=start), problem.batch_at(0), 0.1)
    assert int(state.model_state["part"]) == 4
    assert len(set(np.asarray(state.model_state["drawn"]).tolist())) == 4


def deep_loss_fn(params, model_state, batch, key):
    del key
    x = batch
    for _ in range(6):
        x = jnp.tanh(jnp.sin(jnp.dot(x, params["w"])))
    return jnp.mean(x**2), (model_state, {})


@pytest.mark.parametrize("remat", [True, jax.checkpoint_policies.nothing_saveable])
def test_recomputation_keeps_less_and_gives_the_same_step(remat):
    sgd = lambda lr: optax.sgd(lr)  # noqa: E731
    params = {"w": 0.1 * jax.random.normal(jax.random.key(0), (16, 16))}
    batch = jax.random.normal(jax.random.key(1), (256, 16))

    def kept(remat):
        """Bytes that the backward pass is given; nothing is computed."""
        loss_fn = recomputed(deep_loss_fn, remat)

        def back(params, batch):
            return jax.vjp(lambda p: loss_fn(p, None, batch, None)[0], params)[1]

        arrays = jax.tree.leaves(jax.eval_shape(back, params, batch))
        return sum(x.size * x.dtype.itemsize for x in arrays)

    ends = []
    for choice in (False, remat):
        step = jp.training.make_train_step(deep_loss_fn, sgd, remat=choice)
        state = jp.training.TrainState.create(params, sgd, key=jax.random.key(0))
        ends.append(step(state, batch, 0.1)[0].params["w"])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-7)
    assert kept(False) >= 12 * batch.nbytes  # sin and tanh of each layer
    assert kept(remat) <= 7.5 * batch.nbytes  # the product of each layer


def test_parts_that_do_not_divide_the_batch_are_named():
    with pytest.raises(ValueError, match=r"32 examples.*3 accumulated parts do not divide"):
        one_step(accumulate=3)
    mesh = meshed.mesh(8)
    step = jp.training.make_train_step(meshed.make_loss_fn(), meshed.sgd, mesh=mesh, accumulate=8)
    with pytest.raises(ValueError, match=r"8 devices x 8 accumulated parts.*multiple of 64"):
        step(meshed.state(), meshed.batch_at(0), 0.1)
    make = jp.training.make_train_step
    with pytest.raises(ValueError, match="accumulate is at least 1 part of a batch; got 0"):
        make(problem.loss_fn, problem.sgd, accumulate=0)
    with pytest.raises(TypeError, match=r"accumulate is a number of parts of a batch; got 2.0"):
        make(problem.loss_fn, problem.sgd, accumulate=2.0)
