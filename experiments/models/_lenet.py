"""A convolutional network in the shape of LeNet-5."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class LeNet5(nn.Module):
    """Two 5x5 convolutions with pooling, then three dense layers.

    LeNet-5 read 32x32 images without padding. Here the first convolution is padded where the image
    is smaller than that, so that 28x28 and 32x32 images both arrive at 5x5x16 features: 61,706
    parameters for 28x28x1 and ten classes. ReLU and max-pooling replace the saturating
    nonlinearity and the trained average pooling of 1998, as is usual today.

    Attributes:
        num_classes: number of logits.
        widths: channels of the two convolutions and units of the two hidden dense layers.
        dtype: type of the computation; parameters and logits are float32.

    References:
        LeCun et al. (1998), "Gradient-based learning applied to document recognition".
    """

    num_classes: int
    widths: tuple[int, int, int, int] = (6, 16, 120, 84)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: the image is smaller than 12x12.
        """
        del train  # No layer here behaves differently in training.
        side = min(x.shape[1:3])
        if side < 12:
            raise ValueError(
                f"lenet5 needs images of at least 12x12 pixels, got {x.shape[1]}x{x.shape[2]}; for"
                " smaller ones take small_cnn"
            )
        first, second, *hidden = self.widths
        x = nn.Conv(first, (5, 5), padding="SAME" if side < 32 else "VALID", dtype=self.dtype)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = nn.Conv(second, (5, 5), padding="VALID", dtype=self.dtype)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for width in hidden:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
