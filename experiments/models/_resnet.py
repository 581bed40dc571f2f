"""Residual networks for CIFAR: 6n + 2 layers with parameter-free shortcuts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# He et al. draw from an untruncated normal distribution.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ResNet(nn.Module):
    """The CIFAR ResNets of He et al. with shortcut option A.

    A 3x3 convolution, then a stage of n basic blocks for each width, the first block of every later
    stage with stride 2; global average pooling; a dense layer. ResNet-56 (n = 9) has 853,018
    parameters for ten classes, 848,944 of them in kernels.

    Attributes:
        num_classes: number of logits.
        blocks: basic blocks in each stage, n = (layers - 2) / 6.
        widths: channels of each stage; must not decrease.
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        He et al. (2016), "Deep residual learning for image recognition", section 4.2.
    """

    num_classes: int
    blocks: int
    widths: tuple[int, ...] = (16, 32, 64)
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes]."""
        norm = partial(_norm, train, self.dtype, self.axis_name)
        x = _conv3x3(self.widths[0], 1, self.dtype, name="conv_in")(x)
        x = nn.relu(norm("norm_in")(x))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = _Block(width, stride, norm, self.dtype, name=name)(x)
        x = jnp.mean(x, axis=(1, 2))
        dense = nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=_he_normal, name="dense_out"
        )
        return dense(x).astype(jnp.float32)


class _Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    width: int
    stride: int
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _conv3x3(self.width, self.stride, self.dtype, name="conv0")(x)
        y = nn.relu(self.norm("norm0")(y))
        y = _conv3x3(self.width, 1, self.dtype, name="conv1")(y)
        y = self.norm("norm1")(y)
        return nn.relu(y + shortcut(x, self.width, self.stride).astype(y.dtype))


def shortcut(x: jax.Array, width: int, stride: int) -> jax.Array:
    """Option A: take every `stride`-th pixel, and pad the channels with zeros on both sides.

    Args:
        x: [batch, height, width, channels].
        width: channels of the result; of the missing ones the first half (rounded down) goes in
            front.
        stride: 1 or 2.

    Returns:
        [batch, ceil(height / stride), ceil(width / stride), channels of the result].

    Raises:
        ValueError: there are more channels than `width`.
    """
    missing = width - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"a stage of width {width} follows one of width {x.shape[-1]}, and shortcuts without"
            " parameters cannot drop channels; give widths that do not decrease"
        )
    before = missing // 2
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, missing - before)))


def _conv3x3(width: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    # Padding is written out: under stride 2, "SAME" would pad only below and to the right.
    return nn.Conv(
        width,
        (3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        name=name,
    )


def _norm(
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
