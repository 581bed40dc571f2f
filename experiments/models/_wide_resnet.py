"""Wide residual networks for CIFAR."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, conv, he_normal, widths_or


class WideResNet(nn.Module):
    """The wide ResNets of Zagoruyko and Komodakis: 6n + 4 layers, normalisation in front.

    A 3x3 convolution; a stage of n blocks for each width, the first block of every later stage with
    stride 2; normalisation, ReLU and global average pooling; a dense layer. Where a block changes
    size or channels, its shortcut is a 1x1 convolution of the normalised input. WRN-28-10 (n = 4)
    has 36,479,194 parameters for ten classes.

    Attributes:
        num_classes: number of logits.
        blocks: blocks in each stage, n = (layers - 4) / 6.
        widths: channels of each stage: 16, 32 and 64 times the factor of widening.
        stem_width: channels of the first convolution.
        inner_widths: channels between the two convolutions of each block, one number a block in the
            order of the network; `None` for the width of its stage.
        dropout: fraction of entries dropped between the two convolutions of each block, in [0, 1).
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        Zagoruyko and Komodakis (2016), "Wide residual networks", table 1.
        Zimmer et al. (2023) train WRN-28-10 on CIFAR-100 with a dropout of 0.3.
    """

    num_classes: int
    blocks: int = 4
    widths: tuple[int, ...] = (160, 320, 640)
    stem_width: int = 16
    inner_widths: tuple[int, ...] | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: there is not one inner width a block.
        """
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        full = [width for width in self.widths for _ in range(self.blocks)]
        inner_widths = iter(widths_or(full, self.inner_widths, "inner_widths"))
        x = conv(self.stem_width, 3, dtype=self.dtype, name="conv_in")(x)
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                name = f"stage{stage}_block{block}"
                stride = 2 if stage > 0 and block == 0 else 1
                layers = ((next(inner_widths), stride), (width, 1))
                x = _Block(layers, train, self.dropout, norm, self.dtype, name=name)(x)
        x = jnp.mean(nn.relu(norm("norm_out")(x)), axis=(1, 2))
        dense = nn.Dense(
            self.num_classes, dtype=self.dtype, kernel_init=he_normal, name="dense_out"
        )
        return dense(x).astype(jnp.float32)


class _Block(nn.Module):
    """shortcut(relu(norm(x))) + layers(relu(norm(x))), or x + layers(...) where shapes agree.

    Attributes:
        layers: (channels, stride) of both convolutions.
        train: whether to drop entries.
        dropout: fraction of them.
        norm: makes the normalisation of a name.
        dtype: type of the computation.
    """

    layers: tuple[tuple[int, int], ...]
    train: bool
    dropout: float
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (inner, stride), (width, _) = self.layers
        first = nn.relu(self.norm("norm0")(x))
        y = conv(inner, 3, stride, dtype=self.dtype, name="conv0")(first)
        y = nn.relu(self.norm("norm1")(y))
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = conv(width, 3, dtype=self.dtype, name="conv1")(y)
        if stride > 1 or x.shape[-1] != width:
            x = conv(width, 1, stride, dtype=self.dtype, name="conv_shortcut")(first)
        return x + y
