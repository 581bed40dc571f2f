"""The convolutional network of the demonstration: small enough for a laptop's CPU."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class SmallCNN(nn.Module):
    """Two 3x3 convolutions, each pooled, and one hidden dense layer.

    Made for the 8x8 digits; any image of at least 4x4 pixels will do.

    Attributes:
        num_classes: number of logits.
        widths: channels of the two convolutions and units of the hidden dense layer.
        dtype: type of the computation; parameters and logits are float32.
    """

    num_classes: int
    widths: tuple[int, int, int] = (16, 32, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: the image is smaller than 4x4.
        """
        del train  # No layer here behaves differently in training.
        if min(x.shape[1:3]) < 4:
            raise ValueError(
                f"small_cnn needs images of at least 4x4 pixels, got {x.shape[1]}x{x.shape[2]}; for"
                " smaller ones take lenet_300_100"
            )
        *channels, hidden = self.widths
        for width in channels:
            x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(hidden, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
