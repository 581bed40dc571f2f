"""Densely connected networks for CIFAR, such as DenseNet-40."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, conv, widths_or


class DenseNet(nn.Module):
    """The CIFAR DenseNets of Huang et al. without bottlenecks and without compression.

    A 3x3 convolution; dense blocks, whose layers (normalisation, ReLU, 3x3 convolution) each read
    all channels so far and add `growth` new ones behind them; between two blocks a transition
    (normalisation, ReLU, 1x1 convolution, 2x2 average pooling); normalisation, ReLU, global average
    pooling and a dense layer. The defaults are DenseNet-40 with growth 12: 1,019,722 parameters for
    ten classes.

    Attributes:
        num_classes: number of logits.
        layers: layers in each of the dense blocks, (depth - 4) / 3 for three blocks.
        blocks: dense blocks.
        growth: channels that a layer adds.
        stem_width: channels of the first convolution. The codes of Liu et al. and of HRank have 24
            (1,059,298 parameters), as the paper has for its bottleneck variant.
        inner_widths: channels that each layer adds, one number a layer in the order of the network;
            `None` for `growth`.
        transition_widths: channels after each transition; `None` for those before it.
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        Huang et al. (2017), "Densely connected convolutional networks", section 3.
    """

    num_classes: int
    layers: int = 12
    blocks: int = 3
    growth: int = 12
    stem_width: int = 16
    inner_widths: tuple[int, ...] | None = None
    transition_widths: tuple[int, ...] | None = None
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: there is not one inner width a layer, or not one width a transition, or the
                image is too small for the poolings.
        """
        smallest = 2 ** (self.blocks - 1)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"a DenseNet of {self.blocks} blocks needs images of at least"
                f" {smallest}x{smallest} pixels, got {x.shape[1]}x{x.shape[2]}; give fewer blocks"
            )
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        full = [self.growth] * (self.blocks * self.layers)
        inner_widths = widths_or(full, self.inner_widths, "inner_widths")
        through = self.stem_width
        before = []  # the channels that arrive at each transition
        for block in range(self.blocks - 1):
            start = block * self.layers
            through += sum(inner_widths[start : start + self.layers])
            before.append(through)
            if self.transition_widths is not None and block < len(self.transition_widths):
                through = self.transition_widths[block]
        transitions = widths_or(before, self.transition_widths, "transition_widths")

        x = conv(self.stem_width, 3, dtype=self.dtype, name="conv_in")(x)
        for block in range(self.blocks):
            for layer in range(self.layers):
                name = f"block{block}_layer{layer}"
                width = inner_widths[block * self.layers + layer]
                y = nn.relu(norm(f"{name}_norm")(x))
                y = conv(width, 3, dtype=self.dtype, name=f"{name}_conv")(y)
                x = jnp.concatenate([x, y], axis=-1)
            if block < self.blocks - 1:
                x = nn.relu(norm(f"transition{block}_norm")(x))
                x = conv(transitions[block], 1, dtype=self.dtype, name=f"transition{block}_conv")(x)
                # nn.avg_pool divides by a NumPy integer, which strict promotion refuses.
                x = nn.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") * 0.25
        x = nn.relu(norm("norm_out")(x))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="dense_out")(x).astype(jnp.float32)
