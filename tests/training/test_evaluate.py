"""Evaluation counts every example once; recalibration touches batch statistics only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import problem


@pytest.mark.parametrize("batch_size", [1, 7, 64, 203, 1000])
def test_the_last_partial_batch_is_counted_right(batch_size):
    state = problem.state()
    evaluate = jp.training.make_evaluate(problem.eval_fn, problem.DATA, batch_size=batch_size)
    predicted = np.argmax(np.asarray(problem.logits(state.params, problem.INPUTS)), -1)
    expected = np.mean(predicted == problem.LABELS)
    assert evaluate(state)["accuracy"] == pytest.approx(expected, abs=1e-7)


def test_weights_of_the_user_are_kept():
    weight = np.zeros(problem.N, np.float32)
    weight[:10] = 1
    data = {**problem.DATA, "weight": weight}
    state = problem.state()
    expected = np.mean(
        np.argmax(np.asarray(problem.logits(state.params, problem.INPUTS[:10])), -1)
        == problem.LABELS[:10]
    )
    evaluate = jp.training.make_evaluate(problem.eval_fn, data, batch_size=64)
    assert evaluate(state)["accuracy"] == pytest.approx(expected, abs=1e-7)


def test_other_parameters_can_be_evaluated():
    zero = lambda state: jax.tree.map(jnp.zeros_like, state.params)  # noqa: E731
    evaluate = jp.training.make_evaluate(
        problem.eval_fn, problem.DATA, batch_size=64, eval_params=zero
    )
    # All logits are 0: class 0 is predicted everywhere.
    expected = np.mean(problem.LABELS == 0)
    assert evaluate(problem.state())["accuracy"] == pytest.approx(expected, abs=1e-7)


def test_recalibration_re_estimates_model_state_and_nothing_else():
    def loss_fn(params, model_state, batch, key):
        mean = 0.5 * model_state["mean"] + 0.5 * jnp.mean(batch["x"], axis=0)
        return jnp.sum(params["w"]), ({"mean": mean}, {})

    state = jp.training.TrainState.create(
        {"w": jnp.ones((2, 2))},
        lambda lr: optax.sgd(lr),
        model_state={"mean": jnp.zeros(problem.FEATURES)},
        key=jax.random.key(0),
    )
    recalibrate = jp.training.make_recalibrate(loss_fn, problem.batch_at, steps=3)
    out = recalibrate(state)
    expected = np.zeros(problem.FEATURES)
    for t in range(3):
        expected = 0.5 * expected + 0.5 * np.mean(problem.batch_at(t)["x"], axis=0)
    np.testing.assert_allclose(out.model_state["mean"], expected, atol=1e-6)
    np.testing.assert_array_equal(out.params["w"], state.params["w"])
    assert int(out.step) == 0


def test_recalibration_of_a_model_without_state_is_nothing():
    state = problem.state()
    recalibrate = jp.training.make_recalibrate(problem.loss_fn, problem.batch_at, steps=3)
    assert recalibrate(state) is state


def test_bad_input():
    with pytest.raises(ValueError, match="non-empty arrays of one length; got lengths"):
        jp.training.make_evaluate(problem.eval_fn, {"x": np.ones(3), "y": np.ones(4)}, batch_size=2)
    with pytest.raises(ValueError, match="non-empty arrays"):
        jp.training.make_evaluate(problem.eval_fn, {"x": np.ones(0)}, batch_size=2)
    with pytest.raises(ValueError, match="batch_size is at least 1 example; got 0"):
        jp.training.make_evaluate(problem.eval_fn, problem.DATA, batch_size=0)
    with pytest.raises(ValueError, match="steps is at least 1; got 0"):
        jp.training.make_recalibrate(problem.loss_fn, problem.batch_at, steps=0)
