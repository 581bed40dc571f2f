"""A loss that also follows a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, softmax

import jaxprune as jp
from jaxprune.training import Taught
from tests.training import problem

RNG = np.random.default_rng(0)
LOGITS, TEACHER = (RNG.normal(size=(5, 4, 7)).astype(np.float32) * 3 for _ in range(2))
KEY = jax.random.key(0)


def loss_fn(params, model_state, batch, key):
    del key
    metrics = {"logits": params["logits"], "accuracy": jnp.float32(0.5)}
    if "features" in params:
        metrics["features"] = params["features"]
    return jnp.sum(params["logits"]) / 100, (model_state, metrics)


def called(params=None, teacher=None, state=None, batch=None, **options):
    """Loss and metrics of logits that are the parameters."""
    params = {"logits": jnp.asarray(LOGITS)} if params is None else params
    both = jp.training.distilled(loss_fn, teacher=teacher or (lambda t, batch: t), **options)
    state = Taught(jnp.asarray(TEACHER), {"n": jnp.float32(1)}) if state is None else state
    loss, (after, metrics) = both(params, state, batch, KEY)
    assert isinstance(after, Taught)
    return loss, metrics


def by_hand(temperature, s=LOGITS, t=TEACHER):
    p = softmax(t.astype(np.float64) / temperature, -1)
    q = log_softmax(s.astype(np.float64) / temperature, -1)
    return temperature**2 * (p * (np.log(p) - q)).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_against_the_formula(temperature, alpha):
    loss, metrics = called(temperature=temperature, alpha=alpha)
    expected = by_hand(temperature).mean()
    task = LOGITS.sum() / 100
    np.testing.assert_allclose(metrics["distillation_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["task_loss"], task, rtol=1e-5)
    np.testing.assert_allclose(loss, alpha * expected + (1 - alpha) * task, rtol=1e-4)
    assert sorted(metrics) == ["accuracy", "distillation_loss", "task_loss"]


def test_the_teacher_itself_has_nothing_to_learn():
    params = {"logits": jnp.asarray(TEACHER)}
    assert called(params)[1]["distillation_loss"] == pytest.approx(0, abs=1e-6)


def test_only_the_most_likely_classes():
    _, metrics = called(top_k=3, temperature=1.5)
    order = np.argsort(-TEACHER, axis=-1)[..., :3]
    s, t = (np.take_along_axis(x, order, -1) for x in (LOGITS, TEACHER))
    np.testing.assert_allclose(metrics["distillation_loss"], by_hand(1.5, s, t).mean(), rtol=1e-5)
    full = called(top_k=7)[1]["distillation_loss"]
    np.testing.assert_allclose(full, called()[1]["distillation_loss"], rtol=1e-5)


def test_padding_has_no_weight():
    weight = (RNG.random((5, 4)) < 0.5).astype(np.float32)
    teacher = np.where(weight[..., None] > 0, TEACHER, np.nan)
    state = Taught(jnp.asarray(teacher), None)
    _, metrics = called(state=state, weight=lambda batch: batch, batch=weight)
    expected = (by_hand(2.0) * weight).sum() / weight.sum()
    np.testing.assert_allclose(metrics["distillation_loss"], expected, rtol=1e-5)


def test_a_class_without_any_chance():
    t = jnp.asarray(TEACHER).at[..., 0].set(-jnp.inf)
    both = jp.training.distilled(loss_fn, teacher=lambda t, batch: t, alpha=1.0)

    def loss(logits):
        return both({"logits": logits}, Taught(t, None), None, KEY)[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray(LOGITS))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_features_of_layers_that_are_named():
    ours, theirs = (
        {str(i): RNG.normal(size=(5, 8)).astype(np.float32) for i in range(3)} for _ in "ab"
    )
    params = {"logits": jnp.asarray(LOGITS), "features": jax.tree.map(jnp.asarray, ours)}
    options = {"features": {"0": "1", "1": "2"}, "feature_weight": 0.7, "alpha": 0.0}
    teacher = lambda t, batch: (t, theirs)  # noqa: E731
    loss, metrics = called(params, teacher, **options)
    pairs = [(ours["0"], theirs["1"]), (ours["1"], theirs["2"])]
    expected = np.mean(
        [
            1 - (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
            for a, b in pairs
        ]
    )
    np.testing.assert_allclose(metrics["feature_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, LOGITS.sum() / 100 + 0.7 * expected, rtol=1e-4)
    dead = {**params, "features": {**params["features"], "0": jnp.zeros((5, 8))}}
    grad = jax.grad(lambda p: called(p, teacher, **options)[0])(dead)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad))
    with pytest.raises(ValueError, match=r"teacher has no features '9', but \['0', '1', '2'\]"):
        called(params, teacher, features={"0": "9"})


def taught_loss(params, model_state, batch, key):
    loss, (model_state, metrics) = problem.loss_fn(params, model_state, batch, key)
    return loss, (model_state, {**metrics, "logits": problem.logits(params, batch["x"])})


def sgd(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9)


def test_imp_with_a_teacher_ends_closer_to_it():
    """The dense network teaches its pruned self; neither it nor the optimizer sees it change."""
    step = jp.training.make_train_step(problem.loss_fn, sgd)
    dense = jp.training.TrainState.create(problem.params(), sgd, key=KEY)
    dense, _ = jp.training.make_loop(step, problem.batch_at)(dense, [0.05] * 60)
    distances = {}
    for alpha in (0.0, 1.0):
        loss_fn = jp.training.distilled(
            taught_loss, teacher=lambda w, batch: problem.logits(w, batch["x"]), alpha=alpha
        )
        state = jp.training.TrainState.create(
            dense.params, sgd, model_state=Taught(dense.params, None), key=KEY
        )
        train = jp.training.make_loop(
            jp.training.make_train_step(loss_fn, sgd), problem.batch_at, chunk_steps=20
        )
        evaluate = jp.training.make_evaluate(
            jp.training.of_student(problem.eval_fn), problem.DATA, batch_size=64
        )
        result = jp.training.imp(
            state,
            train,
            evaluate=evaluate,
            pretraining=optax.constant_schedule(0.05),
            pretraining_steps=60,
            pretrain=False,
            sparsity=0.8,
            retraining_steps=60,
        )
        for x, y in zip(
            jax.tree.leaves(result.state.model_state.teacher),
            jax.tree.leaves(dense.params),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y)
        jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.8)
        s, t = (
            np.asarray(problem.logits(p, problem.INPUTS))
            for p in (result.state.params, dense.params)
        )
        distances[alpha] = by_hand(2.0, s, t).mean()
    assert distances[1.0] < 0.8 * distances[0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is a positive number; got 0"),
        ({"temperature": float("nan")}, "temperature is a positive number"),
        ({"alpha": 1.5}, r"in \[0, 1\]; got 1\.5"),
        ({"top_k": 0}, "at least 1; got 0"),
        ({"top_k": 8}, "top_k=8 of 7 classes"),
        ({"feature_weight": -1.0}, "feature_weight is not negative"),
        ({"weight": lambda batch: np.ones(5)}, r"shape \(5,\), but there are positions \(5, 4\)"),
        ({"teacher": lambda t, batch: t[:2]}, r"\(5, 4, 7\), those of the teacher \(2, 4, 7\)"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        called(**options)


def test_functions_that_cannot_be():
    with pytest.raises(TypeError, match=r"needs metrics\['features'\] from loss_fn"):
        called(features={"a": "a"})
    with pytest.raises(TypeError, match="the model state is jaxprune"):
        called(state={"batch_stats": 1})
    without = jp.training.distilled(problem.loss_fn, teacher=lambda t, batch: t)
    batch = {"x": problem.INPUTS[:4], "y": problem.LABELS[:4]}
    with pytest.raises(TypeError, match=r"needs metrics\['logits'\].*it returns \['accuracy'\]"):
        without(problem.params(), Taught(None, None), batch, KEY)
    bare = jp.training.distilled(lambda *_: jnp.float32(1), teacher=lambda t, batch: t)
    with pytest.raises(TypeError, match=r"returns \(loss, \(model_state, metrics\)\)"):
        bare(problem.params(), Taught(None, None), batch, KEY)
