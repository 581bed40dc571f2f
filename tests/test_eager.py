"""Copies without programs, one program for many leaves, one program for many functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune import _eager, _host
from tests.programs import counted

# Lengths that no other test has.
ONES = np.ones(1013, np.float32)


def spread(x):
    return jax.device_put(x, NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec()))


def donate(x):
    jax.jit(lambda x: x, donate_argnums=0)(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: jnp.asarray(ONES),
        lambda: jax.device_put(ONES, jax.devices()[3]),
        lambda: spread(ONES),
        lambda: jax.random.key(3),
        lambda: jnp.asarray(2.0),
    ],
    ids=["default", "another device", "spread", "key", "weak"],
)
def test_copies_are_like_the_array_and_outlive_it(make):
    x = make()
    with counted() as programs:
        y = _eager.copied({"x": x})["x"]
    assert programs.number == 0
    assert (y.sharding, y.committed) == (x.sharding, x.committed)
    assert jax.typeof(y) == jax.typeof(x)
    before = np.asarray(jax.random.key_data(x) if x.dtype != np.float32 else x).copy()
    donate(x)
    np.testing.assert_array_equal(jax.random.key_data(y) if x.dtype != np.float32 else y, before)


def test_copies_of_the_host_do_not_follow_it():
    x = np.arange(1019.0)
    y = _eager.copied(x)
    x[:] = -1
    np.testing.assert_array_equal(y, np.arange(1019))
    assert y.dtype == jnp.asarray(x).dtype
    donate(y)
    np.testing.assert_array_equal(x, -1)


def test_copies_are_made_where_something_is_traced():
    closed_over = jnp.arange(3)
    out = jax.jit(lambda x: _eager.copied([x, closed_over, np.arange(2)]))(jnp.ones(2))
    for ours, theirs in zip(out, [np.ones(2), np.arange(3), np.arange(2)], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_full_arrays_lie_where_they_should():
    where = jax.device_put(ONES, jax.devices()[2])
    for like in (jnp.asarray(ONES), where, spread(ONES), ONES):
        ours, theirs = _eager.full_like(like, 3, jnp.int32), jnp.full_like(like, 3, jnp.int32)
        np.testing.assert_array_equal(ours, theirs)
        assert (ours.sharding, ours.committed) == (theirs.sharding, theirs.committed)
        assert jax.typeof(ours) == jax.typeof(theirs)
    traced = jax.jit(lambda x: (_eager.full_like(x, 3, bool), _eager.full((2,), 1, "f4")))(where)
    np.testing.assert_array_equal(traced[0], np.ones(1013, bool))
    np.testing.assert_array_equal(traced[1], [1, 1])


def test_what_was_viewed_on_the_host_can_still_be_donated():
    x = jnp.asarray(ONES) + 1
    assert _host.view(x).sum() == 2 * 1013
    donate(x)
    assert x.is_deleted()


def test_only_arrays_of_the_host_are_viewed():
    assert _host.view(np.float32(3)) == 3
    assert _host.view(spread(ONES)) is None
    assert _host.view(2.0) is None
    jax.jit(lambda x: [x, _host.view(x)][0])(ONES)
    seen = []
    jax.make_jaxpr(lambda x: seen.append(_host.view(x)))(ONES)
    assert seen == [None]


class TestOneProgram:
    def run(self, f, *args, compiles):
        with counted() as programs:
            out = _eager.in_one_program(f, *args)
        assert programs.number == compiles
        return out

    def test_functions_that_compute_the_same_share_it(self):
        for compiles in (1, 0):
            out = self.run(lambda x: {"a": 3 * x + 1}, ONES, compiles=compiles)
            np.testing.assert_array_equal(out["a"], 4 * ONES)

    def test_what_a_function_holds_is_a_part_of_it(self):
        for held in (np.arange(1021.0), jnp.arange(1021.0) + 1):
            out = self.run(lambda x, held=held: x + held, np.float32(1), compiles=1)
            np.testing.assert_array_equal(out, held + 1)

    def test_what_a_function_leaves_alone_is_a_part_of_it(self):
        a, b = np.full(1031, 1, np.float32), np.full(1031, 2, np.float32)
        for f, expected in (
            (lambda a, b: a, 1),
            (lambda a, b: b, 2),
            (lambda a, b: 2 * a, 2),
            (lambda a, b: 2 * b, 4),
        ):
            assert self.run(f, a, b, compiles=1)[0] == expected

    def test_trees_and_types_are_a_part_of_it(self):
        x = np.ones(1033, np.float32)
        assert set(self.run(lambda x: {"a": x}, x, compiles=1)) == {"a"}
        assert set(self.run(lambda x: {"b": x}, x, compiles=1)) == {"b"}
        weak = self.run(lambda x: (x, 1.0), x, compiles=1)[1]
        strong = self.run(lambda x: (x, np.float32(1)), x, compiles=1)[1]
        assert weak.weak_type
        assert not strong.weak_type

    def test_it_runs_on_the_default_device(self):
        for device in jax.devices()[:2]:
            with jax.default_device(device):
                out = self.run(lambda x: x - 1, np.ones(1039, np.float32), compiles=1)
            assert out.devices() == {device}

    def test_it_returns_values_where_something_is_traced(self):
        seen = []
        jax.jit(lambda x: seen.append(_eager.in_one_program(lambda y: y + 1, ONES)) or x)(1.0)
        np.testing.assert_array_equal(seen[0], 2 * ONES)

    def test_whatever_cannot_be_traced_is_computed_all_the_same(self):
        assert _eager.computed(lambda x: float(x[0]), jnp.asarray(ONES)) == 1.0
        on_3 = jax.device_put(ONES, jax.devices()[3])
        assert _eager.computed(lambda x: x + 1, on_3).devices() == on_3.devices()
        out = jax.jit(lambda x: _eager.computed(lambda y: y + 1, x))(ONES)
        np.testing.assert_array_equal(out, 2 * ONES)


def _difference(x, y):
    return x - y


class TestTogether:
    def rows(self, width):
        return {
            "some": [_eager.Row(jnp.ones((width, i)), jnp.ones((width, i))) for i in (1, 2, 3)],
            "none": None,
            "other": "kept",
        }

    def test_rows_of_one_place_are_one_program(self):
        for compiles in (1, 0):
            rows = self.rows(1049)
            with counted() as programs:
                out = _eager.together(_difference, rows)
            assert programs.number == compiles
            assert out["other"] == "kept"
            assert [x.shape for x in out["some"]] == [(1049, 1), (1049, 2), (1049, 3)]
            assert not any(x.any() for x in out["some"])

    def test_rows_may_lie_in_different_places(self):
        places = [jnp.asarray(ONES), spread(ONES)]
        places += [jax.device_put(ONES, device) for device in jax.devices()[2:4]]
        out = _eager.together(_difference, [_eager.Row(x, 2 * x) for x in places])
        for x, y in zip(places, out, strict=True):
            assert x.devices() == y.devices()
            np.testing.assert_array_equal(y, -ONES)

    def test_rows_may_be_traced(self):
        known = jnp.asarray(ONES)
        out = jax.jit(
            lambda x: _eager.together(_difference, [_eager.Row(x, x), _eager.Row(known, 0 * known)])
        )(known)
        np.testing.assert_array_equal(out[0], 0 * ONES)
        np.testing.assert_array_equal(out[1], ONES)
