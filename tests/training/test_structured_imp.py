"""Iterative structured pruning from end to end: small networks, records, checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.training import Checkpoints, Preempted
from tests.training import problem
from tests.training.checkpointed import after, assert_equal, loud_when_collected

T, N = 24, 8


def loss_fn(params, model_state, batch, key):
    """With a model state that has the channels, and dropout that the key decides."""
    hidden = jax.nn.relu(
        jnp.dot(batch["x"], params["first"]["kernel"]) + params["first"]["bias"][None]
    )
    average = 0.9 * model_state["stats"]["mean"] + 0.1 * hidden.mean(0)
    out = jnp.dot(hidden - 0.1 * average[None], params["last"]["kernel"])
    out = out + params["last"]["bias"][None]
    losses = optax.softmax_cross_entropy_with_integer_labels(out, batch["y"])
    return jnp.mean(losses), ({"stats": {"mean": average}}, {})


def eval_fn(params, model_state, batch):
    hidden = jax.nn.relu(
        jnp.dot(batch["x"], params["first"]["kernel"]) + params["first"]["bias"][None]
    )
    hidden = hidden - 0.1 * model_state["stats"]["mean"][None]
    out = jnp.dot(hidden, params["last"]["kernel"]) + params["last"]["bias"][None]
    correct = (jnp.argmax(out, -1) == batch["y"]).astype(jnp.float32)
    return {"accuracy": (jnp.sum(correct * batch["weight"]), jnp.sum(batch["weight"]))}


def state():
    return jp.training.TrainState.create(
        problem.params(),
        problem.sgd,
        model_state={"stats": {"mean": jnp.zeros(16)}},
        key=jax.random.key(1),
    )


def build(shrink):
    step = jp.training.make_train_step(shrink(loss_fn), problem.sgd)
    train = jp.training.make_loop(step, problem.batch_at, chunk_steps=4)
    return train, jp.training.make_evaluate(shrink(eval_fn), problem.DATA, batch_size=64)


def run(checkpoints=None, build=build, **options):
    settings = {
        "apply": loss_fn,
        "inputs": (problem.batch_at(0), jax.random.key(0)),
        "pretraining": optax.linear_schedule(0.1, 0.01, T),
        "pretraining_steps": T,
        "sparsity": 0.75,
        "cycles": 2,
        "retraining_steps": N,
        "checkpoints": checkpoints,
    }
    return jp.training.structured_imp(state(), build, **{**settings, **options})


def assert_same(a, b):
    assert_equal(a.state, b.state)
    for one, other in zip(a.records, b.records, strict=True):
        assert one.left == other.left
        assert one.evaluation == other.evaluation
        assert one.evaluation_pruned == other.evaluation_pruned
        assert one.discount == other.discount
        np.testing.assert_array_equal(one.learning_rates, other.learning_rates)


@pytest.fixture(scope="module")
def undisturbed():
    return run()


def test_a_run_ends_in_a_small_network(undisturbed):
    result = undisturbed
    left = [record.left for record in result.records]
    assert [x.widths["first/kernel"] for x in left] == [16, 8, 4]
    # Of each hidden unit: 6 weights, a bias, 3 weights behind it; and the three last biases.
    assert [x.parameters for x in left] == [16 * 10 + 3, 8 * 10 + 3, 4 * 10 + 3]
    assert [x.macs for x in left] == [32 * n * 9 for n in (16, 8, 4)]
    assert jax.tree.map(jnp.shape, result.state.params) == {
        "first": {"kernel": (6, 4), "bias": (4,)},
        "last": {"kernel": (4, 3), "bias": (3,)},
    }
    assert result.state.model_state["stats"]["mean"].shape == (4,)
    assert [r.nonzero for r in result.records] == [144, 72, 36]
    assert [r.pruned_fraction for r in result.records] == [0, 0.5, 0.5]
    assert result.records[-1].sparsity == 0.75
    assert result.records[-1].evaluation["accuracy"] > 0.6
    assert int(result.state.step) == T + 2 * N


def test_what_is_returned_is_the_masked_network(undisturbed):
    result = undisturbed
    variables = {"params": result.state.params, "model_state": result.state.model_state}
    whole = jp.structured.expand(variables, result.groups, result.masks)
    assert whole["params"]["first"]["kernel"].shape == (6, 16)
    batch, key = problem.batch_at(3), jax.random.key(2)
    small = jax.jit(result.shrink(loss_fn))(
        result.state.params, result.state.model_state, batch, key
    )
    masked = loss_fn(whole["params"], whole["model_state"], batch, key)
    np.testing.assert_allclose(small[0], masked[0], rtol=1e-6)
    mean = masked[1][0]["stats"]["mean"]
    np.testing.assert_allclose(small[1][0]["stats"]["mean"], mean[mean != 0], rtol=1e-6)


def test_the_lowest_go_and_the_discount_is_that_of_the_norms(undisturbed):
    """The first prune by hand: from the dense state, which a run without retraining ends in."""
    seen = {}

    def scores(groups, variables):
        seen.setdefault("variables", []).append(jax.device_get(variables))
        return jp.structured.magnitude(groups, variables)

    result = run(scores=scores)
    _, dense, after_one = seen["variables"]  # before the run it is tried, too
    kernel, params = dense["params"]["first"]["kernel"], dense["params"]
    order = np.argsort(np.abs(kernel).sum(0), kind="stable")
    gone = order[:8]
    assert not after_one["params"]["first"]["kernel"][:, gone].any()
    assert after_one["params"]["first"]["kernel"][:, order[8:]].all()
    squares = [
        (params["first"]["kernel"][:, gone] ** 2).sum(),
        (params["first"]["bias"][gone] ** 2).sum(),
        (params["last"]["kernel"][gone] ** 2).sum(),
    ]
    total = sum((x**2).sum() for x in jax.tree.leaves(params))
    d = np.sqrt(sum(squares) / total) / np.sqrt(0.5)
    assert result.records[1].discount == pytest.approx(min(1, max(d, N / T)), rel=1e-5)
    assert_same(result, undisturbed)


@loud_when_collected
@pytest.mark.parametrize("chunks", [8, 9, 3])
def test_a_run_that_was_stopped_ends_as_if_it_never_was(tmp_path, undisturbed, chunks):
    """Stopped in the first cycle, in the second, and in dense training."""
    folder = tmp_path / "run"
    with pytest.raises(Preempted):
        run(Checkpoints(folder, every=3, stop=after(chunks)))
    assert_same(run(Checkpoints(folder, resume=True)), undisturbed)


def test_an_ended_run_is_returned(tmp_path, undisturbed):
    run(Checkpoints(tmp_path / "run", every=100))
    again = run(Checkpoints(tmp_path / "run", resume=True))
    assert_same(again, undisturbed)
    assert_equal(again.masks, undisturbed.masks)


@pytest.mark.parametrize(
    "options",
    [
        {"rewind": 4, "schedule": "lrw"},
        {"optimizer_state": "keep"},
        {"optimizer_state": "fresh", "schedule": "llr"},
    ],
)
def test_rewinding_and_optimizer_states_resume(tmp_path, options):
    whole = run(**options)
    with pytest.raises(Preempted):
        run(Checkpoints(tmp_path / "run", every=3, stop=after(12)), **options)
    assert_same(run(Checkpoints(tmp_path / "run", resume=True), **options), whole)


def test_rewinding_goes_back_to_the_cut_snapshot():
    result = run(
        rewind=0,
        schedule="lrw",
        retraining_steps=1,
        cycles=1,
        sparsity=0.5,
        pretraining=optax.constant_schedule(1e-30),  # too small to change a weight
    )
    first = problem.params()["first"]["kernel"]
    kept = np.asarray(result.masks["params"]["first"]["kernel"])[0]
    np.testing.assert_array_equal(result.state.params["first"]["kernel"], first[:, kept])


def test_an_iteration_by_ratios_keeps_what_it_must():
    def select(groups, scores, sparsity):
        allocation = jp.structured.ratios({"params/first/kernel": sparsity})
        return jp.structured.select(groups, scores, allocation=allocation)

    assert run(select=select).records[-1].left.widths == {"first/kernel": 4}


def test_errors():
    def back(groups, scores, sparsity):
        kept = jp.structured.select(groups, scores, sparsity)
        return kept if sparsity == 0.5 or np.isfinite(scores[0]).all() else [~k for k in kept]

    with pytest.raises(ValueError, match="an earlier cycle removed"):
        run(select=back)
    with pytest.raises(ValueError, match="no channel of this network can be removed"):
        run(apply=lambda params, state, batch, key: params)
    with pytest.raises(ValueError, match="there is no parameter 'nothing'"):
        run(select=lambda g, s, x: jp.structured.select(g, s, x, skip=["nothing"]))
    with pytest.warns(UserWarning, match="cycle 1 removes no channel"):
        run(select=lambda g, s, x: jp.structured.select(g, s, 0.0), cycles=1)
