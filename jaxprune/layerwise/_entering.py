"""What enters a product, as rows: ``[..., rows, in]`` beside a kernel ``[..., in, out]``."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune import _tree

Kind: TypeAlias = Literal["norms", "moments", "gram"]


class Totals(NamedTuple):
    """Sums over rows; `None` what is not asked for.

    Attributes:
      count: how many rows there were, float32 ``[]``.
      squares: sums of squares ``[..., in]``.
      mean: means ``[..., in]``.
      spread: sums of squared distances from the mean ``[..., in]``.
      gram: sums of products ``[..., in, in]``.
    """

    count: Any
    squares: Any = None
    mean: Any = None
    spread: Any = None
    gram: Any = None


def rows_of(eqn: Any, weight: int, x: jax.Array) -> jax.Array:
    """The inputs of a product as rows.

    Args:
      eqn: a ``dot_general`` or a ``conv_general_dilated``.
      weight: which operand is the weight.
      x: the other one.

    Returns:
      ``[..., rows, in]``, with the axes and the order of inputs of `program.Site.entries`.
      Of a convolution each row is the part of the input under the kernel, padding as zeros.
    """
    if eqn.primitive.name == "dot_general":
        contracted, batch = eqn.params["dimension_numbers"]
        inner, outer = contracted[1 - weight], batch[1 - weight]
        free = [axis for axis in range(x.ndim) if axis not in {*inner, *outer}]
        sizes = [x.shape[axis] for axis in outer]
        width = math.prod(x.shape[axis] for axis in inner)
        rows = math.prod(x.shape[axis] for axis in free)
        return x.transpose([*outer, *free, *inner]).reshape(*sizes, rows, width)
    params = eqn.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    kernel = eqn.invars[1].aval.shape
    window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        x,
        window,
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=jax.lax.Precision.HIGHEST,
    )  # features: channels first, then the places of the window
    patches = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    rows = patches.reshape(-1, groups, patches.shape[-1] // groups).swapaxes(0, 1)
    return rows[0] if groups == 1 else rows


def nothing(kind: Kind, kernel: tuple[int, ...], dtype: Any) -> Totals:
    """Totals of no rows, for a kernel ``[..., in, out]``."""
    line = kernel[:-1]
    zeros = jnp.zeros(line, dtype)
    count = jnp.zeros((), jnp.float32)
    if kind == "norms":
        return Totals(count, squares=zeros)
    if kind == "moments":
        return Totals(count, mean=zeros, spread=zeros)
    return Totals(count, gram=jnp.zeros((*line, line[-1]), dtype))


def added(kind: Kind, totals: Totals, rows: jax.Array) -> Totals:
    """Totals with some rows more, in float32 at least."""
    x = rows.astype(_tree.wide_dtype(rows.dtype))
    n = jnp.asarray(x.shape[-2], jnp.float32)
    count = totals.count + n
    if kind == "norms":
        return totals._replace(count=count, squares=totals.squares + jnp.sum(x * x, axis=-2))
    if kind == "moments":
        # Chan et al.: the distances are from each batch's own mean, so that nothing cancels.
        mean = jnp.mean(x, axis=-2)
        spread = jnp.sum(jnp.square(x - mean[..., None, :]), axis=-2)
        apart = mean - totals.mean
        share = (n / count).astype(x.dtype)
        spread = totals.spread + spread + jnp.square(apart) * totals.count.astype(x.dtype) * share
        return totals._replace(count=count, mean=totals.mean + apart * share, spread=spread)
    product = jnp.matmul(x.swapaxes(-1, -2), x, precision=jax.lax.Precision.HIGHEST)
    return totals._replace(count=count, gram=totals.gram + product)
