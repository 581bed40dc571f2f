"""Networks that give every pixel a class: a dilated ResNet with a PSPNet or a DeepLab head."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.models import batch_norm, he_normal


class SegmentationNet(nn.Module):
    """A ResNet whose later stages are dilated and not strided, with a head over its features.

    The stem is a 3x3 convolution of stride 2; each of four stages has `depth` basic blocks, the
    first of the second stage of stride 2. The third and fourth stage keep that size, a quarter of
    the image, with dilations 2 and 4. The logits are enlarged to the image's size by bilinear
    interpolation.

    Attributes:
      num_classes: number of logits a pixel.
      head: "pspnet": means over grids of 1, 2, 3 and 6 cells beside the features. "deeplab":
        convolutions of dilation 1, 2, 4 and 6 and the mean of the image, beside each other.
      width: channels of the first stage; the others have 2, 4 and 8 times as many.
      depth: blocks of each stage.
      dtype: type of the computation; parameters, batch statistics and logits are float32.
      axis_name: of the mapped axis of `jax.pmap`, over which batch statistics are averaged.

    References:
      Zhao et al. (2017), "Pyramid scene parsing network". Chen et al. (2017), "Rethinking atrous
      convolution for semantic image segmentation". Yu et al. (2017), "Dilated residual networks".
    """

    num_classes: int
    head: str = "pspnet"
    width: int = 16
    depth: int = 1
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [b, height, width, channels] to float32 [b, height, width, num_classes]."""
        size = x.shape[1:3]
        norm = partial(batch_norm, train, self.dtype, self.axis_name)

        def unit(x: jax.Array, width: int, kernel: int, name: str, **options: int) -> jax.Array:
            x = _conv(width, kernel, self.dtype, f"conv_{name}", **options)(x)
            return nn.relu(norm(f"norm_{name}")(x))

        x = unit(x, self.width, 3, "in", stride=2)
        plan = ((1, 1, 1), (2, 2, 1), (4, 1, 2), (8, 1, 4))
        for stage, (factor, stride, dilation) in enumerate(plan):
            for block in range(self.depth):
                x = _Block(
                    factor * self.width,
                    stride if block == 0 else 1,
                    dilation,
                    norm,
                    self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x)
        branch = max(1, x.shape[-1] // 4)
        if self.head == "pspnet":
            branches = [x]
            for cells in (1, 2, 3, 6):
                pooled = _mean_over_cells(x, cells)
                pooled = unit(pooled, branch, 1, f"pool{cells}")
                branches.append(_enlarged(pooled, x.shape[1:3]))
        else:
            branches = [unit(x, branch, 1, "near")]
            for dilation in (2, 4, 6):
                branches.append(unit(x, branch, 3, f"far{dilation}", dilation=dilation))
            whole = unit(jnp.mean(x, axis=(1, 2), keepdims=True), branch, 1, "whole")
            branches.append(jnp.broadcast_to(whole, (*x.shape[:3], branch)))
        x = unit(jnp.concatenate(branches, axis=-1), 2 * branch, 3, "head")
        logits = nn.Conv(
            self.num_classes, (1, 1), kernel_init=he_normal, dtype=self.dtype, name="conv_out"
        )(x)
        return _enlarged(logits.astype(jnp.float32), size)


class _Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), with dilated convolutions."""

    width: int
    stride: int
    dilation: int
    norm: Callable[[str], Callable[[jax.Array], jax.Array]]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(_conv, self.width, dtype=self.dtype, dilation=self.dilation)
        y = conv(3, name="conv0", stride=self.stride)(x)
        y = nn.relu(self.norm("norm0")(y))
        y = self.norm("norm1")(conv(3, name="conv1")(y))
        if x.shape != y.shape:
            x = _conv(self.width, 1, self.dtype, "conv_shortcut", stride=self.stride)(x)
            x = self.norm("norm_shortcut")(x)
        return nn.relu(x + y)


def _conv(
    width: int, kernel: int, dtype: Any, name: str, *, stride: int = 1, dilation: int = 1
) -> nn.Conv:
    side = kernel // 2 * dilation
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=stride,
        padding=((side, side), (side, side)),
        kernel_dilation=dilation,
        use_bias=False,
        kernel_init=he_normal,
        dtype=dtype,
        name=name,
    )


def _mean_over_cells(x: jax.Array, cells: int) -> jax.Array:
    """Means over a grid of cells x cells; where the size is no multiple, cells overlap by a row."""
    for axis in (1, 2):
        n = x.shape[axis]
        # The bounds of torch's adaptive pooling, as a matrix of weights [cells, n].
        rows = [[1.0 / (-(-(i + 1) * n // cells) - i * n // cells)] * n for i in range(cells)]
        inside = [
            [i * n // cells <= place < -(-(i + 1) * n // cells) for place in range(n)]
            for i in range(cells)
        ]
        weights = jnp.where(jnp.array(inside), jnp.array(rows), 0.0).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(weights, x, axes=(1, axis)), 0, axis)
    return x


def _enlarged(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")


MODELS: dict[str, Callable[..., nn.Module]] = {
    "pspnet": SegmentationNet,
    "deeplab": partial(SegmentationNet, head="deeplab"),
}
"""Name -> factory(num_classes=..., dtype=..., **fields of the model)."""


def create(config: Config, num_classes: int, dtype: Any, axis_name: str | None) -> nn.Module:
    """The model of a configuration.

    Args:
      config: names the model and its sizes.
      num_classes: number of classes.
      dtype: type of the computation.
      axis_name: see `SegmentationNet`.
    """
    sizes = {"width": config.width, "depth": config.depth}
    given = {name: value for name, value in sizes.items() if value is not None}
    return MODELS[config.model](num_classes=num_classes, dtype=dtype, axis_name=axis_name, **given)
