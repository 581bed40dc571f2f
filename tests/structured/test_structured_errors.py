"""Every error of grouping, masking, cutting and shrinking, by its words."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import jaxprune as jp

groups_of = jp.structured.channel_groups


def apply(params, x):
    return jnp.tanh(x @ params["a"] + params["b"]) @ params["z"]


X = jnp.ones((2, 3))


def make_params(n=6):
    return {"a": jnp.ones((3, n)), "b": jnp.ones((1, n)), "z": jnp.ones((n, 2))}


@pytest.fixture(scope="module")
def net():
    groups = groups_of(
        lambda p, x: apply({**p, "b": jnp.tile(p["b"], (2, 1))}, x), make_params(), X
    )
    masks = jp.structured.masks(groups, [np.arange(6) < 3])
    return make_params(), groups, masks


def small(net):
    params, _, masks = net
    return jp.structured.shrink(two_rows, params, masks, X)


def two_rows(params, x):
    return apply({**params, "b": jnp.tile(params["b"], (x.shape[0], 1))}, x)


def raises(error, *parts):
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


# Functions that cannot be followed.


@pytest.mark.parametrize("leaf", ["relu", 2.0, jnp.tanh], ids=["text", "number", "function"])
def test_parameters_that_are_no_arrays(leaf):
    params = {**make_params(), "extra": {"f": leaf}}
    with raises(TypeError, "parameter 'extra/f' is a", "not an array", "equinox.partition"):
        groups_of(two_rows, params, X)


def test_inputs_that_are_no_arrays():
    with raises(TypeError, "input '1/mode' is a str, not an array", "functools.partial"):
        groups_of(lambda p, x, options: two_rows(p, x), make_params(), X, {"mode": "train"})


def test_example_inputs_of_the_wrong_rank():
    message = (
        "cannot be traced with inputs of shapes [0: (2, 4)]. Check that it takes",
        "TypeError",
    )
    with raises(ValueError, *message, "dot_general"):
        groups_of(two_rows, make_params(), jnp.ones((2, 4)))
    with raises(ValueError, "cannot be traced with inputs of shapes [0/x: (3,)]"):
        groups_of(lambda p, batch: batch["x"][0, 0] * p["a"], make_params(), {"x": jnp.ones(3)})


def test_a_static_argument():
    with raises(ValueError, "functools.partial", "TracerBoolConversionError"):
        groups_of(lambda p, x, train: two_rows(p, x) if train else x, make_params(), X, True)


def test_side_effects():
    def prints(params, x):
        jax.debug.print("{}", x)
        return two_rows(params, x)

    with raises(ValueError, "side effects (Debug)", "Remove prints and callbacks"):
        groups_of(prints, make_params(), X)

    def calls(params, x):
        io_callback(lambda x: None, None, x, ordered=True)
        return two_rows(params, x)

    with raises(ValueError, "side effects (", "a pure function"):
        groups_of(calls, make_params(), X)


@pytest.mark.parametrize(
    "transform",
    [lambda f: jax.jit(f), lambda f: jax.grad(f), lambda f: lambda y: jax.vmap(f)(y[None])],
    ids=["jit", "grad", "vmap"],
)
def test_traced_values_that_are_closed_over(transform):
    def inside(y):
        groups_of(lambda p, x: two_rows(p, x) * y, make_params(), X)
        return y

    with raises(ValueError, "closes over a traced value", "outside of jit, grad and vmap"):
        transform(inside)(jnp.float32(1.0))


def test_grouping_needs_shapes_only_and_so_works_inside_jit():
    found = []

    @jax.jit
    def inside(params):
        found.append(groups_of(two_rows, params, X))
        return params["a"]

    inside(make_params())
    assert [group.size for group in found[0]] == [6]


# Names.


def test_names_of_groups():
    def heads(params, x):
        return jnp.einsum("bc,chd->bhd", x, params["q"]).reshape(2, 6) @ params["z"]

    groups = groups_of(heads, {"q": jnp.ones((3, 2, 3)), "z": jnp.ones((6, 2))}, X)
    with raises(ValueError, "'q' makes the channels of several groups: ['q:1', 'q:2']. Name one."):
        groups["q"]
    with raises(ValueError, "there is no parameter 'w'; groups: ['q:1', 'q:2']"):
        groups["w"]
    with raises(ValueError, "'z' makes no channels that can be removed: axis 1: it reaches axis 1"):
        groups["z"]
    assert groups["q:2"].size == 3


# Which channels stay.


def test_one_array_for_each_group(net):
    _, groups, _ = net
    with raises(ValueError, "there are 1 groups, but `kept` has 2 entries"):
        jp.structured.masks(groups, [np.ones(6, bool)] * 2)
    with raises(ValueError, "'a' has 6 channels, but `kept` has shape (5,)"):
        jp.structured.masks(groups, [np.ones(5, bool)])


def test_bools_that_are_known(net):
    _, groups, _ = net
    with raises(TypeError, "kept is bool (True = stays), but 'a' has float"):
        jp.structured.masks(groups, [np.ones(6)])
    with raises(TypeError, "which channels stay decides shapes: it cannot be traced"):
        jax.jit(lambda kept: jp.structured.masks(groups, [kept]))(jnp.ones(6, bool))


def test_something_stays(net):
    params, groups, _ = net
    with raises(ValueError, "no channel is left of 'a'. Keep at least one."):
        jp.structured.masks(groups, [np.zeros(6, bool)])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, bool), params)
    with raises(ValueError, "no channel is left of 'a'"):
        jp.structured.shrink(two_rows, params, nothing, X)


def test_something_stays_along_every_axis():
    """A layer of its own reads each half of the channels."""

    def halves(params, x):
        h = jnp.tanh(x @ params["a"])
        return h[:, :3] @ params["y"] + h[:, 3:] @ params["z"]

    params = {"a": jnp.ones((3, 6)), "y": jnp.ones((3, 2)), "z": jnp.ones((3, 2))}
    groups = groups_of(halves, params, X)
    assert [group.size for group in groups] == [6]
    with raises(ValueError, "nothing is left of 'y' along axis 0"):
        jp.structured.masks(groups, [np.arange(6) >= 3])


# Masks.


def test_masks_that_split_a_channel(net):
    params, groups, masks = net
    split = {**masks, "z": masks["z"].at[1].set(False)}
    message = ("the masks split channel 1 of 'a': 'z' is masked at position 1 on axis 0, but ",
               "is kept at position 1 on axis 1. Mask all that belongs to a channel")  # fmt: skip
    for f in (
        lambda: jp.structured.kept_of(groups, split),
        lambda: jp.structured.shrink(two_rows, params, split, X),
        lambda: jp.structured.cut(params, groups, split),
        lambda: jp.structured.widths(groups, split),
    ):
        with raises(ValueError, *message):
            f()


def test_masks_of_filters_alone_are_completed_as_the_error_says(net):
    _, groups, masks = net
    alone = {**masks, "b": jnp.ones((1, 6), bool), "z": jnp.ones((6, 2), bool)}
    with raises(ValueError, "the masks split channel 3 of 'a'", "role='out'"):
        jp.structured.kept_of(groups, alone)
    completed = jp.structured.masks(groups, jp.structured.kept_of(groups, alone, role="out"))
    jax.tree.map(np.testing.assert_array_equal, completed, masks)


def test_masks_that_split_a_channel_of_several_positions():
    def flat(params, x):
        return jnp.tile(x @ params["a"], (1, 6)) @ params["z"]

    params = {"a": jnp.ones((3, 2)), "z": jnp.ones((12, 2))}
    groups = groups_of(flat, params, X)
    masks = {"a": jnp.ones((3, 2), bool), "z": jnp.ones((12, 2), bool).at[::2].set(False)}
    with raises(ValueError, "masked at positions 0, 2, 4, 6, ... on axis 0, but 'a' is kept"):
        jp.structured.kept_of(groups, masks)
    # Some positions only: other zeros, which stay in the arrays.
    masks["z"] = masks["z"].at[0].set(True)
    assert jp.structured.kept_of(groups, masks)[0].all()


def test_masks_of_other_parameters(net):
    _, groups, masks = net
    with raises(ValueError, "the mask is of another tree", "'c'"):
        jp.structured.kept_of(groups, {**masks, "c": masks["b"]})
    with raises(ValueError, "the mask has shape (3, 7) at 'a', the parameter (3, 6)"):
        jp.structured.kept_of(groups, {**masks, "a": jnp.ones((3, 7), bool)})
    with raises(ValueError, "the mask has shape (3, 6) at 'a', the parameter (3, 7)"):
        jp.structured.shrink(two_rows, make_params(7), masks, X)


def test_masks_that_are_no_masks(net):
    params, groups, masks = net
    numbers = jax.tree.map(lambda m: m.astype(jnp.float32), masks)
    with raises(TypeError, "a mask is bool (True = kept), but 'a' is float32"):
        jp.structured.kept_of(groups, numbers)
    with raises(TypeError, "masks decide shapes: they cannot be traced. Shrink outside of jit."):
        jax.jit(lambda m: jp.structured.shrink(two_rows, params, m, X)[1])(masks)


# Trees that are cut.


def test_leaves_of_another_shape(net):
    _, groups, masks = net
    message = ("'mu/a' has shape (3, 7), but its parameter 'a' has (3, 6)", "initialise it anew")
    with raises(ValueError, *message):
        jp.structured.cut({"mu": {"a": jnp.ones((3, 7))}}, groups, masks)


def test_leaves_that_could_belong_to_several():
    def apply(params, x):
        return jnp.tanh(x @ params["u"]["l"]["a"]) @ params["v"]["l"]["a"]

    params = {k: {"l": {"a": jnp.ones(s)}} for k, s in (("u", (3, 4)), ("v", (4, 2)))}
    groups = groups_of(apply, params, X)
    masks = jp.structured.masks(groups, [np.arange(4) < 2])
    with raises(ValueError, "'mu/l/a' could belong to any of ['u/l/a']"):
        jp.structured.cut({"mu": {"l": {"a": jnp.ones((3, 4))}}}, groups, masks)
    with raises(ValueError, "'mu/l/a' could belong to any of ['u/l/a', 'v/l/a']"):
        jp.structured.cut({"mu": {"l": {"a": jnp.ones((3, 5))}}}, groups, masks)


# The small function.


def test_the_small_function_wants_the_small_parameters(net):
    small_apply, cut = small(net)
    with raises(ValueError, "'a' has shape (3, 6), but what is left of it has (3, 3)"):
        small_apply(net[0], X)
    with raises(ValueError, "of another tree, which differs at 'b'. Pass the small ones"):
        small_apply({k: cut[k] for k in "az"}, X)
    with raises(ValueError, "of another tree, which differs at 'c'"):
        small_apply({**cut, "c": X}, X)


def test_the_small_function_wants_inputs_that_fit(net):
    small_apply, cut = small(net)
    with raises(ValueError, "cannot be traced with inputs of shapes [0: (2, 5)]"):
        small_apply(cut, jnp.ones((2, 5)))
    with raises(ValueError, "takes 2 positional arguments but 3 were given"):
        small_apply(cut, X, X)


def test_symbolic_shapes(net):
    small_apply, cut = small(net)
    (b,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((b, 3), jnp.float32)
    with raises(ValueError, "input '0' has the symbolic shape (b, 3)", "Export once for each"):
        jax.export.export(jax.jit(small_apply))(cut, x)
    with raises(ValueError, "input '0' has the symbolic shape (b, 3)"):
        groups_of(two_rows, net[0], x)


def test_functions_that_are_not_pure():
    calls, rng = [], np.random.default_rng(0)

    def counting(p, x):
        calls.append(1)
        return two_rows(p, x) * len(calls)

    def drawing(p, x):
        return two_rows(p, x) + jnp.asarray(rng.normal(size=x.shape[:1]), jnp.float32)[:, None]

    def growing(p, x):
        calls.append(1)
        for _ in calls:
            x = jnp.tanh(x)
        return two_rows(p, x)

    advice = "Take counters, NumPy's random numbers"
    with raises(ValueError, "not a pure function of its arguments", "a number in mul", advice):
        groups_of(counting, make_params(), X)
    with raises(ValueError, "differs in a captured array of shape"):
        groups_of(drawing, make_params(), X)
    with raises(ValueError, "differs in the number of operations"):
        groups_of(growing, make_params(), X)
