"""Averages of networks that were retrained under one mask."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import problem

MASK = jp.prune(problem.params(), 0.5)[1]


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def state_of(params, mask=MASK, model_state=None, **options):
    return jp.training.TrainState.create(
        params, sgd, mask=mask, model_state=model_state, key=jax.random.key(0), **options
    )


def copies(number):
    return [state_of(problem.params(seed)) for seed in range(number)]


@pytest.fixture(scope="module")
def retrained():
    """Three copies of one pruned network, retrained with other rates."""
    step = jp.training.make_train_step(problem.loss_fn, sgd)
    train = jp.training.make_loop(step, problem.batch_at)
    return [train(state_of(problem.params()), [rate] * 20)[0] for rate in (0.01, 0.02, 0.05)]


def test_it_is_the_mean_and_as_sparse(retrained):
    mixed = jp.training.soup(retrained)
    for path, x in jax.tree_util.tree_leaves_with_path(mixed.params):
        others = [dict(jax.tree_util.tree_leaves_with_path(s.params))[path] for s in retrained]
        np.testing.assert_allclose(x, np.mean([np.asarray(o) for o in others], 0), atol=1e-6)
    jp.assert_sparse(mixed.params, mixed.mask, sparsity=0.5)
    assert jp.metrics.hamming(mixed.mask, MASK) == 0
    assert int(mixed.step) == int(retrained[0].step)


def test_training_goes_on_from_it_and_the_copies_stay(retrained):
    mixed = jp.training.soup(retrained)
    step = jp.training.make_train_step(problem.loss_fn, sgd)
    after, _ = jp.training.make_loop(step, problem.batch_at)(mixed, [0.01] * 3)
    jp.assert_sparse(after.params, after.mask)
    assert all(np.isfinite(x).all() for s in retrained for x in jax.tree.leaves(s.params))
    result = jp.training.imp(
        jp.training.soup(retrained),
        jp.training.make_loop(step, problem.batch_at),
        evaluate=problem.evaluate,
        pretraining=optax.constant_schedule(0.05),
        pretraining_steps=10,
        pretrain=False,
        sparsity=0.8,
        retraining_steps=5,
    )
    assert jp.metrics.sparsity(result.state.mask) == pytest.approx(0.8, abs=0.01)


def test_statistics_are_averaged_and_then_estimated_anew():
    first, second = (
        state_of(problem.params(), model_state={"mean": jnp.full(3, value), "n": jnp.int32(n)})
        for value, n in ((1.0, 5), (2.0, 6))
    )
    mixed = jp.training.soup([first, second])
    np.testing.assert_array_equal(mixed.model_state["mean"], 1.5)
    assert int(mixed.model_state["n"]) == 5
    anew = jp.training.soup(
        [first, second],
        recalibrate=lambda s: s._replace(model_state={**s.model_state, "mean": jnp.zeros(3)}),
    )
    np.testing.assert_array_equal(anew.model_state["mean"], 0)


def test_narrow_weights_are_added_wide():
    # In bfloat16 the sum of 255 and 1 + 1/128 loses the fraction.
    values = [255.0, 1.0078125]
    mixed = jp.training.soup(
        [state_of({"w": jnp.full((2, 2), v, jnp.bfloat16)}, mask=None) for v in values]
    )
    np.testing.assert_array_equal(mixed.params["w"], jnp.bfloat16(sum(values) / 2))


def test_without_masks():
    dense = [state_of(problem.params(s), mask=None, masked=False) for s in range(2)]
    assert not jp.training.soup(dense).is_masked
    with pytest.raises(ValueError, match="only one is under a mask"):
        jp.training.soup([dense[0], copies(1)[0]])


def of_values(values):
    """An evaluation that gives a state the next of these values."""
    queue = iter([values[0], *values])  # it is called once to see its metrics
    return lambda state: {"accuracy": next(queue)}


@pytest.mark.parametrize(
    ("values", "options", "chosen"),
    [
        # Alone: .7 .9 .8; then 1 with 2, which helps, and with 0, which does not.
        ([0.7, 0.9, 0.8, 0.91, 0.90], {}, (1, 2)),
        ([0.7, 0.9, 0.8, 0.89, 0.95], {}, (1, 0)),
        ([0.7, 0.9, 0.8, 0.9, 0.9], {}, (1, 2, 0)),
        ([0.7, 0.9, 0.8, 0.69, 0.6], {"higher_is_better": False}, (0, 2, 1)),
        ([0.5, 0.5, 0.5, 0.4, 0.4], {}, (0,)),
    ],
)
def test_greedy(values, options, chosen):
    states = copies(3)
    mixed, found = jp.training.greedy_soup(states, evaluate=of_values(values), **options)
    assert found == chosen
    expected = jp.training.soup([states[i] for i in chosen])
    for x, y in zip(jax.tree.leaves(mixed.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_greedy_is_never_worse_than_the_best_copy(retrained):
    mixed, chosen = jp.training.greedy_soup(retrained, evaluate=problem.evaluate)
    best = max(problem.evaluate(s)["accuracy"] for s in retrained)
    assert problem.evaluate(mixed)["accuracy"] >= best
    assert problem.evaluate(retrained[chosen[0]])["accuracy"] == best


def test_what_cannot_be_averaged():
    one, other = copies(2)
    inverse = jax.tree.map(lambda m: ~m, MASK)
    with pytest.raises(ValueError, match=r"masks of state 0 and state 1 differ in 'first/kernel'"):
        jp.training.soup([one, state_of(problem.params(), mask=inverse)])
    with pytest.raises(ValueError, match="needs one state or more"):
        jp.training.soup([])
    with pytest.raises(TypeError, match="a sequence of TrainState"):
        jp.training.soup(one)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="a sequence of TrainState"):
        jp.training.soup([one.params, other.params])
    narrow = state_of({"first": problem.params()["first"]}, mask=None)
    with pytest.raises(ValueError, match="only one has 'last"):
        jp.training.soup([one, narrow])
    broken = other._replace(params=jax.tree.map(lambda x: x / 0, other.params))
    with pytest.raises(ValueError, match="parameters of state 1"):
        jp.training.soup([one, broken])
    with pytest.raises(ValueError, match="NaN for 'accuracy'"):
        jp.training.greedy_soup([one], evaluate=lambda s: {"accuracy": float("nan")})
    with pytest.raises(ValueError, match="no metric 'f1'"):
        jp.training.greedy_soup([one], evaluate=problem.evaluate, metric="f1")
