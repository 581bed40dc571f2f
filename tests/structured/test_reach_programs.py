"""Mapped convolutions, transforms, loops that end by themselves, products by group of rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxprune as jp
from tests.structured.checks import close, normal, quick, random_kept
from tests.structured.test_rules import check, conv, params_of, reasons, removable


class Case(NamedTuple):
    apply: object
    shapes: dict
    inputs: tuple
    expected: dict
    export: bool = False
    gradients: bool = True


# Convolutions whose kernels are mapped, too: JAX makes one of groups of channels.


def ensemble(p, x):
    def member(a, z):
        return conv(jax.nn.relu(conv(x, a)), z)

    return jax.vmap(member)(p["a"], p["z"]).mean(0)


def mixed_kernels(p, x):
    """Kernels that are mixed for each example (CondConv)."""

    def example(x):
        kernel = jnp.einsum("e,ewio->wio", jax.nn.sigmoid(x.mean(0) @ p["route"]), p["a"])
        return conv(conv(x[None], kernel), p["z"])[0]

    return jax.vmap(example)(x)


def mapped_over_branches(p, x):
    """Branches with inputs of their own, one after the other in the channels."""
    h = conv(x, p["a"]).reshape(2, 8, 2, 4)
    y = jax.vmap(conv, (2, 0), 2)(h, p["b"]).reshape(2, 8, 10)
    return conv(jnp.tanh(y), p["z"])


SIGNAL = (normal(2, 8, 3),)
ENSEMBLE = {"a": (2, 3, 3, 4), "z": (2, 3, 4, 2)}
MIXED = {"route": (3, 2), "a": (2, 3, 3, 4), "z": (3, 4, 2)}
BRANCHES = {"a": (3, 3, 8), "b": (2, 3, 4, 5), "z": (3, 10, 2)}

# Transforms along other axes.


def mixed_by_transform(p, x):
    return jnp.real(jnp.fft.fft(jnp.tanh(x @ p["a"]), axis=1)) @ p["z"]


def filtered(p, x):
    """A long convolution: products of spectra (Hyena, S4)."""
    h = x @ p["a"]
    spectrum = jnp.fft.rfft(h, 16, axis=1) * jnp.fft.rfft(p["long"], 16, axis=0)[None]
    return (jnp.fft.irfft(spectrum, 16, axis=1)[:, :8] * h) @ p["z"]


def neural_operator(p, x):
    """Channels are mixed for each frequency (FNO)."""
    h = jnp.fft.rfft(x @ p["a"], axis=1)[:, :3]
    weights = lax.complex(p["real"], p["imag"])
    mixed = jnp.pad(jnp.einsum("bki,kio->bko", h, weights), ((0, 0), (0, 2), (0, 0)))
    return jax.nn.gelu(jnp.fft.irfft(mixed, 8, axis=1)) @ p["z"]


LAYER = {"a": (3, 6), "z": (6, 2)}
OPERATOR = {"a": (3, 6), "real": (3, 6, 4), "imag": (3, 6, 4), "z": (4, 2)}

# Loops that end by themselves.


def cell(p, h, u):
    return 0.5 * jnp.tanh(h @ p["w"] + u)


def equilibrium(p, x):
    """The point where a layer gives itself (DEQ); ends by the size of the last step."""
    u = x @ p["a"]

    def far(carry):
        h, before, t = carry
        return (jnp.square(h - before).sum() > 1e-9) & (t < 60)

    def step(carry):
        h, _, t = carry
        return cell(p, h, u), h, t + 1

    h = jnp.zeros_like(u)
    return lax.while_loop(far, step, (cell(p, h, u), h, jnp.int32(0)))[0] @ p["z"]


@jax.custom_vjp
def solved(p, u):
    far = lambda c: (jnp.square(c[0] - c[1]).sum() > 1e-10) & (c[2] < 80)  # noqa: E731
    step = lambda c: (cell(p, c[0], u), c[0], c[2] + 1)  # noqa: E731
    h = jnp.zeros_like(u)
    return lax.while_loop(far, step, (cell(p, h, u), h, jnp.int32(0)))[0]


def solved_forward(p, u):
    h = solved(p, u)
    return h, (p, u, h)


def solved_backward(saved, slope):
    p, u, h = saved
    pull = jax.vjp(lambda h: cell(p, h, u), h)[1]
    g = lax.fori_loop(0, 30, lambda _, g: slope + pull(g)[0], slope)
    return jax.vjp(lambda p, u: cell(p, h, u), p, u)[1](g)


solved.defvjp(solved_forward, solved_backward)


def implicit(p, x):
    return solved({"w": p["w"]}, x @ p["a"]) @ p["z"]


def adaptive_solver(p, x):
    """Heun's method with steps by the error, for each example of a batch on its own."""

    def example(h):
        f = lambda h: jnp.tanh(h @ p["w"]) - h  # noqa: E731

        def step(carry):
            t, dt, h = carry
            k = f(h)
            error = dt / 2 * (f(h + dt * k) - k)
            good = jnp.sqrt(jnp.square(error).sum()) < 0.05
            h = jnp.where(good, h + dt * k + error, h)
            return t + jnp.where(good, dt, 0.0), jnp.where(good, 1.3, 0.5) * dt, h

        return lax.while_loop(lambda c: c[0] < 1.0, step, (0.0, 0.5, h))[2]

    return jax.vmap(example)(x @ p["a"]) @ p["z"]


def as_often_as_said(p, x, n):
    return lax.fori_loop(0, n, lambda _, h: h + cell(p, h, h), x @ p["a"]) @ p["z"]


DEEP = {"a": (3, 6), "w": (6, 6), "z": (6, 2)}

# Products by group of rows: experts without a capacity.

COUNTS = jnp.array([2, 0, 3], jnp.int32)


def dropless(p, x):
    h = jax.nn.relu(lax.ragged_dot(x, p["up"], COUNTS))
    return lax.ragged_dot(h, p["down"], COUNTS)


def dropless_by_router(p, x):
    """Tokens are sorted by expert, and put back."""
    expert = jnp.argmax(x @ p["router"], axis=-1)
    order = jnp.argsort(expert)
    counts = jnp.bincount(expert, length=3).astype(jnp.int32)
    rows = (x @ p["a"])[order]
    gate, up = (lax.ragged_dot(rows, p[name], counts) for name in ("gate", "up"))
    y = lax.ragged_dot(jax.nn.silu(gate) * up, p["down"], counts)
    return jnp.zeros_like(y).at[order].set(y)


def by_group_of_rows(p, x):
    """The gradient's form: the rows are summed over, group by group."""
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    h = jnp.tanh(x @ p["a"])
    return lax.ragged_dot_general(h, x, COUNTS, numbers).transpose(0, 2, 1) @ p["z"]


EXPERTS = {"up": (3, 3, 6), "down": (3, 6, 2)}
ROUTED = {"router": (3, 3), "a": (3, 4), "gate": (3, 4, 6), "up": (3, 4, 6), "down": (3, 6, 2)}
ROWS = (normal(5, 3),)

CASES = {
    "mapped convolutions: ensemble": Case(
        ensemble, ENSEMBLE, SIGNAL, {"a:0": 2, "a:3": 4}, export=True
    ),
    "mapped convolutions: mixed kernels": Case(mixed_kernels, MIXED, SIGNAL, {"a": 4, "route": 2}),
    "mapped convolutions: branches": Case(
        mapped_over_branches, BRANCHES, SIGNAL, {"a:2": 2, "a:2#2": 4, "b": 5}
    ),
    "transform: tokens": Case(mixed_by_transform, LAYER, SIGNAL, {"a": 6}),
    "transform: filters": Case(filtered, {**LAYER, "long": (16, 6)}, SIGNAL, {"a": 6}, export=True),
    "transform: operator": Case(neural_operator, OPERATOR, SIGNAL, {"a": 6, "imag": 4}),
    "while: equilibrium": Case(
        equilibrium, DEEP, (normal(2, 3),), {"a": 6}, export=True, gradients=False
    ),
    "while: implicit gradient": Case(implicit, DEEP, (normal(2, 3),), {"a": 6}),
    "while: adaptive solver": Case(
        adaptive_solver, DEEP, (normal(2, 3),), {"a": 6}, gradients=False
    ),
    "while: bound": Case(
        as_often_as_said, DEEP, (normal(2, 3), jnp.int32(3)), {"a": 6}, gradients=False
    ),
    "ragged: experts": Case(dropless, EXPERTS, ROWS, {"up": 6}, export=True),
    "ragged: routed": Case(dropless_by_router, ROUTED, ROWS, {"a": 4, "gate": 6}),
    "ragged: sums": Case(by_group_of_rows, LAYER, ROWS, {"a": 6}, gradients=False),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_are_followed(name):
    case = CASES[name]
    check(
        case.apply, case.shapes, *case.inputs, expected=case.expected, export=case.export,
        gradients=case.gradients,
    )  # fmt: skip


def test_other_derivatives_of_loops_are_those_of_the_masked_network():
    """JAX pushes tangents through a `while`, and pulls none back."""
    params, x = params_of(DEEP), normal(2, 3)
    groups = jp.structured.channel_groups(adaptive_solver, params, x)
    masks = jp.structured.masks(groups, random_kept(groups, 0.5))
    small_apply, small = jp.structured.shrink(adaptive_solver, params, masks, x)
    masked, direction = jp.apply_mask(params, masks), normal(2, 3, seed=2)

    @quick
    def both(masked, small):
        return (
            jax.jvp(lambda x: adaptive_solver(masked, x), (x,), (direction,)),
            jax.jvp(lambda x: small_apply(small, x), (x,), (direction,)),
        )

    close(*both(masked, small))


def test_a_loop_that_ends_by_what_is_not_zero_keeps_its_channels():
    def apply(p, x):
        far = lambda h: jnp.cumsum(jnp.cos(h), axis=1).mean() > 0.9  # noqa: E731
        return lax.while_loop(far, lambda h: h * 1.5, x @ p["a"]) @ p["z"]

    groups = jp.structured.channel_groups(apply, params_of(LAYER), normal(2, 3))
    assert len(groups) == 0
    assert "depend on each other, in cumsum" in reasons(groups, "a", 1)


def test_a_carry_of_a_while_that_starts_at_zero_and_does_not_stay_so():
    def apply(p, x):
        start = jnp.zeros((2, 6)), jnp.int32(0)
        step = lambda c: (c[0] @ p["w"] + jnp.cos(c[0]), c[1] + 1)  # noqa: E731
        h = lax.while_loop(lambda c: c[1] < x[0, 0].astype(jnp.int32), step, start)[0]
        return (h + x @ p["a"]).sum(1)

    groups = jp.structured.channel_groups(
        apply, params_of({"a": (3, 6), "w": (6, 6)}), normal(2, 3)
    )
    assert len(groups) == 0
    assert "what is summed is not zero" in reasons(groups, "a", 1)


def test_experts_stay():
    """A masked expert's rows give zero; without it they would be another's."""
    groups = jp.structured.channel_groups(dropless, params_of(EXPERTS), *ROWS)
    assert removable(groups, "up", 0) == 0
    assert "counted by group, in ragged_dot_general" in reasons(groups, "up", 0)


def test_counts_for_each_example():
    numbers = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((2,), (1,)), ((), ())),
        lhs_ragged_dimensions=[1],
        rhs_group_dimensions=[0],
    )

    def apply(p, x, counts):
        h = lax.ragged_dot_general(x, p["up"], counts, numbers)
        return lax.ragged_dot_general(jnp.tanh(h), p["down"], counts, numbers)

    counts = jnp.array([[2, 0, 3], [1, 1, 3]], jnp.int32)
    check(apply, EXPERTS, normal(2, 5, 3), counts, expected={"up": 6}, gradients=False)


def test_transformed_axes_stay_beside_others():
    def apply(p, x):
        return jnp.real(jnp.fft.fft2(x @ p["a"])) @ p["z"]

    groups = jp.structured.channel_groups(apply, params_of(LAYER), normal(2, 8, 3))
    assert len(groups) == 0
    assert "it is transformed, in fft" in reasons(groups, "a", 1)
    assert "it is transformed, in fft" in reasons(groups, "z", 0)


def test_loops_that_are_mapped_over_channels():
    """Each channel goes on as long as it has to."""

    def apply(p, x):
        def channel(h):
            return lax.while_loop(lambda h: jnp.square(h).sum() > 0.1, lambda h: h / 2, h)

        return jax.vmap(channel, in_axes=1, out_axes=1)(x @ p["a"]) @ p["z"]

    check(apply, LAYER, normal(2, 3), expected={"a": 6}, gradients=False)


def test_parameters_that_only_the_test_of_a_loop_reads():
    def apply(p, x):
        bound = jnp.square(x @ p["b"] @ p["c"]).sum()
        far = lambda h: jnp.square(h).sum() > bound  # noqa: E731
        return lax.while_loop(far, lambda h: h / 2, x @ p["a"]) @ p["z"]

    shapes = {**LAYER, "b": (3, 4), "c": (4, 3)}
    check(apply, shapes, normal(2, 3), expected={"a": 6, "b": 4, "c": 3}, gradients=False)
