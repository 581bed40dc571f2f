"""VGG-16 with batch normalisation, for CIFAR."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import batch_norm, conv, he_normal, widths_or

_FULL = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
# Convolutions that are followed by pooling.
_POOLED = (1, 3, 6, 9)


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions and two dense layers, with batch normalisation between them.

    The variant of Liu et al. and of Le and Hua: max-pooling after the second, fourth, seventh and
    tenth convolution, and after the last the average over the image (2x2 pixels of CIFAR's 32x32)
    in place of the fifth max-pooling; one hidden dense layer, normalised too. The convolutions have
    no bias. 14,987,722 parameters for three input channels and ten classes, 14,718,912 of them up
    to the average. Without the hidden layer, as in Renda et al., it has 14,724,042.

    Attributes:
        num_classes: number of logits.
        widths: channels of the thirteen convolutions.
        hidden_width: units of the hidden dense layer; `None` for none.
        dtype: type of the computation; parameters, batch statistics and logits are float32.
        axis_name: name of the mapped axis over which batch statistics are averaged under
            `jax.pmap`; `None` otherwise (a batch sharded under jit needs no name).

    References:
        Simonyan and Zisserman (2015), "Very deep convolutional networks for large-scale image
        recognition", table 1, column D.
        Li et al. (2017), "Pruning filters for efficient ConvNets", table 2 (the pruned widths).
        Liu et al. (2019), "Rethinking the value of network pruning".
        Le and Hua (2021), "Network pruning that matters: a case study on retraining variants".
    """

    num_classes: int
    widths: tuple[int, ...] = _FULL
    hidden_width: int | None = 512
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: the image is smaller than 16x16, or there are not thirteen widths.
        """
        if min(x.shape[1:3]) < 16:
            raise ValueError(
                f"vgg16_bn needs images of at least 16x16 pixels, got {x.shape[1]}x{x.shape[2]};"
                " for smaller ones take small_cnn"
            )
        norm = partial(batch_norm, train, self.dtype, self.axis_name)
        for layer, width in enumerate(widths_or(_FULL, self.widths, "widths")):
            x = conv(width, 3, dtype=self.dtype, name=f"conv{layer}")(x)
            x = nn.relu(norm(f"norm{layer}")(x))
            if layer in _POOLED:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = jnp.mean(x, axis=(1, 2))
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=he_normal)
        if self.hidden_width is not None:
            x = dense(self.hidden_width, name="dense_hidden")(x)
            x = nn.relu(norm("norm_hidden")(x))
        return dense(self.num_classes, name="dense_out")(x).astype(jnp.float32)
