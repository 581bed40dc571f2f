"""What users' functions return is checked before anything is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune.training import Checkpoints, TrainState
from jaxprune.training.steps._contracts import check_evaluation, split_loss
from tests.training import problem

X = {"x": np.arange(10.0, dtype=np.float32)}


def evaluated(eval_fn, size=4):
    state = problem.state()
    return jp.training.make_evaluate(eval_fn, X, batch_size=size)(state)


def pair(batch):
    return jnp.sum(batch["weight"] * batch["x"]), jnp.sum(batch["weight"])


def first(params):
    return jnp.sum(params["first"]["kernel"])


@pytest.mark.parametrize(
    ("eval_fn", "error", "message"),
    [
        (lambda p, s, b: {"accuracy": jnp.float32(0.25)}, TypeError, "both scalars.*not a mean"),
        (lambda p, s, b: {"accuracy": jnp.array([1.0, 4.0])}, TypeError, r"an array float32\[2\]"),
        (lambda p, s, b: {"accuracy": (b["x"], b["weight"])}, TypeError, r"float32\[4\]"),
        (lambda p, s, b: {"accuracy": (1.0, 2.0, 3.0)}, TypeError, "'accuracy'"),
        (lambda p, s, b: jnp.float32(1), TypeError, r"returns \{name: \(sum, count\)\}; got"),
        (lambda p, s, b: {0: pair(b)}, TypeError, "got the name 0"),
        (
            lambda p, s, b: {"x": (jnp.sum(b["x"]), jnp.float32(4))},
            ValueError,
            r"counts examples of weight 0: .* 'x' is \(6, 4\)",
        ),
        (
            lambda p, s, b: {"x": (jnp.sum(b["weight"]), first(p) * jnp.sum(b["weight"]))},
            ValueError,
            r"'x' of eval_fn looks like \(count, sum\)",
        ),
    ],
)
def test_evaluations_that_are_wrong(eval_fn, error, message):
    with pytest.raises(error, match=message):
        evaluated(eval_fn)


def test_an_evaluation_that_is_right():
    assert evaluated(lambda p, s, b: {"x": pair(b)}) == {"x": 4.5}
    assert evaluated(lambda p, s, b: {"x": [*pair(b)]}) == {"x": 4.5}


def right(params, model_state, batch, key):
    return first(params) ** 2, (model_state, {})


def wrong(change):
    """A loss whose result has changed."""

    def loss_fn(params, model_state, batch, key):
        return change(*right(params, model_state, batch, key))

    return loss_fn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss, rest: loss, r"returns \(loss, \(model_state, metrics\)\); got an array"),
        (lambda loss, rest: (loss, rest[0]), "behind the loss got"),
        (lambda loss, rest: (loss, {}), "behind the loss got"),
        (lambda loss, rest: (loss, (rest[0], None)), "metrics a dict of scalars; got NoneType"),
        (lambda loss, rest: (loss, (rest[0], {"a": jnp.ones(3)})), r"'a': an array float32\[3\]"),
        (lambda loss, rest: (loss[None], rest), r"a floating scalar.*float32\[1\]"),
        (lambda loss, rest: (jnp.int32(1), rest), "a floating scalar"),
        (
            lambda loss, rest: (loss, ({"n": rest[0]["n"] + 0.5}, {})),
            r"given model state\['n'\] as int32\[\] and returns it as float32\[\]",
        ),
        (
            lambda loss, rest: (loss, ({**rest[0], "more": rest[0]["n"]}, {})),
            r"adds model state\['more'\]",
        ),
        (lambda loss, rest: (loss, (None, {})), r"lacks model state\['n'\]"),
        (
            lambda loss, rest: (loss, ({"n": jnp.zeros((2,), jnp.int32)}, {})),
            r"returns it as int32\[2\]",
        ),
    ],
)
def test_losses_that_are_wrong(change, message):
    state = problem.state()._replace(model_state={"n": jnp.int32(0)})
    step = jp.training.make_train_step(wrong(change), problem.sgd)
    with pytest.raises(TypeError, match=message), jax.numpy_dtype_promotion("standard"):
        step(state, X, 0.1)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=True)
    | st.text(max_size=3)
    | st.sampled_from([np.float32(1), np.ones(2), np.zeros((), np.int32)]),
    lambda x: (
        st.lists(x, max_size=3)
        | st.tuples(x, x)
        | st.dictionaries(st.text(max_size=2) | st.integers(), x, max_size=3)
    ),
    max_leaves=6,
)


@given(anything)
def test_anything_is_taken_or_refused_with_the_contract(returned):
    try:
        check_evaluation(returned)
    except TypeError as error:
        message = str(error)
        assert "returns {name: (sum, count)}" in message
    else:
        assert all(len(pair) == 2 for pair in returned.values())
    try:
        loss, after, metrics = split_loss(returned, None)
    except TypeError as error:
        message = str(error)
        assert "loss_fn" in message
    else:
        assert np.shape(loss) == ()
        assert after is None or not jax.tree.leaves(after)
        assert isinstance(metrics, dict)


@pytest.mark.parametrize("key", [0, None, jax.random.split(jax.random.key(0)), np.ones(2)])
def test_a_key_is_a_random_key(key):
    with pytest.raises(TypeError, match="key is one JAX random key"):
        TrainState.create(problem.params(), problem.sgd, key=key)


def test_an_optimizer_is_an_optimizer():
    with pytest.raises(TypeError, match="returns an optax optimizer, with init and update; got"):
        TrainState.create(problem.params(), lambda lr: lr, key=jax.random.key(0))


def test_the_state_of_another_optimizer():
    state = problem.state(lambda lr: optax.adam(lr))
    with pytest.raises(ValueError, match="holds that of another optimizer"):
        jp.training.make_train_step(problem.loss_fn, problem.sgd)(state, problem.batch_at(0), 0.1)


def run(**options):
    return jp.training.imp(
        problem.state(),
        problem.loop(),
        **{
            "evaluate": problem.evaluate,
            "pretraining": optax.constant_schedule(0.1),
            "pretraining_steps": 2,
            "sparsity": 0.5,
            "retraining_steps": 2,
            **options,
        },
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"evaluate": None}, TypeError, "evaluate is a function of the state"),
        ({"evaluate": lambda a, b: {}}, TypeError, r"called as evaluate\(state\)"),
        ({"evaluate": lambda state: 0.5}, TypeError, "a dict from names to numbers"),
        ({"evaluate": lambda state: {"a": "b"}}, TypeError, "a dict from names to numbers"),
        ({"recalibrate": 3}, TypeError, "recalibrate is a function"),
        ({"on_phase": lambda: None}, TypeError, r"called as on_phase\(record\)"),
        ({"metric": "f1"}, ValueError, "no metric 'f1'"),
    ],
)
def test_hooks_are_looked_at_before_training(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_a_recalibration_returns_a_state():
    with pytest.raises(TypeError, match=r"recalibrate\(state\) returns a TrainState; got NoneType"):
        run(recalibrate=lambda state: None)


def test_what_was_trained_is_saved_if_an_evaluation_fails(tmp_path):
    calls = []

    def evaluate(state):
        calls.append(int(state.step))
        if len(calls) == 2:
            raise RuntimeError("out of disk quota")
        return {"accuracy": 0.5}

    with pytest.raises(RuntimeError, match="disk quota"):
        run(evaluate=evaluate, checkpoints=Checkpoints(tmp_path))
    assert Checkpoints(tmp_path).steps() == [2]
    result = run(evaluate=evaluate, checkpoints=Checkpoints(tmp_path, resume=True))
    assert len(result.records) == 2


@pytest.mark.parametrize("value", [-1.0, float("nan"), 0.0])
def test_a_metric_without_a_share_has_no_stability(value):
    result = run(evaluate=lambda state: {"accuracy": value})
    assert result.records[1].stability is None


def test_a_step_from_the_plain_loss_is_refused():
    method = jp.methods.dpf(0.5, total_steps=4, interval=1)
    parts = jp.training.prepare(
        method, problem.params(), problem.loss_fn, problem.sgd, key=jax.random.key(0)
    )
    step = jp.training.make_train_step(problem.loss_fn, parts.make_optimizer)
    train = jp.training.make_loop(step, problem.batch_at)
    with pytest.raises(ValueError, match="made from the plain loss_fn"):
        jp.training.fit(parts, train, evaluate=lambda s: {}, learning_rates=[0.1] * 4)


def test_swapped_trees_of_a_discount():
    before, after = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 4.0])}
    rest = {"pruned_fraction": 0.5, "pretraining_steps": 10, "retraining_steps": 1}
    with pytest.raises(ValueError, match=r"grows from 4 to 5 .*parameters before it first"):
        jp.schedules.allr_discount(after, before, **rest)
    with pytest.raises(ValueError, match="grows from 4 to 5"):
        jp.schedules.allr_ratio(after, before, pruned_fraction=0.5)
