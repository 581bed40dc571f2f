"""Vision transformers."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import layer_norm
from ._transformer import blocks


class ViT(nn.Module):
    """A vision transformer with learned positions and normalisation before each branch.

    The image is cut into patches, each mapped to a token; the blocks work on all tokens; one dense
    layer reads the class token, or the mean of the tokens. The defaults are ViT-S/16: 22,050,664
    parameters for 224x224x3 images and 1000 classes.

    Attributes:
        num_classes: number of logits.
        patch: side of a patch in pixels; must divide the image's sides.
        width: of a token.
        depth: blocks.
        heads: of each full block; must divide the width.
        mlp_widths: hidden units of each block's MLP, one number a block; `None` for four times the
            width.
        block_heads: heads that each block has left, one number a block; `None` for all. Heads keep
            their width.
        pool: "token" puts a class token in front and reads it at the end, "mean" has none and
            averages.
        dropout: fraction that training drops of the tokens and of each branch's result; where it is
            positive, training needs a key named "dropout".
        dtype: type of the computation; parameters and logits are float32.

    References:
        Dosovitskiy et al. (2021), "An image is worth 16x16 words", section 3.1.
        Touvron et al. (2021), "Training data-efficient image transformers" (width 384: ViT-S).
    """

    num_classes: int
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_widths: tuple[int, ...] | None = None
    block_heads: tuple[int, ...] | None = None
    pool: Literal["token", "mean"] = "token"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map images [batch, height, width, channels] to logits float32 [batch, num_classes].

        Raises:
            ValueError: the image is not made of whole patches, the heads do not divide the width,
                there is not one number a block, or the pooling is unknown.
        """
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} pixels do not consist of whole patches of"
                f" {self.patch}x{self.patch}; give another patch"
            )
        if self.pool not in ("token", "mean"):
            raise ValueError(f"unknown pool {self.pool!r}. Known: token, mean")
        size = (self.patch, self.patch)
        embed = nn.Conv(
            self.width, size, strides=size, padding="VALID", dtype=self.dtype, name="embed"
        )
        x = embed(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.pool == "token":
            token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
            token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width)
        )
        x = x + positions.astype(self.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for block in blocks(
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            block_heads=self.block_heads,
            mlp_widths=self.mlp_widths,
            kernel_init=nn.initializers.xavier_uniform(),
            dropout=self.dropout,
            dtype=self.dtype,
        ):
            x = block(x, None, train)
        x = layer_norm(self.dtype, "norm_out")(x)
        x = x[:, 0] if self.pool == "token" else jnp.mean(x, axis=1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="dense_out")(x).astype(jnp.float32)
