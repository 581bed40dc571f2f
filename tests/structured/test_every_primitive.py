"""Every primitive of `jax.lax` is followed, or known to be left alone."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

import jaxprune as jp
from jaxprune.structured.analysis._control import CONTROL
from jaxprune.structured.analysis._trace import RULES
from tests.structured.checks import normal
from tests.structured.test_rules import between, check, params_of, reasons, sizes

# Why no axis is followed through a primitive. What is new in jax belongs here or gets a rule.
_DECOMPOSED = "its derivative is not finite for matrices of zeros, which masked positions hold"
_NO_RULE = "linear algebra for which no rule is written"
_SOLVED = "a masked matrix of zeros has no inverse"
_DEVICES = "it moves values between devices"
_SELECTED = "it is the derivative of a maximum over windows, which masked windows of ties decide"
_NO_VALUES = "it has no values to follow"
_NUMBERS = "its random numbers depend on the whole shape"
_FUNCTION = "it combines entries by a function that is not looked into"
LEFT_ALONE = {
    **dict.fromkeys(("eig", "eigh", "qr", "svd", "cholesky", "lu"), _DECOMPOSED),
    **dict.fromkeys(("schur", "hessenberg", "cholesky_update", "tridiagonal"), _NO_RULE),
    **dict.fromkeys(("householder_product", "ormqr", "symmetric_product"), _NO_RULE),
    "lu_pivots_to_permutation": "positions are numbers of rows",
    **dict.fromkeys(("custom_linear_solve", "triangular_solve", "tridiagonal_solve"), _SOLVED),
    **dict.fromkeys(("all_gather", "all_to_all", "ragged_all_to_all", "ppermute"), _DEVICES),
    "axis_index": _NO_VALUES,
    **dict.fromkeys(("after_all", "create_token", "dce_sink", "stage"), _NO_VALUES),
    **dict.fromkeys(("rng_bit_generator", "rng_uniform"), _NUMBERS),
    **dict.fromkeys(("reduce", "reduce_window"), _FUNCTION),
    **dict.fromkeys(
        ("select_and_gather_add", "select_and_scatter", "select_and_scatter_add"), _SELECTED
    ),
}


def exposed():
    """The names of all primitives that `jax.lax` and `jax.lax.linalg` expose."""
    values = [*vars(lax).values(), *vars(lax.linalg).values()]
    return {value.name for value in values if isinstance(value, Primitive)}


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="the table is of the newest JAX for Python 3.11"
)
def test_every_primitive_has_a_rule_or_a_reason():
    followed = {*RULES, *CONTROL}
    assert len(exposed()) > 100
    assert sorted(exposed() - followed - {*LEFT_ALONE}) == []
    assert sorted(followed & {*LEFT_ALONE}) == [], "they have a rule now"


# Along the batch, which is no axis of channels: [2, 6] -> [2, 6].
ALONG_THE_BATCH = {
    "argmin": lambda h: h + h.argmin(0).astype(h.dtype)[None],
    "sort": lambda h: jnp.sort(h, axis=0),
    "cumprod": lambda h: lax.cumprod(h, axis=0),
    "cummax": lambda h: lax.cummax(h, axis=0),
    "cumlogsumexp": lambda h: h * lax.cumlogsumexp(h, axis=0),
    "approx_top_k": lambda h: lax.approx_max_k(h, 2, reduction_dimension=0)[0],
    "approx_top_k, least": lambda h: lax.approx_min_k(h, 2, reduction_dimension=0)[0],
    "approx_top_k, last": lambda h: lax.approx_max_k(h.T, 2)[0].T,
}


@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_the_channels_are_followed_where_another_axis_is_ordered(name):
    shapes, x = {"a": (3, 6), "z": (6, 2)}, normal(2, 3)
    check(between(ALONG_THE_BATCH[name]), shapes, x, expected={"a": 6})


@pytest.mark.parametrize("name", ["cummax", "cumprod", "sort", "approx_top_k"])
def test_ordered_channels_stay_with_a_reason(name):
    bodies = {
        "cummax": lambda h: lax.cummax(h, axis=1),
        "cumprod": lambda h: lax.cumprod(h, axis=1),
        "sort": lambda h: lax.sort(h, dimension=1),
        "approx_top_k": lambda h: lax.approx_max_k(h, 6)[0],
    }
    apply, params, x = between(bodies[name]), params_of({"a": (3, 6), "z": (6, 2)}), normal(2, 3)
    groups = jp.structured.channel_groups(apply, params, x)
    assert sizes(groups) == {}
    (found,) = (f for f in groups.fixed if (f.path, f.axis) == ("a", 1))
    assert f"depend on each other, in {name}" in found.reason
    assert "test_every_primitive.py:" in found.line


def test_what_is_left_alone_names_the_primitive():
    def body(h):
        return lax.linalg.cholesky(h[..., None, None] ** 2 + 1)[..., 0, 0]

    apply, params, x = between(body), params_of({"a": (3, 6), "z": (6, 2)}), normal(2, 3)
    groups = jp.structured.channel_groups(apply, params, x)
    assert sizes(groups) == {}
    assert "it is not followed through, in cholesky" in reasons(groups, "a", 1)
