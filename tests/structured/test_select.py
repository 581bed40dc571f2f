"""Selection of channels: exact counts, ties, limits, allocations, errors."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

st = jp.structured
WIDTHS = (4, 6, 6, 10)


def _apply(params, x):
    for layer in params["body"]:
        x = jnp.tanh(x @ layer["w"])
    return x @ params["head"]["w"]


@pytest.fixture(scope="module")
def groups():
    sizes = (3, *WIDTHS)
    body = [{"w": jnp.ones(shape)} for shape in zip(sizes, WIDTHS, strict=False)]
    params = {"body": body, "head": {"w": jnp.ones((WIDTHS[-1], 2))}}
    found = st.channel_groups(_apply, params, jnp.ones((1, 3)))
    assert [g.name for g in found] == [f"body/{i}/w" for i in range(4)]
    return found


def _scores(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=n).astype(np.float32) for n in WIDTHS)


def _left(kept):
    return [int(k.sum()) for k in kept]


def _brute_global(scores, count, most):
    """Removes one channel at a time: of the lowest that may go, the first."""
    gone = [np.zeros(len(s), bool) for s in scores]
    for _ in range(count):
        best = None
        for i, s in enumerate(scores):
            if gone[i].sum() == most[i]:
                continue
            for u in range(len(s)):
                if not gone[i][u] and (best is None or s[u] < scores[best[0]][best[1]]):
                    best = (i, u)
        gone[best[0]][best[1]] = True
    return [~g for g in gone]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.7, 0.84])
def test_globally_is_one_at_a_time(groups, sparsity, ties):
    scores = _scores()
    if ties:
        scores = tuple(np.round(s) for s in scores)
    kept = st.select(groups, scores, sparsity, allocation=st.globally())
    want = _brute_global(scores, round(sparsity * 26), [n - 1 for n in WIDTHS])
    for a, b in zip(kept, want, strict=True):
        assert a.dtype == bool
        np.testing.assert_array_equal(a, b)
    assert sum(_left(kept)) == 26 - round(sparsity * 26)
    st.masks(groups, kept)


def test_limits_are_made_up_for_by_the_others(groups):
    scores = tuple(np.full(n, i, np.float32) for i, n in enumerate(WIDTHS))
    kept = st.select(groups, scores, 0.5, allocation=st.globally(), max_sparsity=0.5)
    assert _left(kept) == [2, 3, 3, 5]
    rules = {"body/1/w": 0.5, r"body/[12]/w": 0.0}
    kept = st.select(groups, scores, 0.5, allocation=st.globally(), max_sparsity=rules)
    assert _left(kept) == [1, 3, 6, 3]
    with pytest.raises(ValueError, match=r"15 of 26 channels of \[body/0/w, .* at most 13 may"):
        st.select(
            groups, scores, 15 / 26, allocation=st.globally(), max_sparsity=0.5, on_limit="error"
        )


def test_ties_lose_the_lowest_index_first(groups):
    zeros = tuple(np.zeros(n) for n in WIDTHS)
    zeros[1][0] = -0.0
    kept = st.select(groups, zeros, 5 / 26, allocation=st.globally())
    # The first group keeps its last channel.
    assert [k.tolist() for k in kept[:2]] == [[False] * 3 + [True], [False] * 2 + [True] * 4]


def test_uniform_is_the_default_and_rounds_half_to_even(groups):
    kept = st.select(groups, _scores(), 0.25)
    assert _left(kept) == [3, 4, 4, 8]  # of 1, 1.5, 1.5 and 2.5 channels go 1, 2, 2, 2
    for k, s in zip(kept, _scores(), strict=True):
        assert s[k].min() > s[~k].max()


def test_floor_of_what_is_kept(groups):
    allocation = st.uniform(count="floor_kept")
    assert _left(st.select(groups, _scores(), 0.25, allocation=allocation)) == [3, 4, 4, 7]
    allocation = st.ratios({r"body/\d/w": 0.3}, count="floor_kept")
    assert _left(st.select(groups, _scores(), allocation=allocation)) == [2, 4, 4, 7]


def test_isomorphic_pools_groups_of_one_kind():
    def apply(params, x):
        for layer in ("a", "b", "c", "d"):
            x = jnp.tanh(x @ params[layer]["w"] + params[layer].get("b", 0.0))
        return x

    sizes = (2, 4, 4, 4, 2)
    params = {
        name: {"w": jnp.ones((sizes[i], sizes[i + 1]))} for i, name in enumerate(("a", "b", "c"))
    }
    params["b"]["b"] = jnp.ones((1, 4))
    params["d"] = {"w": jnp.ones((4, 2))}
    groups = st.channel_groups(apply, params, jnp.ones((1, 2)))
    assert [g.name for g in groups] == ["a/w", "b/w", "c/w"]
    scores = ([1.0, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], [5.0, 6, 7, 8])
    kept = st.select(groups, scores, 0.5, allocation=st.isomorphic(), max_sparsity=0.75)
    assert _left(kept) == [1, 2, 3]  # a and c: 4 of 8, of a at most 3; b alone: 2 of 4


def test_explicit_widths_and_ratios(groups):
    allocation = st.to_widths({"body/2/w": 5, r"body/[0123]/w": 4})
    assert _left(st.select(groups, _scores(), allocation=allocation)) == [4, 4, 5, 4]
    allocation = st.ratios({"body/3/w": 0.55})
    assert _left(st.select(groups, _scores(), allocation=allocation)) == [4, 6, 6, 4]


def test_round_to_keeps_more_and_never_fewer(groups):
    kept = st.select(groups, _scores(), 0.5, round_to=4)
    assert _left(kept) == [4, 4, 4, 8]
    plain = st.select(groups, _scores(), 0.5)
    for a, b in zip(kept, plain, strict=True):
        assert (a | b).tolist() == a.tolist()
    assert _left(st.select(groups, _scores(), 0.5, round_to=128)) == list(WIDTHS)


def test_skipped_groups_do_not_count(groups):
    scores = (None, *_scores()[1:])
    allocation = st.globally()
    kept = st.select(groups, scores, 0.5, allocation=allocation, skip=["body/3/w"])
    assert _left(kept)[0] == 4
    assert _left(kept)[3] == 10
    assert sum(_left(kept)[1:3]) == 6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_other_dtypes(groups, dtype):
    scores = tuple(jnp.arange(n).astype(dtype) for n in WIDTHS)
    assert st.select(groups, scores, 0.5)[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("match", "options"),
    [
        (r"4 of 4 channels of \[body/0/w\] would go, but at most 3", {
            "sparsity": 0.9, "on_limit": "error"}),
        (r"uniform\(\) needs a sparsity", {}),
        (r"globally\(\) needs a sparsity", {"allocation": st.globally()}),
        (r"leave out the sparsity 0.5", {"sparsity": 0.5, "allocation": st.ratios({"a": 0.5})}),
        (r"leave out the sparsity 0.5", {"sparsity": 0.5, "allocation": st.to_widths({"a": 1})}),
        (r"in \[0, 1\); got 50.0. For 50 % pass 0.5", {"sparsity": 50}),
        (r"there is no parameter 'body'", {"allocation": st.ratios({"body": 0.5})}),
        (r"'head/w' makes no channels that can be removed: axis", {"skip": ["head/w"]}),
        (r"keeps 7 channels of 'body/1/w', which has 6", {"allocation": st.to_widths(
            {"body/1/w": 7})}),
        (r"round_to is 0", {"sparsity": 0.5, "round_to": 0}),
        (r"counts the parts \[0, 0\]", {"allocation": lambda *_: [st.Pool((0, 0), 1)]}),
        (r"\[0, 1\); got 1.5", {"sparsity": 0.5, "max_sparsity": 1.5}),
    ],
)  # fmt: skip
def test_errors(groups, match, options):
    with pytest.raises(ValueError, match=match):
        st.select(groups, _scores(), **options)


def test_errors_of_scores(groups):
    scores = list(_scores())
    with pytest.raises(ValueError, match="4 groups, but 3 arrays"):
        st.select(groups, scores[:3], 0.5)
    scores[2] = scores[2].copy()
    scores[2][4] = np.nan
    with pytest.raises(ValueError, match="score of channel 4 of 'body/2/w' is NaN"):
        st.select(groups, scores, 0.5)
    scores[2] = np.zeros(5)
    with pytest.raises(ValueError, match=r"'body/2/w' has 6 channels, .* shape \(5,\)"):
        st.select(groups, scores, 0.5)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda s: st.select(groups, s, 0.5))(_scores())


def test_errors_of_arguments(groups):
    with pytest.raises(TypeError, match=r"those of jp.masks are for weights"):
        st.select(groups, _scores(), 0.5, allocation=jp.masks.globally())
    with pytest.raises(TypeError, match="a sequence of paths; got the string 'body/0/w'"):
        st.select(groups, _scores(), 0.5, skip="body/0/w")
    with pytest.raises(TypeError, match=r"whole channels; got 2.5 for 'a'"):
        st.to_widths({"a": 2.5})
    with pytest.raises(ValueError, match="at least one channel; got 0 for 'a'"):
        st.to_widths({"a": 0})
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1.0"):
        st.ratios({"a": 1.0})
    with pytest.raises(ValueError, match="count is one of 'round', 'floor_kept'; got 'floor'"):
        st.uniform(count="floor")


def test_two_paths_of_one_group_must_agree():
    def apply(params, x):
        return (x @ params["a"] + x @ params["b"]) @ params["c"]

    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "c": jnp.ones((3, 1))}
    groups = st.channel_groups(apply, params, jnp.ones((1, 2)))
    scores = st.magnitude(groups, params)
    assert _left(st.select(groups, scores, allocation=st.to_widths({"a": 2, "b": 2}))) == [2]
    with pytest.raises(ValueError, match=r"gives 2 for 'a' and 1 for 'b', .* the same channels"):
        st.select(groups, scores, allocation=st.to_widths({"a": 2, "b": 1}))


def test_limits_stop_with_a_note(groups):
    kept = st.select(groups, _scores(), 0.9)
    assert _left(kept) == [1, 1, 1, 1]
    assert kept.notes[0] == "4 of 4 channels of [body/0/w] would go, but at most 3 may"
    assert len(kept.notes) == 1
    assert "note: 4 of 4" in str(kept)
    assert not st.select(groups, _scores(), 0.5).notes
    limited = {"allocation": st.globally(), "max_sparsity": 0.5}
    kept = st.select(groups, _scores(), 0.75, **limited)
    assert _left(kept) == [2, 3, 3, 5]
    assert kept.notes[0].endswith("would go, but at most 13 may")
    # What others of the pool make up for is no note.
    assert not st.select(groups, _scores(), 0.5, **limited).notes
    with pytest.raises(ValueError, match="on_limit is one of 'stop', 'error'; got 'warn'"):
        st.select(groups, _scores(), 0.5, on_limit="warn")


def test_a_selection_is_a_tuple_with_notes(groups):
    kept = st.select(groups, _scores(), 0.9)
    assert isinstance(kept, tuple)
    again = [pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept), jax.tree.map(np.array, kept)]
    for other in again:
        assert other.notes == kept.notes
        for a, b in zip(other, kept, strict=True):
            np.testing.assert_array_equal(a, b)


def test_readers_of_slices_keep_a_channel_each():
    def apply(params, x):
        h = jnp.tanh(x @ params["a"])
        return h[:, :2] @ params["y"] + h[:, 2:] @ params["z"]

    params = {"a": jnp.ones((2, 4)), "y": jnp.ones((2, 1)), "z": jnp.ones((2, 1))}
    groups = st.channel_groups(apply, params, jnp.ones((1, 2)))
    kept = st.select(groups, [np.arange(4.0)], 0.75)
    assert kept[0].tolist() == [False, True, False, True]
    assert kept.notes == ("3 of 4 channels of [a] would go, but at most 2 may",)
    st.masks(groups, kept)
    with pytest.raises(ValueError, match=r"3 of 4 channels of \[a\] would go, but at most 2 may:"):
        st.select(groups, [np.arange(4.0)], 0.75, on_limit="error")
