"""Runs that diverge: where they stop, and what they go back to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.training import Checkpoints
from tests.training import problem
from tests.training.checkpointed import TOTAL, imp, loud_when_collected

pytestmark = loud_when_collected


def _with_nan(data, bad, step):
    good = problem.batch_at.func(data, step)
    return {**good, "x": jnp.where(jnp.any(bad == step), jnp.nan, good["x"])}


@functools.cache
def nan_at(*bad):
    """A loop whose batches of some steps are NaN."""
    batches = jax.tree_util.Partial(_with_nan, *problem.batch_at.args, jnp.asarray(bad))
    return jp.training.make_loop(problem.step(), batches, chunk_steps=4)


def test_a_nan_loss_stops_with_the_step(tmp_path):
    message = r"the loss is NaN.* at step 32 \(step 8 of cycle 1, learning rate 0\.\d+\)"
    with pytest.raises(FloatingPointError, match=message):
        imp(train=nan_at(32))
    with pytest.raises(FloatingPointError, match=message):
        imp(Checkpoints(tmp_path, every=15), nan_at(32))
    assert Checkpoints(tmp_path).steps() == [24, 30]


def test_a_nan_loss_goes_back_and_on_with_other_batches(tmp_path):
    heard = []
    checkpoints = Checkpoints(tmp_path, every=15, on_nan="rewind", on_resume=heard.append)
    result = imp(checkpoints, nan_at(32))
    assert [resumed.steps for resumed in heard] == [30]
    assert all(np.isfinite(record.metrics["loss"]).all() for record in result.records)
    assert [len(record.metrics["loss"]) for record in result.records] == [24, 10, 10]
    assert int(result.state.step) == TOTAL + 3  # steps 30 to 32 were skipped


@pytest.mark.slow
def test_going_back_has_an_end(tmp_path):
    train = nan_at(*range(6, 40))
    with pytest.raises(FloatingPointError, match="Went back 3 times already"):
        imp(Checkpoints(tmp_path / "often", every=5, on_nan="rewind"), train)
    with pytest.raises(FloatingPointError, match="There is no checkpoint to go back to"):
        imp(Checkpoints(tmp_path / "early", every=100, on_nan="rewind"), train)


def test_a_nan_loss_ends_training_soon():
    heard = []
    train = nan_at(32)._replace(on_chunk=lambda first, *rest: heard.append(first))
    with pytest.raises(FloatingPointError, match=r"the loss is NaN.* at step 32 "):
        imp(train=train, retraining_steps=20)
    assert heard[-3:] == [28, 32, 36]  # the chunk with it, and the one that was under way


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path):
    """The loss of the last step is finite, and its update is not."""

    def loss_fn(params, model_state, batch, key):
        del batch, key
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(params)), (model_state, {})

    step = jp.training.make_train_step(loss_fn, problem.sgd)
    train = jp.training.make_loop(step, jax.tree_util.Partial(lambda t: t), chunk_steps=4)

    def go(checkpoints=None):
        params = jax.tree.map(lambda x: np.full_like(x, 1e3), problem.params())
        state = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(1))
        return jp.training.imp(
            state,
            train,
            evaluate=lambda state: {},
            pretraining=lambda t: jnp.where(t < 19, 0.0, 1e38),
            pretraining_steps=20,
            sparsity=0.5,
            retraining_steps=5,
            schedule="llr",
            checkpoints=checkpoints,
        )

    with pytest.raises(FloatingPointError, match="a weight NaN or infinite, at step 19"):
        go()
    with pytest.raises(FloatingPointError, match="at step 19"):
        go(Checkpoints(tmp_path, every=7))
    assert Checkpoints(tmp_path).steps() == [7, 14]
