"""Residual networks for CIFAR: 6n + 2 layers with parameter-free shortcuts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, conv, he_normal, widths_or


class ResNet(nn.Module):
    """The CIFAR ResNets of He et al. with shortcut option A.

    A 3x3 convolution, then a stage of n basic blocks for each width, the first block of every later
    stage with stride 2; global average pooling; a dense layer. ResNet-56 (n = 9) has 853,018
    parameters for ten classes, 848,944 of them in kernels.

    Attributes:
        num_classes: number of logits.
        blocks: basic blocks in each stage, n = (layers - 2) / 6.
        widths: channels of each stage; must not decrease.
        inner_widths: channels between the two convolutions of each block, one number a block in the
            order of the network; `None` for the width of its stage. Pruning the filters of the
            first convolution of a block leaves such a network.
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        He et al. (2016), "Deep residual learning for image recognition", section 4.2.
        Li et al. (2017), "Pruning filters for efficient ConvNets", section 3.3 (inner widths).
    """

    num_classes: int
    blocks: int
    widths: tuple[int, ...] = (16, 32, 64)
    inner_widths: tuple[int, ...] | None = None
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: the widths decrease, or there is not one inner width a block.
        """
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        full = [width for width in self.widths for _ in range(self.blocks)]
        inner_widths = iter(widths_or(full, self.inner_widths, "inner_widths"))
        x = conv(self.widths[0], 3, dtype=self.dtype, name="conv_in")(x)
        x = nn.relu(norm("norm_in")(x))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = _Block(next(inner_widths), width, stride, norm, self.dtype, name=name)(x)
        x = jnp.mean(x, axis=(1, 2))
        dense = nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=he_normal, name="dense_out"
        )
        return dense(x).astype(jnp.float32)


class _Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    inner_width: int
    width: int
    stride: int
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv(self.inner_width, 3, self.stride, dtype=self.dtype, name="conv0")(x)
        y = nn.relu(self.norm("norm0")(y))
        y = conv(self.width, 3, dtype=self.dtype, name="conv1")(y)
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
