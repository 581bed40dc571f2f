"""MobileNet-V2: inverted residual blocks with depthwise convolutions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, he_normal_fan_out, widths_or
from ._layers import conv as conv_of_fan_in

conv = partial(conv_of_fan_in, kernel_init=he_normal_fan_out)


class MobileNetV2(nn.Module):
    """MobileNet-V2 in torchvision's form: 3,504,872 parameters for 1000 classes.

    A 3x3 convolution with stride 2; stages of inverted residual blocks (1x1 convolution to more
    channels, depthwise 3x3 convolution, linear 1x1 convolution to few channels); a 1x1 convolution;
    global average pooling; dropout; a dense layer. Every convolution is normalised, and followed by
    ReLU6 unless linear. All blocks of a stage but the first have a shortcut.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage.
        blocks: blocks in each stage.
        strides: stride of the first block of each stage.
        expansions: factor from a block's input channels to its inner ones in each stage; 1 leaves
            the first convolution of the block out.
        stem_width: channels of the first convolution.
        stem_stride: its stride; 1 keeps more of small images.
        head_width: channels of the last convolution.
        inner_widths: inner channels (depthwise convolution) of each block that has a first
            convolution, in the order of the network; `None` for those that `expansions` gives.
        dropout: fraction of the features that training drops before the dense layer; where it is
            positive, training needs a key named "dropout".
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        Sandler et al. (2018), "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
    """

    num_classes: int
    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    blocks: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    stem_width: int = 32
    stem_stride: int = 2
    head_width: int = 1280
    inner_widths: tuple[int, ...] | None = None
    dropout: float = 0.2
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: there is not one inner width for each block that expands.
        """
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        stages = list(zip(self.widths, self.blocks, self.strides, self.expansions, strict=True))
        full = []
        last = self.stem_width
        for width, blocks, _, expansion in stages:
            inputs = [last] + [width] * (blocks - 1)
            full += [expansion * width_in for width_in in inputs if expansion > 1]
            last = width
        inner_widths = iter(widths_or(full, self.inner_widths, "inner_widths"))

        x = conv(self.stem_width, 3, self.stem_stride, dtype=self.dtype, name="conv_in")(x)
        x = nn.relu6(norm("norm_in")(x))
        for stage, (width, blocks, first_stride, expansion) in enumerate(stages):
            for block in range(blocks):
                inner = next(inner_widths) if expansion > 1 else None
                stride = first_stride if block == 0 else 1
                name = f"stage{stage}_block{block}"
                y = _Block(inner, width, stride, norm, self.dtype, name=name)(x)
                # By the position, not by equal shapes: pruned stages may happen to be equally wide.
                x = x + y if block > 0 else y
        x = conv(self.head_width, 1, dtype=self.dtype, name="conv_head")(x)
        x = jnp.mean(nn.relu6(norm("norm_head")(x)), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        normal = nn.initializers.normal(0.01)
        dense = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=normal, name="dense_out")
        return dense(x).astype(jnp.float32)


class _Block(nn.Module):
    """Expand, convolve each channel on its own, project; `inner_width` None expands nothing."""

    inner_width: int | None
    width: int
    stride: int
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.inner_width is not None:
            x = conv(self.inner_width, 1, dtype=self.dtype, name="conv_expand")(x)
            x = nn.relu6(self.norm("norm_expand")(x))
        channels = x.shape[-1]
        depthwise = conv(
            channels, 3, self.stride, groups=channels, dtype=self.dtype, name="conv_depthwise"
        )
        x = nn.relu6(self.norm("norm_depthwise")(depthwise(x)))
        x = conv(self.width, 1, dtype=self.dtype, name="conv_project")(x)
        return self.norm("norm_project")(x)
