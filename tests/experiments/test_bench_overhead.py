"""The benchmark of training steps, at sizes that take no time."""

import csv
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import jaxprune as jp
from experiments.bench.common import pairs
from experiments.bench.overhead import __main__ as overhead
from experiments.bench.overhead import optimizers, problems, report

pytestmark = pytest.mark.usefixtures("jax_defaults")

SIZES = problems.Sizes(128, 8, 2, 2, 4, 8)


def settings(tmp_path, **options):
    small = {"models": ("mlp",), "block_seconds": 0.0, "updates": 2}
    return overhead.Settings(**{**small, "out": tmp_path / "out" / "overhead.json", **options})


def run(tmp_path, **options):
    given = settings(tmp_path, **options)
    table = overhead.run(given, console=Console(file=io.StringIO()))
    return table, json.loads(given.out.read_text())


@pytest.fixture
def tiny(monkeypatch):
    """Problems of sizes that take no time."""
    monkeypatch.setattr(problems, "ON_CPU", SIZES)


def pairs_of(ratio, *, dense=0.010):
    return pairs.Pairs((dense,) * 25, (dense * ratio,) * 25)


def row(method="fixed_mask", **options):
    given = {
        "weights": 1000,
        "leaves": 2,
        "copies": 3,
        "pairs": pairs_of(1.02),
        "updates": None,
        "temporary_bytes": {"dense": 500, "fixed_mask": 3548, "gmp": 3549},
        "held_bytes": {"dense": 500, "fixed_mask": 4548, "gmp": 4549},
        "bytes_per_second": 1e9,
        "interval": 100,
    }
    return report.row("mlp", "small", method, **{**given, **options})


# The ratio.


def test_a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians():
    base = tuple(float(i) for i in range(1, 26))
    other = tuple(2 * x for x in base[:13]) + (1.0,) * 12
    assert pairs.Pairs(base, other).ratio.median == 2.0


# The order.


def test_pairs_are_interleaved_in_random_order_with_carried_state():
    order = []

    def step(name, carry):
        order.append((name, carry))
        return carry + 1

    runners = {
        name: pairs.Runner(lambda c, name=name: step(name, c), jnp.asarray(0)) for name in "abc"
    }

    def once(seed):
        order.clear()
        return pairs.interleaved("a", runners, pairs=40, block_seconds=0.0, seed=seed)

    times, carries = once(0)
    first = [name for name, _ in order]
    assert [len(times[name].base) for name in "bc"] == [40, 40]
    # Two untimed steps of each, three of the base to find the length of a block.
    assert first[:9] == list("aabbccaaa")
    both = list(zip(first[9::2], first[10::2], strict=True))
    assert len(both) == 80
    assert all(set(pair) in ({"a", "b"}, {"a", "c"}) for pair in both)
    for (
        name
    ) in "bc":  # each side begins in about half of the pairs, and each pair in half the rounds
        begins = sum(pair[0] == "a" for pair in both if name in pair)
        assert 10 <= begins <= 30
        assert 10 <= sum(name in pair for pair in both[::2]) <= 30
    for name in "abc":
        seen = [int(carry) for n, carry in order if n == name]
        assert seen == list(range(len(seen)))
        assert int(carries[name]) == len(seen)
    once(0)
    assert [name for name, _ in order] == first
    once(1)
    assert [name for name, _ in order] != first


def test_blocks_are_as_long_as_asked(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pairs.time, "perf_counter", lambda: clock[0])

    def runner(seconds):
        def step(carry):
            clock[0] += seconds
            return carry + 1

        return pairs.Runner(step, jnp.asarray(0))

    runners = {"a": runner(0.25), "b": runner(0.5)}
    times, carries = pairs.interleaved("a", runners, pairs=3, block_seconds=1.0, seed=0)
    assert times["b"].base == (0.25,) * 3
    assert times["b"].other == (0.5,) * 3
    assert int(carries["b"]) == 2 + 3 * 4


def test_single_steps_begin_from_the_same_carry_each_time():
    seen = []

    def step(carry):
        seen.append(int(carry))
        return carry + 1

    runner = pairs.Runner(step, jnp.asarray(5))
    times, result = pairs.alone(runner, runner._replace(carry=jnp.asarray(7)), runs=3)
    assert seen == [5, 7] * 4  # the first pair is not timed
    assert len(times.base) == len(times.other) == 3
    assert int(result) == 8


# The steps.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "inner"),
    [
        ("gmp", "sgd"),
        *(
            pytest.param(method, inner, marks=pytest.mark.slow)
            for method, inner in [*((m, "sgd") for m in optimizers.METHODS), ("gmp", "adamw")]
            if (method, inner) != ("gmp", "sgd")
        ),
    ],
)
def test_masks_rest_between_updates_and_move_when_due(method, inner):
    problem = problems.PROBLEMS["mlp"](SIZES, jax.random.key(0))
    start = optimizers.make(method, inner, problem.params, 0.9)
    step = jax.jit(optimizers.training_step(problem, start.tx))
    carry = optimizers.carry_of(problem, start.opt_state)
    mask = jp.transforms.get_mask(carry.opt_state)
    assert jp.sparsity(mask) == pytest.approx(0.9, abs=1e-3)
    kernel = np.asarray(carry.params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(kernel != 0, mask["Dense_0"]["kernel"])
    for _ in range(3):
        carry = step(carry, problem.batch)
    for a, b in zip(
        jax.tree.leaves(mask),
        jax.tree.leaves(jp.transforms.get_mask(carry.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    if method == optimizers.FIXED_MASK:
        assert start.due is None
        return
    due = optimizers.carry_of(problem, start.due)
    before = jp.transforms.get_mask(due.opt_state)
    after = jp.transforms.get_mask(step(due, problem.batch).opt_state)
    assert jp.sparsity(after) == pytest.approx(0.9, abs=1e-3)
    assert any(
        bool((a != b).any())
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


@pytest.mark.slow
def test_the_dense_step_is_the_optimizer_alone():
    problem = problems.PROBLEMS["mlp"](SIZES, jax.random.key(0))
    start = optimizers.make("dense", "sgd", problem.params, 0.9)
    assert start.due is None
    assert not jp.transforms.has_mask(start.opt_state)
    carry = optimizers.carry_of(problem, start.opt_state)
    step = jax.jit(optimizers.training_step(problem, start.tx))
    got = step(carry, problem.batch).params["Dense_2"]["kernel"]
    grads = jax.grad(lambda p: problem.loss(p, {}, problem.batch)[0])(problem.params)
    weight = np.asarray(problem.params["Dense_2"]["kernel"], np.float64)
    grad = np.asarray(grads["Dense_2"]["kernel"], np.float64) + 1e-4 * weight
    np.testing.assert_allclose(got, weight - 1e-3 * (grad + 0.9 * grad), rtol=1e-5, atol=1e-8)


def test_the_first_step_does_not_delete_the_problem():
    problem = problems.PROBLEMS["mlp"](SIZES, jax.random.key(0))
    start = optimizers.make("fixed_mask", "sgd", problem.params, 0.5)
    carry = optimizers.carry_of(problem, start.opt_state)
    jax.jit(lambda c: jax.tree.map(lambda x: ~x if x.dtype == bool else -x, c), donate_argnums=0)(
        carry
    )
    assert not any(x.is_deleted() for x in jax.tree.leaves((problem.params, start.opt_state)))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mlp", 784 * 1024 + 1024**2 + 1024 * 10),
        # 3x3 convolutions: the first, three stages of six; the last layer.
        (
            "resnet20",
            9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 64 * 10,
        ),
        ("transformer", 2 * 12 * 256**2 + 256 * 256),
    ],
)
def test_prunable_weights_of_the_default_sizes(name, weights):
    def prunable(key):
        return jp.scores.magnitude(problems.PROBLEMS[name](problems.ON_CPU, key).params)

    shapes = jax.eval_shape(prunable, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == weights


@pytest.mark.slow
def test_the_transformer_is_causal_and_has_two_blocks():
    problem = problems.PROBLEMS["transformer"](
        SIZES._replace(transformer_width=128), jax.random.key(0)
    )
    assert sum(name.startswith("block") for name in problem.params) == 2
    model = problems.transformer(SIZES._replace(transformer_width=128))
    tokens = problem.batch
    assert tokens.shape == (2, 5)
    other = tokens.at[:, 3].set((tokens[:, 3] + 1) % problems.VOCABULARY)

    def logits(tokens):
        return np.asarray(model.apply({"params": problem.params}, tokens, False))

    a, b = logits(tokens[:, :4]), logits(other[:, :4])
    np.testing.assert_array_equal(a[:, :-1], b[:, :-1])
    assert not np.array_equal(a[:, -1], b[:, -1])
    loss, _ = problem.loss(problem.params, {}, tokens)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits(tokens[:, :-1])))
    expected = -np.mean(
        [log_probabilities[i, j, tokens[i, j + 1]] for i in range(2) for j in range(4)]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


# The report.


def test_the_bound_is_one_byte_a_weight_over_the_bandwidth():
    # A millisecond of dense step, a million weights, 10 GB/s: a tenth of a millisecond.
    assert report.bound(0.001, 10**6, 1e10) == pytest.approx(1.1)
    # Weight, gradient, momentum, the old mask, the new one read and written: 15 bytes.
    assert report.update_bound(10**6, 3, 4, 1e10) == pytest.approx(1.5e-3)


def test_a_row_holds_what_was_measured():
    r = row(updates=pairs.Pairs((0.010, 0.020, 0.010), (0.020, 0.040, 0.050)))
    assert r["ratio"] == pytest.approx(1.02)
    assert r["temporary_bytes_over_dense"] == 3048
    assert r["held_bytes_over_dense"] == 4048
    assert r["allowed_bytes"] == 1000 + 2 * 1024
    # An update takes 10, 20 or 40 ms more, once in a hundred steps; the dense step takes 10 ms.
    assert r["update_extra_seconds"] == pytest.approx(0.020)
    assert r["ratio_with_updates"] == pytest.approx(1.02 + 0.020 / 100 / 0.010)
    assert r["ratio_bound"] == pytest.approx(1.0001)
    assert r["update_extra_seconds_bound"] == pytest.approx(15e-6)


def test_targets_are_met_up_to_the_limit_and_by_the_lower_end():
    spread = pairs.Pairs((1.0,) * 25, (1.029,) * 13 + (1.2,) * 12)
    rows = [
        row("fixed_mask", pairs=spread),
        row("gmp", pairs=pairs_of(1.031)),
        row("rigl", pairs=pairs_of(3.0)),
    ]
    found = {t["target"]: t for t in report.targets(rows)}
    assert len(found) == 4
    time = found["mlp, fixed_mask: time over dense, lower end"]
    assert time["met"] is True
    assert time["open"] == pytest.approx([1.029, 1.2])  # the interval leaves it open
    assert found["mlp, gmp: time over dense, lower end"]["met"] is False
    # 1 byte for each of 1000 weights and 1 KB for each of two leaves.
    assert found["mlp, fixed_mask: temporary bytes over dense"]["met"] is True
    assert found["mlp, gmp: temporary bytes over dense"]["met"] is False
    nothing = row(temporary_bytes={}, held_bytes={})
    assert [t["met"] for t in report.targets([nothing])] == [True, None]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_files_hold_every_method_and_the_machine(tmp_path):
    table, document = run(tmp_path)
    rows = {r["method"]: r for r in document["results"]}
    assert set(rows) == set(optimizers.METHODS)
    for name, r in rows.items():
        assert r["weights"] == 784 * 8 + 64 + 80
        assert r["leaves"] == 3
        assert r["pairs"] == len(r["block_seconds"]) == len(r["base_block_seconds"]) == 25
        assert r["ratio_low"] <= r["ratio"] <= r["ratio_high"]
        assert r["ratio_bound"] > 1
        ratios = np.divide(r["block_seconds"], r["base_block_seconds"])
        assert r["ratio"] == pytest.approx(np.median(ratios))
        assert (r["update_extra_seconds"] is None) == (name == "fixed_mask")
        assert isinstance(r["temporary_bytes"], int)
        # The state holds a mask, one byte a weight.
        held = r["held_bytes_over_dense"] - r["temporary_bytes_over_dense"]
        assert held == pytest.approx(r["weights"], abs=200)
        assert f"| mlp | {name} |" in table
    assert len(document["targets"]) == 4
    assert document["command"].startswith("python -m experiments.bench.overhead --models mlp")
    assert document["settings"]["mlp_batch"] == 128
    assert set(document["machine"]["versions"]) == {
        "jaxprune",
        "jax",
        "jaxlib",
        "numpy",
        "optax",
        "flax",
    }
    assert document["bytes_per_second"] > 1e8
    assert (tmp_path / "out" / "overhead.md").read_text() == table + "\n"
    written = list(csv.DictReader(io.StringIO((tmp_path / "out" / "overhead.csv").read_text())))
    assert [r["method"] for r in written] == list(optimizers.METHODS)
    assert float(written[0]["ratio"]) == pytest.approx(rows["fixed_mask"]["ratio"])
    assert "block_seconds" not in written[0]
    assert "- mlp: 784-8-8-10, batch 128; 6,416 prunable weights in 3 leaves." in table


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_mask_that_moves_between_updates_stops_the_benchmark(tmp_path, monkeypatch):
    right = optimizers.make

    def make(name, *args):
        start = right(name, *args)
        return start if start.due is None else start._replace(opt_state=start.due)

    monkeypatch.setattr(optimizers, "make", make)
    with pytest.raises(RuntimeError, match="mlp, gmp: the mask moved between mask updates"):
        run(tmp_path, methods=("gmp",))
    assert not (tmp_path / "out" / "overhead.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_an_update_that_does_not_move_the_mask_stops_it(tmp_path, monkeypatch):
    right = optimizers.make
    monkeypatch.setattr(
        optimizers,
        "make",
        lambda *args: (start := right(*args))._replace(due=start.due and start.opt_state),
    )
    with pytest.raises(RuntimeError, match="mlp, gmp: the mask did not move in a mask update"):
        run(tmp_path, methods=("gmp",))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_weight_that_is_not_zero_stops_it(tmp_path, monkeypatch):
    right = optimizers.make

    def make(name, *args):
        start = right(name, *args)
        if name == "dense":
            return start

        def update(updates, state, params=None):
            updates, state = start.tx.update(updates, state, params)
            return optax.tree.add_scale(updates, 1e-3, optax.tree.ones_like(updates)), state

        return start._replace(tx=optax.GradientTransformation(start.tx.init, update))

    monkeypatch.setattr(optimizers, "make", make)
    with pytest.raises(RuntimeError, match="mlp, fixed_mask: a pruned weight is not zero"):
        run(tmp_path, methods=("fixed_mask",))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_transformer_with_adamw(tmp_path):
    _, document = run(tmp_path, models=("transformer",), methods=("fixed_mask",), optimizer="adamw")
    (r,) = document["results"]
    # Of each block the four projections of the attention and two layers; the last layer.
    assert r["leaves"] == 2 * 6 + 1
    assert r["weights"] == 2 * 12 * 8**2 + 8 * 256
    assert "--optimizer adamw" in document["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("vgg",)}, r"unknown name 'vgg' in models\. Known: mlp, resnet20"),
        ({"methods": ("snip",)}, r"unknown name 'snip' in methods\. Known: fixed_mask, gmp, rigl"),
        ({"methods": ()}, "methods is empty"),
        ({"sparsity": 1.0}, r"in \(0, 1\); got 1\.0"),
        ({"pairs": 24}, "pairs is at least 25; got 24"),
        ({"updates": 0}, "updates is at least 1; got 0"),
        ({"block_seconds": math.nan}, "block_seconds is at least 0; got nan"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_measured(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_bad_input_from_a_wrong_mask(tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path / "x.json")]
    assert overhead.main(["--models", "vgg", *out]) == 2
    assert "unknown name 'vgg'" in capsys.readouterr().out

    def run(settings, *, console):
        raise RuntimeError("mlp, gmp: the mask moved")

    monkeypatch.setattr(overhead, "run", run)
    assert overhead.main(out) == 1
    assert "the mask moved" in capsys.readouterr().out


def test_sizes_are_those_of_the_device(monkeypatch):
    assert problems.sizes() == problems.ON_CPU

    class Accelerator:
        platform = "gpu"

    monkeypatch.setattr(jax, "devices", lambda: [Accelerator()])
    assert problems.sizes() == problems.ON_ACCELERATOR
