"""What several models share: convolutions, normalisation, and widths given block by block."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

Width = TypeVar("Width", int, tuple[int, ...])

# He et al. draw from an untruncated normal distribution; torchvision does so by the fan-out.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    width: int,
    size: int,
    stride: int = 1,
    *,
    dtype: Any,
    name: str,
    groups: int = 1,
    kernel_init: jax.nn.initializers.Initializer = he_normal,
) -> nn.Conv:
    """A square convolution of odd `size` without bias, padded alike on all sides."""
    # Padding is written out: under stride 2, "SAME" would pad only below and to the right.
    side = (size // 2, size // 2)
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=(side, side),
        feature_group_count=groups,
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def batch_norm(
    train: bool, dtype: Any, axis_name: str | None, name: str
) -> Callable[[jax.Array], jax.Array]:
    """Batch normalisation that computes in float32 and returns `dtype`."""
    layer = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=jnp.float32,
        axis_name=axis_name,
        name=name,
    )
    # What Flax does with dtype=bfloat16, with the casts written out: strict promotion wants that.
    return lambda x: layer(x.astype(jnp.float32)).astype(dtype)


def layer_norm(dtype: Any, name: str) -> Callable[[jax.Array], jax.Array]:
    """Layer normalisation that computes in float32 and returns `dtype`."""
    layer = nn.LayerNorm(dtype=jnp.float32, name=name)
    return lambda x: layer(x.astype(jnp.float32)).astype(dtype)


def widths_or(default: Sequence[Width], given: Sequence[Width] | None, field: str) -> list[Width]:
    """The widths that a model was given, or its full ones.

    Args:
        default: the full widths in the order of the network: numbers, or tuples of numbers.
        given: as many, of the same form; `None` for the full ones.
        field: of the model, for the message.

    Returns:
        The widths to build.

    Raises:
        ValueError: another number of widths, another form, or a width below one.
    """
    if given is None:
        return list(default)
    if [_form(width) for width in given] != [_form(width) for width in default]:
        raise ValueError(
            f"{field} is {tuple(given)!r}, but this network wants {len(default)} entries in the"
            f" form of its full widths, {tuple(default)!r}"
        )
    if any(min(width if isinstance(width, tuple) else (width,)) < 1 for width in given):
        raise ValueError(
            f"{field} is {tuple(given)!r}, but a layer needs at least one channel; keep one, or"
            " take a network without that layer"
        )
    return list(given)


def _form(width: int | tuple[int, ...]) -> int:
    """0 for a number, else the length."""
    return len(width) if isinstance(width, tuple) else 0
