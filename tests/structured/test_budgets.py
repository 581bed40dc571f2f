"""Budgets: exact counts of what is left, nearest below what was asked for."""

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured.budgets import _latency
from tests.structured.checks import normal

st = jp.structured
WIDTHS = (3, 40, 24, 32, 2)
PARAMS = {
    str(i): {"w": normal(m, n, seed=i), "b": jnp.zeros((1, n), jnp.bfloat16)}
    for i, (m, n) in enumerate(itertools.pairwise(WIDTHS))
}
X = np.ones((5, 3), np.float32)


def _apply(params, x):
    for i in range(4):
        layer = params[str(i)]
        x = x @ layer["w"] + layer["b"].astype(jnp.float32)
        x = jnp.tanh(x) if i < 3 else x
    return x


@pytest.fixture(scope="module")
def net():
    groups = st.channel_groups(_apply, PARAMS, X)
    return groups, st.magnitude(groups, PARAMS, normalize="mean")


def _sizes(kept):
    """MACs, parameters and bytes of a selection, by hand."""
    widths = [3, *(int(k.sum()) for k in kept), 2]
    weights = [m * n for m, n in itertools.pairwise(widths)]
    biases = sum(widths[1:])
    return {
        "macs": 5 * sum(weights),
        "parameters": sum(weights) + biases,
        "bytes": 4 * sum(weights) + 2 * biases,
    }


FULL = _sizes([np.ones(n, bool) for n in WIDTHS[1:-1]])
BUDGETS = {"macs": st.macs, "parameters": st.parameters, "bytes": st.bytes}


@pytest.fixture(scope="module")
def path(net):
    """All that can be left: fraction by fraction, layer by layer between two of them."""
    groups, scores = net

    def sizes(allocation):
        less, found = [np.ones(group.size, bool) for group in groups], []
        for fraction in np.linspace(0, 1, 1500, endpoint=False):
            more, less = less, st.select(groups, scores, fraction, allocation=allocation)
            found += [_sizes([*more[:i], *less[i:]]) for i in range(len(groups) + 1)]
        return found

    return {name: sizes(allocation) for name, allocation in ALLOCATIONS.items()}


ALLOCATIONS = {"uniform": st.uniform(), "globally": st.globally()}


@pytest.mark.parametrize("amount", [0.9, 0.5, 0.13])
@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_the_budget_is_met_by_a_percent_or_nearest_below(net, path, name, amount, kind):
    groups, scores = net
    allocation = ALLOCATIONS[kind]
    kept = st.select(groups, scores, budget=BUDGETS[name](amount), allocation=allocation)
    target, left = round(amount * FULL[name]), _sizes(kept)[name]
    assert left <= target
    assert kept.notes[0].startswith(f"{left} ")
    assert f" of {FULL[name]} are left" in kept.notes[0]
    if left < 0.99 * target:
        assert left == max(n[name] for n in path[kind] if n[name] <= target)
    # As an absolute number it is the same.
    again = st.select(groups, scores, budget=BUDGETS[name](target), allocation=allocation)
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_count_is_that_of_the_shrunk_network(net):
    groups, scores = net
    kept = st.select(groups, scores, budget=st.macs(0.3))
    small_apply, small = st.shrink(_apply, PARAMS, st.masks(groups, kept), X)
    macs = jp.metrics.flops(small_apply, small, X).macs
    assert kept.notes[0].startswith(f"{macs} MACs of {jp.metrics.flops(_apply, PARAMS, X).macs} ")
    assert 0.95 * 0.3 * FULL["macs"] <= macs <= 0.3 * FULL["macs"]
    # The lowest of each layer went.
    for stays, s in zip(kept, scores, strict=True):
        s = np.asarray(s)
        assert s[stays].min() > s[~stays].max()


def test_some_parameters_count(net):
    groups, scores = net
    budget = st.parameters(0.5, where=lambda path, leaf: path.endswith("w") and leaf.ndim == 2)
    kept = st.select(groups, scores, budget=budget)
    weights = _sizes(kept)["macs"] // 5
    assert kept.notes[0].startswith(f"{weights} parameters of {FULL['macs'] // 5} are left")
    assert 0.95 * 0.5 <= weights / (FULL["macs"] // 5) <= 0.5


def test_limits_multiples_and_skips_hold_under_a_budget(net):
    groups, scores = net
    kept = st.select(
        groups, scores, budget=st.macs(0.4), skip=["1/w"], max_sparsity={"0/w": 0.3}, round_to=4,
    )  # fmt: skip
    left = [int(k.sum()) for k in kept]
    assert left[1] == 24
    assert left[0] >= 28
    assert all(n % 4 == 0 for n in left)
    # So the third layer goes down alone, which is not enough.
    assert left[2] == 4
    assert "and limits allow no less" in kept.notes[0]
    with pytest.raises(ValueError, match=r"MACs of .* allow no less: each parameter keeps one"):
        st.select(
            groups, scores, budget=st.macs(0.4), skip=["1/w"], max_sparsity={"0/w": 0.3},
            round_to=4, on_limit="error",
        )  # fmt: skip
    kept = st.select(groups, scores, budget=st.parameters(0.5), max_sparsity=0.8, on_limit="error")
    assert _sizes(kept)["parameters"] <= 0.5 * FULL["parameters"]


def test_a_budget_that_is_met_removes_nothing(net):
    groups, scores = net
    for budget in (st.macs(1.0), st.bytes(10**9), st.parameters(FULL["parameters"])):
        assert all(k.all() for k in st.select(groups, scores, budget=budget))


def _timed(monkeypatch, noise=0.0):
    """The time of a call is the number of parameters, in nanoseconds."""
    calls = []

    def latency(call, params, inputs, *, repeats, min_seconds):
        del call, inputs, min_seconds
        n = sum(x.size for x in jax.tree.leaves(params)) * 1e-9
        calls.append(n)
        return jp.metrics.Latency(n, n * (1 - noise), n * (1 + noise), repeats, 1, None)

    monkeypatch.setattr(_latency.metrics, "latency", latency)
    return calls


def test_latency_takes_few_measurements(net, monkeypatch):
    groups, scores = net
    calls = _timed(monkeypatch)
    kept = st.select(groups, scores, budget=st.latency(0.5, measurements=7))
    assert len(calls) <= 7
    left = _sizes(kept)["parameters"]
    # Five bisections of the fraction removed.
    assert 0.4 * FULL["parameters"] <= left <= 0.5 * FULL["parameters"]
    assert f"{left * 1e-9:.4g} seconds of {FULL['parameters'] * 1e-9:.4g} are left" in kept.notes[0]
    assert "median of 25 timings, its 95 % interval" in kept.notes[0]
    seconds = st.latency(seconds=0.5e-9 * FULL["parameters"], measurements=7)
    for a, b in zip(kept, st.select(groups, scores, budget=seconds), strict=True):
        np.testing.assert_array_equal(a, b)


def test_latency_ends_within_the_interval_of_a_measurement(net, monkeypatch):
    groups, scores = net
    few, many = _timed(monkeypatch, 0.2), []
    st.select(groups, scores, budget=st.latency(0.5, measurements=20))
    many = _timed(monkeypatch)
    st.select(groups, scores, budget=st.latency(0.5, measurements=20))
    assert len(few) < len(many) <= 20


def test_latency_is_measured(net):
    groups, scores = net
    budget = st.latency(0.5, measurements=3, repeats=6, min_seconds=0)
    kept = st.select(groups, scores, budget=budget)
    assert "seconds of" in kept.notes[0]
    st.masks(groups, kept)


@pytest.fixture
def by_macs(monkeypatch):
    """The time of a call is a nanosecond a MAC, and twice that in a whole network."""
    timed = []

    def latency(f, *args, repeats, min_seconds):
        del min_seconds
        n = jp.metrics.flops(lambda p, *xs: f(*xs), (), *args).macs * 1e-9
        whole = isinstance(args[0], dict)
        timed.append(whole)
        n *= 2 if whole else 1
        return jp.metrics.Latency(n, n, n, repeats, 1, None)

    monkeypatch.setattr(_latency.metrics, "latency", latency)
    return timed


def test_a_table_proposes_and_whole_networks_decide(net, by_macs):
    groups, scores = net
    table = st.LatencyTable()
    budget = st.latency(0.5, table=table, measurements=6)
    kept = st.select(groups, scores, budget=budget)
    left = _sizes(kept)["macs"]
    assert 0.95 * FULL["macs"] <= 2 * left <= FULL["macs"]
    assert by_macs.count(True) <= 3
    entries = len(table.seconds)
    assert f"a table of {entries} products" in kept.notes[1]
    assert entries == by_macs.count(False) - 1  # and a call of nothing
    st.select(groups, scores, budget=st.latency(0.45, table=table), allocation=st.globally())
    more = len(table.seconds) - entries
    st.select(groups, scores, budget=st.latency(0.45, table=table), allocation=st.globally())
    assert len(table.seconds) == entries + more
    for _, (lhs, _), _, _ in table.seconds:
        assert lhs[1] in {3, *(n for n in range(1, 9)), 10, 12, 14, 16, 20, 24, 28, 32, 40}


def test_between_widths_of_the_grid_the_time_is_interpolated(by_macs):
    def apply(params, x):
        x = jax.lax.conv_general_dilated(x, params["c"], (1, 1), "SAME")
        scanned = jax.lax.scan(lambda h, _: (h @ params["w"], None), x[..., 0], None, length=3)
        return jnp.einsum("bcx,bdx->bcd", scanned[0], x[..., 0])

    shape = jax.ShapeDtypeStruct
    params = {"c": shape((11, 5, 3, 3), "float32"), "w": shape((9, 9), "float32")}
    table = st.LatencyTable()
    seconds = table.predict(apply, params, (shape((2, 5, 9, 9), "float32"),))
    macs = jp.metrics.flops(apply, params, shape((2, 5, 9, 9), "float32")).macs
    assert seconds == pytest.approx(macs * 1e-9)  # MACs are bilinear in the widths
    assert by_macs.count(True) == 0


def test_a_table_of_a_network_without_products(by_macs):
    def apply(params, x):
        return jnp.tanh(x * params["a"]).sum(-1)

    groups = st.channel_groups(apply, {"a": jnp.ones((1, 8))}, jnp.ones((2, 1)))
    for budget in (st.latency(0.5, table=st.LatencyTable()), st.macs(0.5)):
        kept = st.select(groups, [np.arange(8.0)], budget=budget)
        assert all(k.all() for k in kept)
        assert "are left (100.0 %)" in kept.notes[0]
    assert st.LatencyTable().predict(apply, {"a": jnp.ones((1, 8))}, (jnp.ones((2, 1)),)) == 0
    del by_macs


def test_grouped_convolutions_are_measured_as_they_are(by_macs):
    def apply(kernel, x):
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", feature_group_count=11)

    table = st.LatencyTable()
    kernel, x = jnp.ones((11, 1, 3)), jnp.ones((1, 11, 8))
    table.predict(apply, kernel, (x,))
    assert [key[1] for key in table.seconds] == [((1, 11, 8), (11, 1, 3))]
    assert by_macs


def test_inputs_and_parameters_of_other_kinds():
    """Integers, keys and Python numbers, too, are filled in to be timed."""

    def apply(params, x, ids, key, scale):
        noise = jax.random.normal(key, (1, 1))
        return jnp.tanh(x[ids] @ params["a"] * scale + noise) @ params["b"]

    params = {"a": jnp.ones((2, 6)), "b": jnp.ones((6, 1)), "step": jnp.array(3)}
    inputs = jnp.ones((4, 2)), jnp.array([1, 2]), jax.random.key(0), 2.0
    groups = st.channel_groups(apply, params, *inputs)
    for budget in (st.macs(0.5), st.latency(0.9, measurements=3, repeats=6, min_seconds=0)):
        kept = st.select(groups, [np.arange(6.0)], budget=budget)
        assert kept.notes
    assert int(st.select(groups, [np.arange(6.0)], budget=st.macs(0.5))[0].sum()) == 3


def test_axes_of_heads_never_run_empty():
    """Of a merged axis a position is left only if its head and its feature are."""

    def apply(params, x):
        h = jnp.einsum("bd,dhf->bhf", x, params["v"])
        h = jnp.tanh(h).reshape(x.shape[0], -1)
        return h @ params["o"]

    params = {"v": normal(3, 4, 6), "o": normal(24, 2)}
    groups = st.channel_groups(apply, params, X)
    assert len(groups) == 2
    assert [p.name for p in groups.parts] == [g.name for g in groups] == ["v:1", "v:2"]
    scores = [np.arange(g.size) for g in groups]
    kept = st.select(groups, scores, budget=st.macs(0.25))
    left = [int(k.sum()) for k in kept]
    assert left[0] * left[1] <= 6
    assert left[0] * left[1] >= 4
    assert [int(k.sum()) for k in st.select(groups, scores, 0.5, skip=["v:1"])] == [4, 3]
    with pytest.raises(ValueError, match=r"'v' makes the channels of several groups: \['v:1', 'v:"):
        st.select(groups, scores, 0.5, skip=["v"])


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "the budget of MACs says how much goes; leave out the sparsity 0.5",
         {"sparsity": 0.5, "budget": st.macs(0.5)}),
        (ValueError, "the allocation says how much goes; leave out the budget of bytes",
         {"budget": st.bytes(0.5), "allocation": st.ratios({"0/w": 0.5})}),
        (TypeError, "a budget is one of .*; got 0.5", {"budget": 0.5}),
    ],
)  # fmt: skip
def test_errors(net, error, match, options):
    groups, scores = net
    with pytest.raises(error, match=match):
        st.select(groups, scores, **options)


def test_errors_of_amounts(net):
    with pytest.raises(ValueError, match=r"macs of 1.5 is no fraction of what is left, in \(0, 1"):
        st.macs(1.5)
    with pytest.raises(ValueError, match="bytes of 0 leaves nothing"):
        st.bytes(0)
    with pytest.raises(TypeError, match=r"parameters takes a fraction .* got 'half'"):
        st.parameters("half")
    with pytest.raises(ValueError, match="a fraction or seconds; got fraction=None, seconds=None"):
        st.latency()
    with pytest.raises(ValueError, match="measurements"):
        st.latency(0.5, measurements=2)
    with pytest.raises(ValueError, match="repeats"):
        st.LatencyTable(repeats=3)
    with pytest.raises(TypeError, match=r"table is a jp.structured.LatencyTable\(\)"):
        st.latency(0.5, table=True)
    groups, scores = net
    again = pickle.loads(pickle.dumps(groups))
    assert again.shapes == groups.shapes
    assert [int(k.sum()) for k in st.select(again, scores, 0.5)] == [20, 12, 16]
    with pytest.raises(ValueError, match=r"groups have lost their function \(they were pickled\)"):
        st.select(again, scores, budget=st.macs(0.5))
