"""IMP and BIMP from end to end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.training import problem

T, N = 120, 30
PRETRAINING = optax.piecewise_constant_schedule(0.2, {60: 0.1, 90: 0.1})


def imp(train=None, state=None, **options):
    settings = {
        "evaluate": problem.evaluate,
        "pretraining": PRETRAINING,
        "pretraining_steps": T,
        "sparsity": 0.9,
        "cycles": 3,
        "retraining_steps": N,
    }
    return jp.training.imp(
        problem.state() if state is None else state,
        train or problem.loop(),
        **{**settings, **options},
    )


def fresh_loop():
    """A loop that nothing else has used: its compilations can be counted."""
    return jp.training.make_loop(problem.step(), problem.batch_at)


def zeros(params):
    return sum(int((np.asarray(params[k]["kernel"]) == 0).sum()) for k in ("first", "last"))


def test_a_whole_run():
    train, told = fresh_loop(), []
    result = imp(train, on_phase=told.append)
    assert told == list(result.records)
    assert [r.cycle for r in result.records] == [0, 1, 2, 3]
    n = 6 * 16 + 16 * 3
    for record, target in zip(result.records[1:], jp.schedules.imp_sparsities(0.9, 3), strict=True):
        assert record.nonzero == n - round(target * n)
        assert record.prunable == n
        assert record.sparsity == 1 - record.nonzero / n
        before = result.records[record.cycle - 1]
        assert record.pruned_fraction == 1 - record.nonzero / before.nonzero
        assert record.stability == pytest.approx(
            record.evaluation_pruned["accuracy"] / before.evaluation["accuracy"]
        )
        assert 0 < record.discount <= 1
        assert record.first_step == T + (record.cycle - 1) * N
    assert result.records[0].evaluation["accuracy"] > 0.8
    assert result.records[-1].evaluation["accuracy"] > 0.6
    assert zeros(result.state.params) == round(0.9 * n)
    assert int(result.state.step) == T + 3 * N
    assert train.compiled._cache_size() == 1, "one compilation serves all phases"


def test_masks_are_nested():
    masks = []
    state = problem.state()
    train = problem.loop()

    def evaluate(state):
        masks.append(jax.device_get(state.mask))
        return problem.evaluate(state)

    imp(train, state, evaluate=evaluate)
    for old, new in itertools.pairwise(masks):
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            assert not np.any(b & ~a)


def test_the_rates_are_those_of_the_schedules():
    result = imp()
    rates = result.records[0].learning_rates
    np.testing.assert_allclose(rates, [0.2] * 60 + [0.02] * 30 + [0.002] * 30, rtol=1e-6)
    for record in result.records[1:]:
        schedule = jp.schedules.allr(
            PRETRAINING, pretraining_steps=T, retraining_steps=N, discount=record.discount
        )
        np.testing.assert_array_equal(record.learning_rates, schedule(jnp.arange(N)))


def test_the_discount_is_that_of_the_whole_parameter_tree():
    dense = imp(cycles=1, retraining_steps=1).records  # the state right after the dense phase
    trained, _ = problem.loop()(problem.state(), dense[0].learning_rates)
    pruned, _ = jp.prune(trained.params, 0.9)
    n = dense[1].prunable
    d = jp.schedules.allr_discount(
        trained.params,
        pruned,
        pruned_fraction=round(0.9 * n) / n,
        pretraining_steps=T,
        retraining_steps=1,
    )
    assert dense[1].discount == pytest.approx(float(d), rel=1e-6)


def test_every_schedule_runs_from_the_one_compilation():
    train = fresh_loop()
    for schedule in ("allr", "ft", "lrw", "slr", "clr", "llr"):
        result = imp(train, schedule=schedule, warmup=None)
        record = result.records[1]
        assert (record.discount is None) == (schedule != "allr")
        expected = jp.schedules.retraining(
            schedule,
            PRETRAINING,
            pretraining_steps=T,
            retraining_steps=N,
            discount=record.discount,
        )
        np.testing.assert_array_equal(record.learning_rates, np.asarray(expected(jnp.arange(N))))
    assert train.compiled._cache_size() == 1


def test_twice_is_the_same_and_the_state_stays_usable():
    state = problem.state()
    first, second = imp(state=state), imp(state=state)
    for a, b in zip(
        jax.tree.leaves(first.state.params), jax.tree.leaves(second.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_trained_state_skips_the_dense_phase():
    whole = imp()
    dense, _ = problem.loop()(problem.state(), whole.records[0].learning_rates)
    rest = imp(state=dense, pretrain=False)
    assert len(rest.records[0].learning_rates) == 0
    assert rest.records[0].evaluation == whole.records[0].evaluation
    for a, b in zip(
        jax.tree.leaves(whole.state.params), jax.tree.leaves(rest.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_total_is_split_with_the_remainder_last():
    result = imp(retraining_steps=None, total_retraining_steps=100)
    assert [len(r.learning_rates) for r in result.records] == [T, 33, 33, 34]


def test_sparsities_can_be_given():
    targets = jp.schedules.twenty_percent_sparsities(0.6)
    result = imp(sparsities=targets, sparsity=0.6)
    n = result.records[0].prunable
    assert [r.nonzero for r in result.records[1:]] == [n - round(s * n) for s in targets]


def test_weight_rewinding_restores_the_snapshot_under_the_mask():
    seen = []
    train = problem.loop()

    def run(state, rates, on_chunk, stop=None):
        seen.append(jax.device_get(state))
        return train.run(state, rates, on_chunk, stop)

    result = imp(train._replace(run=run), rewind=10, schedule="lrw", retraining_steps=T - 10)
    expected, _ = problem.loop()(problem.state(), result.records[0].learning_rates[:10])
    # Calls: 10 dense steps, the other dense steps, then one a cycle.
    assert len(seen) == 5
    for start in seen[2:]:
        mask = jp.transforms.get_mask(start.opt_state)
        rewound = jp.apply_mask(jax.tree.map(jnp.asarray, expected.params), mask)
        for a, b in zip(jax.tree.leaves(start.params), jax.tree.leaves(rewound), strict=True):
            np.testing.assert_array_equal(a, b)
        trace, snapshot = (
            optax.tree.get(s.opt_state, "trace")["first"]["kernel"] for s in (start, expected)
        )
        np.testing.assert_array_equal(trace, snapshot)
    np.testing.assert_array_equal(
        result.records[1].learning_rates, result.records[0].learning_rates[10:]
    )


def test_rewinding_to_a_given_state():
    early, _ = problem.loop()(problem.state(), np.full(10, 0.2))
    dense, _ = problem.loop()(problem.state(), np.full(T, 0.1))
    starts = []
    train = problem.loop()

    def run(state, rates, on_chunk, stop=None):
        starts.append(jax.device_get(state))
        return train.run(state, rates, on_chunk, stop)

    imp(train._replace(run=run), dense, pretrain=False, rewind=early, cycles=1)
    rewound = jp.apply_mask(early.params, jp.transforms.get_mask(starts[-1].opt_state))
    for a, b in zip(jax.tree.leaves(starts[-1].params), jax.tree.leaves(rewound), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("mode", "reset_at"), [("fresh_once", [1]), ("fresh", [1, 2, 3]), ("keep", [])]
)
def test_the_optimizer_state_is_kept_or_fresh(mode, reset_at):
    starts = []
    train = problem.loop()

    def run(state, rates, on_chunk, stop=None):
        trace = optax.tree.get(state.opt_state, "trace")
        starts.append(float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(trace))))
        return train.run(state, rates, on_chunk, stop)

    imp(train._replace(run=run), optimizer_state=mode)
    assert [cycle for cycle in (1, 2, 3) if starts[cycle] == 0] == reset_at


def test_recalibration_comes_before_the_evaluation_after_pruning():
    calls = []

    def recalibrate(state):
        calls.append("recalibrate")
        return state

    def evaluate(state):
        calls.append("evaluate")
        return problem.evaluate(state)

    imp(evaluate=evaluate, recalibrate=recalibrate, cycles=1)
    # The first call only asks for the names of the metrics, before anything is trained.
    assert calls == ["evaluate", "evaluate", "recalibrate", "evaluate", "evaluate"]


def test_random_scores_and_uniform_allocation():
    result = imp(
        scores=lambda params: jp.scores.random(jax.random.key(5), params),
        allocation=jp.masks.uniform(),
    )
    for row in jp.metrics.sparsity_per_leaf(result.state.mask):
        assert row.kept == row.size - round(0.9 * row.size)


def test_any_pytree():
    first, last = problem.params().values()
    params = [(first["kernel"], first["bias"]), (last["kernel"], last["bias"])]

    def loss_fn(params, model_state, batch, key):
        (w, b), (v, c) = params
        hidden = jnp.tanh(jnp.dot(batch["x"], w) + b[None])
        out = jnp.dot(hidden, v) + c[None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, batch["y"])), (
            model_state,
            {},
        )

    step = jp.training.make_train_step(loss_fn, problem.sgd)
    train = jp.training.make_loop(step, problem.batch_at)
    state = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(0))
    result = imp(train, state, evaluate=lambda state: {}, cycles=2, sparsity=0.5)
    assert jp.sparsity(result.state.mask) == 0.5
    assert result.records[1].stability is None


def test_bimp_spends_its_budget_exactly():
    result = jp.training.bimp(
        problem.state(),
        problem.loop(),
        evaluate=problem.evaluate,
        learning_rate=0.2,
        budget=200,
        pretraining_steps=99,
        sparsity=0.9,
        cycles=3,
    )
    assert [len(r.learning_rates) for r in result.records] == [99, 33, 33, 35]
    assert int(result.state.step) == 200
    linear = 0.2 * (1 - np.arange(99) / 99)
    np.testing.assert_allclose(result.records[0].learning_rates, linear, rtol=1e-5)
    for record in result.records[1:]:
        length = len(record.learning_rates)
        schedule = jp.schedules.allr(
            optax.linear_schedule(0.2, 0.0, 99),
            pretraining_steps=99,
            retraining_steps=length,
            discount=record.discount,
        )
        np.testing.assert_array_equal(record.learning_rates, schedule(jnp.arange(length)))


def never(*args):
    raise AssertionError("training started")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, r"in \[0, 1\); got 1.0"),
        ({"sparsity": 95}, ValueError, r"For 95 % pass 0.95"),
        ({"schedule": "magic"}, ValueError, r"no retraining schedule 'magic'.*allr"),
        ({"retraining_steps": 0}, ValueError, "retraining_steps is 0"),
        ({"retraining_steps": None}, ValueError, "give either retraining_steps"),
        ({"total_retraining_steps": 5}, ValueError, "give either retraining_steps"),
        ({"retraining_steps": T + 1, "schedule": "lrw"}, ValueError, "there is no such window"),
        (
            {"retraining_steps": None, "total_retraining_steps": 2},
            ValueError,
            "less than one step for each of 3 cycles",
        ),
        ({"cycles": 0}, ValueError, "cycles"),
        ({"sparsities": [0.5, 0.4, 0.9]}, ValueError, "must rise"),
        ({"sparsities": [0.5]}, ValueError, "must end at sparsity=0.9"),
        ({"optimizer_state": "new"}, ValueError, "'fresh_once', 'fresh' or 'keep'; got 'new'"),
        ({"rewind": T}, ValueError, r"pretraining step in \[0, 120\); got 120"),
        ({"rewind": 5, "pretrain": False}, ValueError, "pretrain=False skips that phase"),
        ({"rewind": 5, "optimizer_state": "fresh"}, ValueError, "contradicts rewind"),
        ({"allocation": "global"}, TypeError, "allocation is a function"),
        ({"metric": "acuracy"}, ValueError, r"no metric 'acuracy'; it returns \['accuracy'\]"),
        ({"rewind": 0.5}, TypeError, "rewind is a pretraining step or a TrainState"),
        ({"scores": {"w": 1}}, TypeError, "scores is a function"),
        (
            {"scores": lambda p: jp.scores.magnitude(p, where=lambda path, x: "first/k" in path)},
            ValueError,
            "disagree on what is prunable, first at 'last/kernel'",
        ),
        ({"pretraining": 0.1}, TypeError, "constant_schedule"),
        ({"peak": 0.1}, ValueError, "peak"),
    ],
)
def test_bad_input_stops_before_any_training(options, error, message):
    train = problem.loop()._replace(run=never)
    with pytest.raises(error, match=message):
        imp(train, **options)


def test_a_target_below_the_state_stops_before_any_training():
    state = problem.state(mask=jp.prune(problem.params(), 0.95)[1])
    for allocation in (jp.masks.globally(), jp.masks.uniform()):
        with pytest.raises(ValueError, match="but `within` has removed"):
            imp(problem.loop()._replace(run=never), state, cycles=1, allocation=allocation)
    nothing = jax.tree.map(jnp.zeros_like, state.mask)
    with pytest.raises(ValueError, match="keeps no weight"):
        imp(problem.loop()._replace(run=never), problem.state(mask=nothing))


def test_a_state_to_rewind_to_must_be_of_the_same_network():
    other = {"w": jnp.ones((2, 2))}
    early = jp.training.TrainState.create(other, problem.sgd, key=jax.random.key(0))
    train = problem.loop()._replace(run=never)
    with pytest.raises(ValueError, match="the state to rewind to is of another tree"):
        imp(train, rewind=early)
    plain = jp.training.TrainState.create(
        problem.params(), lambda lr: optax.sgd(lr), key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match="the state to rewind to has another opt_state"):
        imp(train, rewind=plain)


def test_a_dense_run_can_have_sparsity_zero():
    result = imp(sparsity=0.0, cycles=2)  # warnings are errors here
    assert result.records[-1].sparsity == 0.0
    assert jp.sparsity(result.state.mask) == 0


def test_schedule_free_is_evaluated_sparse_right_after_a_prune():
    def make_optimizer(learning_rate):
        return optax.contrib.schedule_free(optax.sgd(learning_rate), learning_rate, b1=0.9)

    @jax.jit
    def eval_params(state):
        inner = state.opt_state.inner_state.inner_state
        return optax.contrib.schedule_free_eval_params(inner, state.params)

    seen = []

    def evaluate(state):
        seen.append((jax.device_get(eval_params(state)), jax.device_get(state.mask)))
        return {}

    with jax.numpy_dtype_promotion("standard"):
        state = problem.state(make_optimizer)
        imp(problem.loop(make_optimizer), state, evaluate=evaluate, optimizer_state="keep")
    assert len(seen) == 8  # once before training, too
    for params, mask in seen[1:]:
        for name in ("first", "last"):
            assert not np.any(params[name]["kernel"][~mask[name]["kernel"]])


def test_batch_statistics_travel_and_are_recalibrated():
    """A model with batch normalisation, from end to end."""

    def loss_fn(params, model_state, batch, key):
        x = batch["x"]
        mean, moved = jnp.mean(x, axis=0), model_state["mean"]
        centred = {**batch, "x": x - mean[None]}
        loss, (_, metrics) = problem.loss_fn(params, None, centred, key)
        return loss, ({"mean": 0.9 * moved + 0.1 * mean}, metrics)

    def eval_fn(params, model_state, batch):
        centred = {**batch, "x": batch["x"] - model_state["mean"][None]}
        return problem.eval_fn(params, None, centred)

    train = jp.training.make_loop(
        jp.training.make_train_step(loss_fn, problem.sgd), problem.batch_at
    )
    statistics = {"mean": jnp.zeros(problem.FEATURES)}
    result = imp(
        train,
        problem.state(model_state=statistics),
        evaluate=jp.training.make_evaluate(eval_fn, problem.DATA, batch_size=64),
        recalibrate=jp.training.make_recalibrate(loss_fn, problem.batch_at, steps=5),
        rewind=10,
        schedule="lrw",
        sparsity=0.5,
    )
    assert result.records[-1].evaluation["accuracy"] > 0.7
    truth = np.mean(problem.INPUTS, axis=0)
    np.testing.assert_allclose(result.state.model_state["mean"], truth, atol=0.3)
    assert train.compiled._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.slow), False])
def test_eight_devices_compile_once_too(compiled, caplog):
    step = problem.step(mesh=problem.mesh())
    train = jp.training.make_loop(step, problem.batch_at, compile_chunks=compiled)
    # From the log: the cache of a jitted function may hold two entries for one compilation.
    with jax.log_compiles():
        imp(train, optimizer_state="fresh", cycles=2)
    name = "many" if compiled else "one"
    compilations = [m for m in caplog.messages if f"Finished XLA compilation of jit({name})" in m]
    assert len(compilations) == 1 + compiled, "chunks: whole ones, and what is left over"


def test_parameters_that_are_not_finite_stop_before_any_training():
    state = problem.state()
    bad = {**state.params, "first": {**state.params["first"], "bias": jnp.full(16, jnp.inf)}}
    with pytest.raises(ValueError, match="parameters at 'first/bias' hold inf"):
        imp(problem.loop()._replace(run=never), state._replace(params=bad))


def test_divergence_is_named_with_its_step():
    message = (
        r"training diverged.*NaN.* at step \d+ \(step \d+ of the first phase, learning rate 1e\+30"
    )
    with pytest.raises(FloatingPointError, match=message):
        imp(pretraining=optax.constant_schedule(1e30))


def test_a_collapsed_layer_stops_the_run():
    tiny = lambda params: {  # noqa: E731
        name: {"kernel": jnp.abs(leaf["kernel"]) * (1e-9 if name == "last" else 1), "bias": None}
        for name, leaf in params.items()
    }
    with pytest.raises(ValueError, match="no weight is left of 'last/kernel'"):
        imp(scores=tiny)


def test_a_cycle_that_removes_nothing_warns():
    with pytest.warns(UserWarning, match="removes nothing"):
        imp(sparsity=0.001, cycles=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 100, "pretraining_steps": 99}, ValueError, "leaves 1 to retrain in 3 cycles"),
        ({"budget": 99.5}, TypeError, "budget must be a static Python integer"),
        ({"learning_rate": None}, TypeError, "learning_rate must be a static number"),
        ({"schedule": "slr"}, TypeError, r"bimp fixes \['schedule'\] itself"),
        ({"pretraining": PRETRAINING}, TypeError, "bimp fixes"),
    ],
)
def test_bad_budgets(options, error, message):
    settings = {"learning_rate": 0.1, "budget": 100, "pretraining_steps": 50}
    with pytest.raises(error, match=message):
        jp.training.bimp(
            problem.state(),
            problem.loop()._replace(run=never),
            evaluate=problem.evaluate,
            sparsity=0.9,
            cycles=3,
            **{**settings, **options},
        )


def test_layers_that_are_stacked_in_a_leaf():
    def loss_fn(params, model_state, batch, key):
        del key
        x = batch["x"]
        for kernel in params["layers"]["kernel"]:
            x = jnp.tanh(x @ kernel)
        return jnp.mean(x**2), (model_state, {})

    params = {"layers": {"kernel": jax.random.normal(jax.random.key(0), (3, 6, 6))}}
    state = jp.training.TrainState.create(params, problem.sgd, key=jax.random.key(1))
    step = jp.training.make_train_step(loss_fn, problem.sgd)
    result = jp.training.imp(
        state,
        jp.training.make_loop(step, problem.batch_at, chunk_steps=4),
        evaluate=lambda state: {},
        pretraining=optax.constant_schedule(0.1),
        pretraining_steps=2,
        sparsity=0.75,
        cycles=2,
        retraining_steps=2,
        allocation=jp.masks.uniform(),
        stacked={"layers/.*": 0},
    )
    kept = np.asarray(result.state.mask["layers"]["kernel"]).sum(axis=(1, 2))
    assert kept.tolist() == [9, 9, 9]
    assert result.records[-1].info.paths == tuple(f"layers/kernel[{i}]" for i in range(3))
