"""Every recipe trained from end to end: one phase, then the final hard prune."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from experiments import models
from tests.training import problem

T = 40
KEY = jax.random.key(5)
N = 6 * 16 + 16 * 3

# What every recipe is given, by the names of its arguments.
GIVEN = {"sparsity": 0.5, "key": KEY, "total_steps": T}
# What shows the method on so short a training.
OWN = {
    "dpf": {"refresh": 3},
    "rigl": {"interval": 5},
    "sfp": {"pattern": lambda path, leaf: None},
    "str": {"initial": -1.5},
    "cs": {"initial": -0.01},
    "dst": {"penalty": 1e-2},
    "sr_ste": {"pattern": jp.masks.nm(1, 2, axis=0)},
}
# One of each kind; all others are tried in the slow lane.
REPRESENTATIVES = {"dense", "gmp", "gsm", "rigl", "str", "sr_ste"}
METHODS = jp.methods.METHODS
TAKES = {name: set(inspect.signature(method).parameters) for name, method in METHODS.items()}
CONTROLLED = {name for name in METHODS if "sparsity" in TAKES[name]}


def recipe(name):
    """A method with the options of this file."""
    given = {argument: value for argument, value in GIVEN.items() if argument in TAKES[name]}
    return METHODS[name](**given, **OWN.get(name, {}))


def nesterov(learning_rate):
    return optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(learning_rate, momentum=0.9, nesterov=True)
    )


@functools.cache
def trained(name):
    """A recipe from end to end: its result, its loop and the records told on the way."""
    parts = jp.training.prepare(
        recipe(name), problem.params(), problem.loss_fn, nesterov, key=jax.random.key(1)
    )
    step = jp.training.make_train_step(parts.loss_fn, parts.make_optimizer)
    loop = jp.training.make_loop(step, problem.batch_at)
    rates = np.linspace(0.05, 0, T, endpoint=False)
    told = []
    with jax.numpy_dtype_promotion("standard"):
        result = jp.training.fit(
            parts, loop, evaluate=problem.evaluate, learning_rates=rates, on_phase=told.append
        )
    return result, loop, told


@pytest.mark.parametrize(
    "name",
    [
        name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow)
        for name in METHODS
    ],
)
def test_trains_and_ends_with_a_hard_mask(name):
    result, loop, told = trained(name)
    training, final = result.records
    assert told == [training, final]
    assert (training.phase, final.phase) == ("training", "final prune")
    assert loop.compiled._cache_size() == 1, "the mask moves without another compilation"

    kept, size = jp.metrics.counts(result.state.mask)
    assert (final.nonzero, final.prunable) == (kept, size) == (kept, N)
    assert final.sparsity == (N - kept) / N
    expected = {"dense": N, "sr_ste": N // 2}
    if name in CONTROLLED:
        assert kept == N - round(0.5 * N)
    elif name in expected:
        assert kept == expected[name]
    else:
        assert 0 < kept < N, "this setting prunes something and not everything"

    # The final weights are zero where the mask says so, and are what was measured.
    masked = jp.apply_mask(result.state.params, result.state.mask)
    jax.tree.map(np.testing.assert_array_equal, masked, result.state.params)
    assert problem.evaluate(result.state) == final.evaluation
    assert training.evaluation["accuracy"] > 0.45, "it learns: three classes, a third by chance"
    assert final.stability == pytest.approx(
        final.evaluation["accuracy"] / training.evaluation["accuracy"]
    )
    if name in ("set", "rigl"):  # what has just grown is still zero
        assert training.nonzero <= final.nonzero
    elif name not in ("gsm", "lc", "cs", "dense"):
        assert training.nonzero == final.nonzero, "the forward pass was sparse already"


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(jp.methods.dpf(0.5, total_steps=2, interval=1), id="dpf"),
        pytest.param(
            jp.methods.rigl(0.5, key=KEY, total_steps=2, interval=1, end_step=2),
            id="rigl",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_batch_statistics_travel_beside_the_mask(method):
    model = models.ResNet(num_classes=3, blocks=0, widths=(8,))
    loss_fn = models.make_loss_fn(model)
    rng = np.random.default_rng(0)  # cheaper than compiling the draws
    shapes, _ = jax.eval_shape(lambda key: models.init(model, key, (4, 4, 3)), KEY)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    statistics = {"batch_stats": {"norm_in": {"mean": jnp.zeros(8), "var": jnp.ones(8)}}}
    images = rng.normal(size=(16, 4, 4, 3)).astype(np.float32)
    data = {"image": jnp.asarray(images), "label": jnp.arange(16) % 3}
    batches = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), data)

    def batch_at(step):
        return jax.tree.map(lambda x: x[step], batches)

    evaluate = jp.training.make_evaluate(models.make_eval_fn(model), data, batch_size=16)
    parts = jp.training.prepare(
        method, params, loss_fn, nesterov, model_state=statistics, key=jax.random.key(1)
    )
    loop = jp.training.make_loop(
        jp.training.make_train_step(parts.loss_fn, parts.make_optimizer), batch_at
    )
    with jax.numpy_dtype_promotion("standard"):
        result = jp.training.fit(parts, loop, evaluate=evaluate, learning_rates=[0.1, 0.05])
        first = parts.deployed(loop(parts.state, [0.1])[0])
        # What the second batch leaves behind on its way through the sparse weights.
        _, (expected, _) = jax.jit(loss_fn)(first.params, first.model_state, batch_at(1), KEY)

    end = result.state.model_state
    assert jax.tree.structure(end) == jax.tree.structure(statistics), "the model's own alone"
    for before, after in ((statistics, first.model_state), (first.model_state, end)):
        changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
        assert all(jax.tree.leaves(changed))
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    n = 27 * 8 + 8 * 3
    assert jp.metrics.counts(result.state.mask) == (n // 2, n)
    assert result.state.mask["norm_in"] == {"scale": None, "bias": None}
    masked = jp.apply_mask(result.state.params, result.state.mask)
    jax.tree.map(np.testing.assert_array_equal, masked, result.state.params)
    assert evaluate(result.state) == result.records[-1].evaluation


@pytest.mark.slow
def test_the_final_state_can_be_retrained():
    end = jax.tree.map(jnp.copy, trained("gsm")[0].state)
    state, _ = problem.loop(nesterov)(end, [0.01] * 3)
    assert int(state.step) == T + 3
    kept = sum(
        int(jnp.sum(m & (p["kernel"] != 0)))
        for m, p in (
            (state.mask["first"]["kernel"], state.params["first"]),
            (state.mask["last"]["kernel"], state.params["last"]),
        )
    )
    assert kept == N - round(0.5 * N)


def test_starts_sparse_where_the_method_does():
    parts = jp.training.prepare(
        recipe("static"), problem.params(), problem.loss_fn, nesterov, key=jax.random.key(1)
    )
    zero = sum(int(jnp.sum(parts.state.params[k]["kernel"] == 0)) for k in ("first", "last"))
    assert zero == round(0.5 * N)


def test_an_optimizer_with_a_mask_of_its_own():
    def make(learning_rate):
        return jp.transforms.gmp(optax.sgd(learning_rate), 0.5, total_steps=4, interval=2)

    state = problem.state(make)
    assert jp.sparsity(state.mask) == 0.0
    state, _ = problem.loop(make)(state, [0.1] * 4)
    assert jp.metrics.counts(state.mask) == (N // 2, N)
    with pytest.raises(ValueError, match=r"the optimizer holds a mask itself, so there would be"):
        problem.state(make, mask=jp.masks.dense(problem.params()))
    with pytest.raises(ValueError, match=r"imp prunes by itself.*jaxprune.training.fit"):
        jp.training.imp(
            problem.state(make),
            problem.loop(make),
            evaluate=problem.evaluate,
            pretraining=optax.constant_schedule(0.1),
            pretraining_steps=4,
            sparsity=0.5,
            retraining_steps=2,
        )


def test_without_a_mask():
    state = problem.state(masked=False)
    assert not state.is_masked
    state, _ = problem.loop()(state, [0.1] * 2)
    with pytest.raises(ValueError, match="there is no mask"):
        _ = state.mask
