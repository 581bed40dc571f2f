"""Methods on one matrix: against NumPy, by trying all masks, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import layerwise
from tests.layerwise import oracle

IN, OUT = 12, 5
ALL = sorted(layerwise.METHODS)
NM = jp.masks.nm(2, 4, axis=0)


def problem(seed=0, inputs=IN, outputs=OUT, rows=60):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)) @ (np.eye(inputs) + 0.4 * rng.normal(size=(inputs, inputs)))
    return rng.normal(size=(inputs, outputs)), x.T @ x


def exact(method, kernel, gram, sparsity, **options):
    """Solved in float64, as NumPy arrays [out, in]."""
    with jax.enable_x64(True):
        new, mask = layerwise.solve(
            method, jnp.asarray(kernel), jnp.asarray(gram), sparsity, **options
        )
        assert new.dtype == jnp.float64
        return np.asarray(new).T, np.asarray(mask).T


def relative(kernel, new, gram):
    return float(layerwise.error(jnp.asarray(kernel), jnp.asarray(new), jnp.asarray(gram)))


# Each against its paper.


@pytest.mark.parametrize("name", ["wanda", "ria"])
def test_scores_compare_each_output(name):
    kernel, gram = problem()
    w, norms = np.abs(kernel.T), np.sqrt(np.diag(gram))
    score = w * norms
    if name == "ria":
        score = (w / w.sum(0, keepdims=True) + w / w.sum(1, keepdims=True)) * np.sqrt(norms)
    expected = oracle.per_row(score, 5)  # round(0.4 * 12)
    for given in (gram, np.diag(gram)):
        new, mask = exact(layerwise.METHODS[name](), kernel, given, 0.4)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(new, np.where(expected, kernel.T, 0))


def test_stade_is_the_standard_deviation_and_the_bias_keeps_the_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) + 5 * rng.normal(size=6)
    kernel = rng.normal(size=(6, 3))
    with jax.enable_x64(True):
        gram = layerwise.centred(jnp.asarray(x.T @ x), jnp.asarray(x.mean(0)), 50)
        new, mask = layerwise.solve(layerwise.stade(), jnp.asarray(kernel), gram, 0.5)
        bias = layerwise.bias_correction(kernel, new, x.mean(0))
    np.testing.assert_array_equal(mask.T, oracle.per_row(np.abs(kernel.T) * x.std(0), 3))
    np.testing.assert_allclose(
        (x @ kernel).mean(0), (x @ np.asarray(new) + np.asarray(bias)).mean(0)
    )


@pytest.mark.parametrize(("block", "counts"), [(128, [30]), (5, [12, 13, 5])])
def test_sparsegpt_is_algorithm_1(block, counts):
    kernel, gram = problem()
    new, mask = exact(layerwise.sparsegpt(block=block), kernel, gram, 0.5)
    expected, kept = oracle.sparsegpt(kernel.T, gram, counts, min(block, IN), 0.01)
    assert mask.size - mask.sum() == 30
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(new, expected, atol=1e-9)


@pytest.mark.parametrize("block", [128, 5])
def test_sparsegpt_chooses_groups_when_it_reaches_them(block):
    kernel, gram = problem()
    new, mask = exact(layerwise.sparsegpt(block=block), kernel, gram, None, pattern=NM)
    expected, kept = oracle.sparsegpt(kernel.T, gram, None, IN, 0.01, nm=(2, 4))
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(new, expected, atol=1e-9)


def test_admm_of_a_matrix_of_groups_and_of_each_output():
    kernel, gram = problem()
    rising = [0.5 - 0.5 * (1 - (t + 1) / 15) ** 3 for t in range(15)]
    cubic = [round(IN * s) for s in rising]

    def of_groups(scores, t):
        """What the groups lose in the end, the lowest first."""
        kept = oracle.groups(scores, 2, 4)
        return oracle.smallest(np.where(kept, np.inf, scores), round(IN * OUT * rising[t]))

    for options, sparsity, choose in (
        ({}, 0.5, lambda s, t: oracle.smallest(s, 30)),
        ({"pattern": NM}, None, of_groups),
        (
            {"allocation": jp.masks.per_output(axis=-1)},
            0.5,
            lambda s, t: oracle.per_row(s, cubic[t]),
        ),
    ):
        new, mask = exact(layerwise.admm(), kernel, gram, sparsity, **options)
        expected, kept = oracle.admm(kernel.T, gram, choose)
        np.testing.assert_array_equal(mask, kept)
        np.testing.assert_allclose(new, expected, atol=1e-9)


@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_alps_finds_the_support_and_its_best_weights(sparsity):
    kernel, gram = problem()
    # As many steps of conjugate gradients as there are inputs solve the system.
    new, mask = exact(layerwise.alps(refinements=2 * IN), kernel, gram, sparsity)
    expected, kept = oracle.alps(kernel.T, gram, round(sparsity * IN * OUT))
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(new, expected, atol=1e-7)


@pytest.mark.parametrize("most", [2, 100])
def test_swaps_are_the_best_exchanges(most):
    kernel, gram = problem()
    scores = np.abs(kernel.T) * np.sqrt(np.diag(gram))
    _, mask = exact(layerwise.swaps(most=most), kernel, gram, 0.5)
    start = oracle.per_row(scores, 6)
    expected = oracle.swaps(kernel.T, start, gram, most)
    np.testing.assert_array_equal(mask, expected)
    assert (expected != start).any()
    _, mask = exact(layerwise.swaps(most=most), kernel, gram, None, pattern=NM)
    start = oracle.groups(scores, 2, 4)
    np.testing.assert_array_equal(mask, oracle.swaps(kernel.T, start, gram, most, m=4))


def test_refit_is_least_squares():
    kernel, gram = problem()
    mask = np.random.default_rng(1).random(kernel.shape) < 0.4
    mask[:, 0] = False  # an output without inputs
    mask[:, 1] = True  # and one with all
    expected = oracle.refit(kernel.T, mask.T, gram).T
    with jax.enable_x64(True):
        new = layerwise.refit(jnp.asarray(kernel), mask, jnp.asarray(gram))
    np.testing.assert_allclose(new, expected, atol=1e-10)
    single = layerwise.refit(kernel.astype(np.float32), mask, gram.astype(np.float32))
    np.testing.assert_allclose(single, expected, atol=2e-4)
    np.testing.assert_array_equal(np.asarray(single)[~mask], 0)
    inside = jax.jit(layerwise.refit)(kernel.astype(np.float32), mask, gram.astype(np.float32))
    np.testing.assert_allclose(inside, expected, atol=2e-4)


def test_error_is_that_of_the_outputs():
    rng = np.random.default_rng(0)
    x, w, v = rng.normal(size=(9, 4)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    expected = np.sum((x @ w - x @ v) ** 2) / np.sum((x @ w) ** 2)
    w, v, x = (a.astype(np.float32) for a in (w, v, x))
    assert relative(w, v, x.T @ x) == pytest.approx(expected, rel=1e-5)
    assert relative(w, w, x.T @ x) == 0
    stacked = layerwise.error(np.stack([w, w]), np.stack([v, w]), np.stack([x.T @ x] * 2))
    np.testing.assert_allclose(stacked, [expected, 0], rtol=1e-5)


# By trying all masks.


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_none_is_better_than_the_best_mask_and_the_good_ones_are_near(seed):
    kernel, gram = problem(seed, inputs=6, outputs=3, rows=20)
    best = oracle.optimum(kernel.T, gram, 3)
    of_masks = oracle.best_mask(kernel.T, gram, 3)
    rows = jp.masks.per_output(axis=-1)
    found = {}
    for name in ALL:
        new, mask = exact(layerwise.METHODS[name](), kernel, gram, 0.5, allocation=rows)
        assert (mask.sum(1) == 3).all()
        found[name] = oracle.lost(kernel.T, new, gram)
        assert found[name] >= best * (1 - 1e-9)
        refitted = oracle.lost(kernel.T, oracle.refit(kernel.T, mask, gram), gram)
        assert best * (1 - 1e-9) <= refitted <= found[name] * (1 + 1e-9)
    for name in ("wanda", "swaps", "frank_wolfe"):  # weights as they were
        assert found[name] >= of_masks * (1 - 1e-9)
    for name in ("swaps", "frank_wolfe"):
        assert found[name] <= found["wanda"] * (1 + 1e-12)
    assert found["alps"] <= 1.5 * best


# Never worse than the start.


@pytest.mark.parametrize("fixed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pattern", [None, NM])
def test_frank_wolfe_is_no_worse_than_its_start_and_keeps_what_is_fixed(pattern, fixed):
    kernel, gram = problem(3)
    s = None if pattern else 0.5
    start, before = exact(layerwise.wanda(), kernel, gram, s, pattern=pattern)
    method = layerwise.frank_wolfe(fixed=fixed, iterations=60)
    new, mask = exact(method, kernel, gram, s, pattern=pattern)
    each = [oracle.lost(kernel.T[i : i + 1], new[i : i + 1], gram) for i in range(OUT)]
    first = [oracle.lost(kernel.T[i : i + 1], start[i : i + 1], gram) for i in range(OUT)]
    assert (np.asarray(each) <= np.asarray(first) * (1 + 1e-12)).all()
    assert sum(each) < sum(first) or fixed == 1
    np.testing.assert_array_equal(mask.sum(1), before.sum(1))
    salient = np.where(before, np.abs(kernel.T) * np.sqrt(np.diag(gram)), -1)
    held = salient >= np.sort(salient[before])[::-1][: max(1, round(fixed * before.sum()))][-1]
    assert fixed == 0 or mask[held].all()


def test_swap_takes_any_mask_and_never_loses():
    kernel, gram = (a.astype(np.float32) for a in problem(4))
    mask = jnp.asarray(np.random.default_rng(0).random(kernel.shape) < 0.5)
    errors = []
    for most in (0, 1, 2, 100):
        new = layerwise.swap(kernel, mask, gram, most=most)
        np.testing.assert_array_equal(new.sum(0), mask.sum(0))
        errors.append(relative(kernel, jnp.where(new, kernel, 0), gram))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


# Counts and patterns.


@pytest.mark.parametrize("name", ALL)
def test_counts_are_exact_and_one_program_serves_all(name):
    kernel, gram = (jnp.asarray(a, jnp.float32) for a in problem(1, 10, 7))
    method = layerwise.METHODS[name]()
    before = layerwise._solve._solved._cache_size()
    for sparsity in (0.0, 0.33, 0.5, 0.79):
        new, mask = layerwise.solve(method, kernel, gram, sparsity, allocation=jp.masks.globally())
        assert int(mask.size - mask.sum()) == round(sparsity * 70)
        np.testing.assert_array_equal(np.asarray(new)[~np.asarray(mask)], 0)
        assert np.isfinite(new).all()
        layerwise.solve(
            layerwise.METHODS[name](), kernel, gram, sparsity, allocation=jp.masks.globally()
        )
    assert layerwise._solve._solved._cache_size() == before + 1


@pytest.mark.parametrize("name", ALL)
def test_groups_and_outputs_keep_what_they_should(name):
    kernel, gram = (jnp.asarray(a, jnp.float32) for a in problem(2))
    method = layerwise.METHODS[name]()
    _, mask = layerwise.solve(method, kernel, gram, None, pattern=NM)
    np.testing.assert_array_equal(np.asarray(mask).reshape(3, 4, OUT).sum(1), 2)
    _, mask = layerwise.solve(method, kernel, gram, 0.4, allocation=jp.masks.per_output(axis=-1))
    np.testing.assert_array_equal(mask.sum(0), IN - 5)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "admm", "alps"])
def test_blocks_go_whole(name):
    kernel, gram = (jnp.asarray(a, jnp.float32) for a in problem(2, 12, 6))
    options = {"block": 5} if name == "sparsegpt" else {}
    method = layerwise.METHODS[name](**options)
    _, mask = layerwise.solve(method, kernel, gram, 0.5, pattern=jp.masks.block(2, 3))
    blocks = np.asarray(mask).reshape(6, 2, 2, 3).sum((1, 3))
    assert set(np.unique(blocks)) == {0, 6}
    assert (blocks == 6).sum() == 6


# Data that say little.


@pytest.mark.parametrize("name", ALL)
def test_dead_inputs_go_first_and_keep_their_weight_if_they_stay(name):
    kernel, gram = problem(5)
    gram[3], gram[:, 3] = 0, 0
    new, mask = exact(layerwise.METHODS[name](), kernel, gram, 0.5)
    assert not mask[:, 3].any()
    assert np.isfinite(new).all()
    new, mask = exact(layerwise.METHODS[name](), kernel, gram, 0.0)
    np.testing.assert_allclose(new[:, 3], kernel[3])
    np.testing.assert_allclose(new, kernel.T, atol=1e-6)


@pytest.mark.filterwarnings("ignore:sparsegpt")
@pytest.mark.parametrize("rank", [3, 11])
@pytest.mark.parametrize("name", ALL)
def test_a_singular_gram_matrix_gives_finite_weights_and_a_refit_that_is_no_worse(name, rank):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(rank, IN)).astype(np.float32)
    kernel, gram = rng.normal(size=(IN, OUT)).astype(np.float32), x.T @ x
    new, mask = layerwise.solve(layerwise.METHODS[name](), kernel, gram, 0.5)
    assert np.isfinite(new).all()
    refitted = layerwise.refit(kernel, mask, gram)
    assert np.isfinite(refitted).all()
    assert relative(kernel, refitted, gram) <= relative(kernel, new, gram) + 1e-5


def test_an_ill_conditioned_gram_matrix_is_solved_in_float32():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, IN)) * np.logspace(0, 4, IN)  # conditions of 1e8 in the Gram matrix
    x[:, 1] = x[:, 0] + 1e-3 * rng.normal(size=100)
    kernel, gram = rng.normal(size=(IN, OUT)), x.T @ x
    mask = rng.random((IN, OUT)) < 0.5
    expected = oracle.lost(kernel.T, oracle.refit(kernel.T, mask.T, gram), gram)
    new = layerwise.refit(kernel.astype(np.float32), mask, gram.astype(np.float32))
    got = oracle.lost(kernel.T, np.asarray(new, np.float64).T, gram)
    assert got <= expected * 1.01 + 1e-6


def test_more_damping_is_used_where_a_matrix_does_not_factor_and_the_layer_is_named():
    kernel, gram = (a.astype(np.float32) for a in problem())
    values, vectors = np.linalg.eigh(gram)
    values[0] = -0.02 * np.trace(gram) / IN
    broken = (vectors * values) @ vectors.T
    with pytest.warns(UserWarning, match=r"sparsegpt: .*'h/mlp' .*damping 0.01; 0.1 was used"):
        new, _ = layerwise.solve(layerwise.sparsegpt(), kernel, broken, 0.5, name="h/mlp")
    assert np.isfinite(new).all()
    broken = np.eye(IN, dtype=np.float32) - 1e9 * (1 - np.eye(IN, dtype=np.float32))
    for method in (layerwise.sparsegpt(), layerwise.admm()):
        with pytest.raises(ValueError, match=f"{method.name}: .*'h/mlp' cannot be factored"):
            layerwise.solve(method, kernel, broken, 0.5, name="h/mlp")
    with pytest.raises(ValueError, match="'h/mlp' cannot be factored on the kept inputs"):
        layerwise.refit(kernel, kernel > 0, broken, name="h/mlp")


# Dtypes and stacks.


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_bfloat16_is_computed_in_float32_and_stacks_are_solved_one_by_one(name):
    pairs = [problem(seed, 8, 4) for seed in range(3)]
    kernels = jnp.asarray(np.stack([k for k, _ in pairs]), jnp.bfloat16)
    grams = jnp.asarray(np.stack([g for _, g in pairs]), jnp.float32)
    method = layerwise.METHODS[name]()
    new, mask = layerwise.solve(method, kernels, grams, 0.5)
    assert new.dtype == jnp.bfloat16
    for i in range(3):
        wide, alone = layerwise.solve(method, kernels[i].astype(jnp.float32), grams[i], 0.5)
        np.testing.assert_array_equal(mask[i], alone)
        np.testing.assert_array_equal(new[i], wide.astype(jnp.bfloat16))
    traced, _ = jax.jit(lambda k, g: layerwise.solve(method, k, g, 0.5))(kernels, grams)
    np.testing.assert_allclose(
        traced.astype(jnp.float32), new.astype(jnp.float32), rtol=0.02, atol=1e-2
    )
    assert layerwise.refit(kernels, mask, grams).dtype == jnp.bfloat16


# What is refused.


OF_FIVE = {"sparsity": None, "pattern": jp.masks.nm(2, 5, axis=0)}
PADDED = {"sparsity": None, "pattern": jp.masks.nm(2, 5, axis=0, remainder="pad")}
BLOCKS = {"pattern": jp.masks.block(2, 1)}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("admm", {"kernel": np.ones((5, 12))}, r"shape \(5, 12\).*needs a Gram.*transposed"),
        ("admm", {"gram": np.ones(12)}, r"needs a Gram matrix of shape \[in, in\]; got \(12,\)"),
        ("wanda", {"gram": np.full((12, 12), np.nan)}, "Gram matrix.*NaN"),
        ("wanda", {"gram": -np.eye(12)}, "negative diagonal"),
        ("wanda", {"sparsity": 0.99, "name": "up"}, "all 12 entries of each output of 'up'"),
        ("wanda", OF_FIVE, "groups of 5 do not divide"),
        ("sparsegpt", PADDED, "5 does not divide the 12 inputs"),
        ("swaps", BLOCKS, "cannot be exchanged"),
        ("frank_wolfe", BLOCKS, "relaxes weights one by one"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_repair(method, options, message):
    kernel, gram = problem()
    given = {"kernel": kernel, "gram": gram, "sparsity": 0.5} | options
    arrays = (given.pop(name).astype(np.float32) for name in ("kernel", "gram"))
    with pytest.raises(ValueError, match=message):
        layerwise.solve(layerwise.METHODS[method](), *arrays, given.pop("sparsity"), **given)


def test_arguments_of_another_kind_are_refused():
    kernel, gram = (a.astype(np.float32) for a in problem())
    with pytest.raises(TypeError, match=r"Call it: jp\.layerwise\.wanda\(\)"):
        layerwise.solve(layerwise.wanda, kernel, gram, 0.5)
    with pytest.raises(TypeError, match="start is a method"):
        layerwise.swaps(start="wanda")
    with pytest.raises(ValueError, match="damping is -1"):
        layerwise.sparsegpt(damping=-1)
    with pytest.raises(TypeError, match="mask of 'up' is a bool array"):
        layerwise.refit(kernel, kernel, gram, name="up")
    with pytest.raises(ValueError, match="mask of 'kernel' has shape"):
        layerwise.refit(kernel, kernel.T > 0, gram)
    with pytest.raises(TypeError, match="floating array"):
        layerwise.error(kernel, kernel, gram.astype(int))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "admm", "alps", "swaps", "frank_wolfe"])
def test_sharded_outputs_get_the_same_mask(name):
    kernel, gram = (jnp.asarray(a, jnp.float32) for a in problem(6, 12, 16))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    by_output = jax.NamedSharding(mesh, jax.P(None, "d"))
    everywhere = jax.NamedSharding(mesh, jax.P())
    method = layerwise.METHODS[name]()
    new, mask = layerwise.solve(method, kernel, gram, 0.5)
    spread = jax.device_put(kernel, by_output), jax.device_put(gram, everywhere)
    other, sharded = layerwise.solve(method, *spread, 0.5)
    np.testing.assert_array_equal(mask, sharded)
    np.testing.assert_allclose(new, other, atol=1e-5)
    fitted = layerwise.refit(kernel, mask, gram)
    np.testing.assert_allclose(layerwise.refit(spread[0], sharded, spread[1]), fitted, atol=1e-5)
