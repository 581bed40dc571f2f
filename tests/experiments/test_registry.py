"""The command line offers what the library has, by the same names."""

import inspect
import pathlib
from typing import get_type_hints

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import checks, config, data, models, registry
from experiments.data._load import STATISTICS
from experiments.inputs import make_inputs
from experiments.prepared import KNOWN
from experiments.scoring import make_scores
from experiments.setup import make_allocation, make_pattern

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "loops.md"


def returning(package, kind):
    """The public functions of a package whose result is of a type."""
    return {
        name: f
        for name, f in vars(package).items()
        if inspect.isfunction(f) and name[0] != "_" and get_type_hints(f).get("return") == kind
    }


@pytest.mark.parametrize(
    ("found", "functions"),
    [
        (registry.METHODS, jp.methods.METHODS),
        (registry.SCORES, jp.scores.SCORES),
        (registry.SCHEDULES, jp.schedules.RETRAINING),
        (registry.PATTERNS, returning(jp.masks, jp.masks.Pattern)),
    ],
)
def test_what_is_read_is_what_there_is(found, functions):
    assert list(found) == list(functions)
    for name, entry in found.items():
        assert entry.load() is functions[name]
        parameters = inspect.signature(functions[name]).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        assert list(entry.parameters) == [p.name for p in named]
        assert [p.required for p in entry.parameters.values()] == [
            p.default is p.empty for p in named
        ]
        assert functions[name].__doc__.startswith(entry.line)


def test_allocations_are_those_of_the_library():
    named = {entry.attribute: entry.load() for entry in registry.ALLOCATIONS.values()}
    assert named == returning(jp.masks, jp.masks.Allocation)


def test_models_and_data_sets_are_those_that_there_are():
    assert tuple(models.MODELS) == registry.MODELS
    assert tuple(STATISTICS) == registry.DATA == KNOWN


def test_every_public_score_is_registered():
    helpers = {"diagonal_fisher", "hessian_gradient_product", "input_norms"}
    public = {name for name, f in vars(jp.scores).items() if inspect.isfunction(f)}
    assert public - helpers == set(jp.scores.SCORES)


def test_no_method_hides_its_options():
    for method in jp.methods.METHODS.values():
        kinds = [p.kind for p in inspect.signature(method).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize(
    ("kind", "entries"),
    [("score", registry.SCORES), ("allocation", registry.ALLOCATIONS)],
)
def test_every_name_is_offered_or_refused_with_a_reason(kind, entries):
    refused = registry.REFUSED[kind]
    assert refused.keys() <= entries.keys()
    for name in entries:
        given = config.Config(**{kind: name})
        if name in refused:
            with pytest.raises(ValueError, match=f"{kind} {name} is not offered here: "):
                checks.check(given)
        else:
            checks.check(given)


def test_every_method_schedule_and_model_is_offered():
    for name in registry.METHODS:
        options = {} if registry.METHODS[name].takes("sparsity") else {"allocation": None}
        if name == "sr_ste":
            options = {"pattern": "nm_2_4"}
        checks.check(config.Config(method=name, **options))
    for name, entry in registry.SCHEDULES.items():
        peak = 0.1 if entry.takes("peak") else None
        checks.check(config.Config(schedule=name, peak=peak))
    for name in registry.MODELS:
        checks.check(config.Config(model=name))


def test_scores_that_are_offered_need_nothing_that_a_run_cannot_give():
    for name in registry.offered("score", registry.SCORES):
        required = {n for n, p in registry.SCORES[name].parameters.items() if p.required}
        assert required <= {"params", *registry.GIVEN}


@pytest.fixture(scope="module")
def run():
    """A small network on the digits, and what it is fed with."""
    settings = config.Config(batch_size=64, model="small_cnn")
    fed = make_inputs(settings, data.load("digits"))
    model = models.create("small_cnn", fed.num_classes)
    params, model_state = models.init(model, jax.random.key(0), fed.image_shape)
    return fed, model, params, model_state


@pytest.mark.usefixtures("jax_defaults")
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("magnitude", "taylor") else pytest.param(name, marks=pytest.mark.slow)
        for name in registry.offered("score", registry.SCORES)
    ],
)
def test_offered_scores_get_what_they_need(run, name):
    fed, model, params, model_state = run
    scores = make_scores(name, fed, model, model_state, jax.random.key(1))
    shapes = jax.eval_shape(scores, params)  # as `imp` looks before it trains
    found = scores(params)
    assert jax.tree.structure(found) == jax.tree.structure(shapes)
    assert jax.tree.structure(found) == jax.tree.structure(jp.scores.magnitude(params))
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
    again = scores(params)
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(again)))


@pytest.mark.usefixtures("jax_defaults")
@pytest.mark.slow
def test_gradients_are_those_of_the_first_batches(run):
    fed, model, params, model_state = run
    loss_fn = models.make_loss_fn(model)

    def loss(params):
        each = [loss_fn(params, model_state, fed.batch_at(i), jax.random.key(0)) for i in range(4)]
        return sum(value for value, _ in each) / 4

    wanted = jp.scores.taylor(params, jax.grad(loss)(params))
    found = make_scores("taylor", fed, model, model_state, jax.random.key(1))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["unstructured", "nm_2_4", "nm_1_4", "block_4_4", "channels"])
def test_patterns_fix_the_sparsities_that_are_checked(name):
    weights = {"kernel": np.arange(1.0, 65.0, dtype=np.float32).reshape(8, 8)}
    fixed = registry.parse_pattern(name).sparsity
    if fixed is None:
        with pytest.raises(TypeError, match="sparsity is a number"):
            jp.prune(weights, None, pattern=make_pattern(name))
    else:
        _, mask = jp.prune(weights, None, pattern=make_pattern(name))
        assert jp.sparsity(mask) == fixed


@pytest.mark.parametrize("name", ["nm", "nm_2", "nm_3_2", "nm_0_4", "block_4", "channels_1", "x"])
def test_what_is_no_pattern_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown pattern '{name}'. Known: unstructured"):
        checks.check(config.Config(pattern=name))


def test_a_fixed_sparsity_may_be_rounded():
    checks.check(config.Config(pattern="nm_1_3", sparsity=0.6667, cycles=1))
    with pytest.raises(ValueError, match=r"fixes sparsity=0\.666667 and goes with cycles=1"):
        checks.check(config.Config(pattern="nm_1_3", sparsity=0.6, cycles=1))


@pytest.mark.parametrize("name", registry.offered("allocation", registry.ALLOCATIONS))
def test_allocations_by_name(name):
    rng = np.random.default_rng(0)
    shapes = ((3, 3, 2, 8), (8, 20), (20, 10))
    params = {f"{i}": {"kernel": rng.normal(size=s).astype("f")} for i, s in enumerate(shapes)}
    _, mask = jp.prune(params, 0.5, allocation=make_allocation(name, params))
    assert jp.sparsity(mask) == pytest.approx(0.5, abs=0.01)


def test_the_page_has_the_table_of_methods():
    assert registry.methods_table() in PAGE.read_text()
