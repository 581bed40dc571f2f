"""Residual networks for ImageNet: ResNet-18, 34, 50 and deeper, with projection shortcuts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, he_normal_fan_out, widths_or
from ._layers import conv as conv_of_fan_in

conv = partial(conv_of_fan_in, kernel_init=he_normal_fan_out)


class ImageNetResNet(nn.Module):
    """The ImageNet ResNets of He et al. with shortcut option B, in torchvision's form.

    A 7x7 convolution with stride 2 and a 3x3 max-pooling with stride 2; a stage of residual blocks
    for each width, the first block of every later stage with stride 2; global average pooling; a
    dense layer. Where a block changes size or channels, the shortcut is a normalised 1x1
    convolution. Bottleneck blocks have their stride in the 3x3 convolution ("ResNet v1.5"; the
    paper has it in the first 1x1) and four times the channels outside.

    For small images the first convolution is 3x3 with stride 1, and there is no max-pooling.

    With 1000 classes ResNet-18 (blocks 2, 2, 2, 2) has 11,689,512 parameters, ResNet-34 (3, 4, 6,
    3) 21,797,672 and ResNet-50 (the same with bottlenecks) 25,557,032. ResNet-18 for small images
    with ten classes has 11,173,962.

    Attributes:
        num_classes: number of logits.
        blocks: residual blocks in each stage.
        bottleneck: blocks of a 1x1, a 3x3 and a 1x1 convolution, instead of two 3x3.
        widths: channels of each stage, before the factor four of bottlenecks; the first is also
            that of the 7x7 convolution.
        inner_widths: channels inside each block, in the order of the network: one number a basic
            block (after its first convolution), a pair a bottleneck block (after its first and its
            second); `None` for the width of its stage. Filter pruning that leaves the last
            convolution of each block alone leaves such a network.
        small_images: whether images are as small as CIFAR's.
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        He et al. (2016), "Deep residual learning for image recognition", table 1.
        Li et al. (2017), "Pruning filters for efficient ConvNets", section 3.3 (inner widths).
    """

    num_classes: int
    blocks: tuple[int, ...]
    bottleneck: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512)
    inner_widths: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
    small_images: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: there is not one inner width (or pair) a block.
        """
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        stages = list(zip(self.widths, self.blocks, strict=True))
        full: Any = [
            (width, width) if self.bottleneck else width
            for width, blocks in stages
            for _ in range(blocks)
        ]
        given: Any = self.inner_widths
        inner_widths = iter(widths_or(full, given, "inner_widths"))
        size, stride = (3, 1) if self.small_images else (7, 2)
        x = conv(self.widths[0], size, stride, dtype=self.dtype, name="conv_in")(x)
        x = nn.relu(norm("norm_in")(x))
        if not self.small_images:
            sides: Any = ((1, 1), (1, 1))  # Flax documents this form, but annotates a string
            x = nn.max_pool(x, (3, 3), (2, 2), padding=sides)
        for stage, (width, blocks) in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                inner: Any = next(inner_widths)
                if self.bottleneck:
                    layers = ((inner[0], 1, 1), (inner[1], 3, stride), (4 * width, 1, 1))
                else:
                    layers = ((inner, 3, stride), (width, 3, 1))
                name = f"stage{stage}_block{block}"
                x = _Block(layers, stride, norm, self.dtype, name=name)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="dense_out")(x).astype(jnp.float32)


class _Block(nn.Module):
    """relu(shortcut(x) + layers(x)): normalised convolutions with ReLU between them.

    Attributes:
        layers: (channels, size of the kernel, stride) of each convolution.
        stride: of the block.
        norm: makes the normalisation of a name.
        dtype: type of the computation.
    """

    layers: tuple[tuple[int, int, int], ...]
    stride: int
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for layer, (width, size, stride) in enumerate(self.layers):
            y = nn.relu(y) if layer > 0 else y
            y = conv(width, size, stride, dtype=self.dtype, name=f"conv{layer}")(y)
            y = self.norm(f"norm{layer}")(y)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(y.shape[-1], 1, self.stride, dtype=self.dtype, name="conv_shortcut")(x)
            x = self.norm("norm_shortcut")(x)
        return nn.relu(x + y)
