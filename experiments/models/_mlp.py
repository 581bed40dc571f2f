"""Multilayer perceptrons such as LeNet-300-100."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class MLP(nn.Module):
    """Dense layers with ReLU on the flattened image.

    With the default widths this is LeNet-300-100: on 28x28 images 266,610 parameters, 266,200 of
    them in kernels.

    Attributes:
        num_classes: number of logits.
        widths: units of the hidden layers.
        dtype: type of the computation; parameters and logits are float32.

    References:
        LeCun et al. (1998), "Gradient-based learning applied to document recognition".
    """

    num_classes: int
    widths: tuple[int, ...] = (300, 100)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes]."""
        del train  # No layer here behaves differently in training.
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
