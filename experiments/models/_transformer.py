"""The transformer block of the vision and language models."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from ._layers import layer_norm, widths_or


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with GELU (tanh form) in the MLP.

    Attributes:
        heads: heads of the attention.
        head_width: width of each.
        mlp_width: units of the hidden layer of the MLP.
        kernel_init: draws the kernels.
        dropout: fraction of each branch's result that training drops.
        dtype: type of the computation; parameters are float32, as are the norms inside.
    """

    heads: int
    head_width: int
    mlp_width: int
    kernel_init: jax.nn.initializers.Initializer
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        """Map x [batch, length, width] to the same shape.

        Args:
            x: of type `dtype`.
            mask: bool, broadcast to [batch, heads, length of queries, length of keys], True =
                attend; `None` attends everywhere.
            train: whether dropout is on.

        Returns:
            Of type `dtype`.
        """
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            qkv_features=self.heads * self.head_width,
            kernel_init=self.kernel_init,
            deterministic=True,  # dropout is applied to the result alone
            dtype=self.dtype,
            name="attention",
        )
        x = x + drop(attention(layer_norm(self.dtype, "norm_attention")(x), mask=mask))
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        y = dense(self.mlp_width, name="mlp_in")(layer_norm(self.dtype, "norm_mlp")(x))
        return x + drop(dense(x.shape[-1], name="mlp_out")(nn.gelu(y)))


def blocks(
    *,
    depth: int,
    width: int,
    heads: int,
    block_heads: tuple[int, ...] | None,
    mlp_widths: tuple[int, ...] | None,
    kernel_init: jax.nn.initializers.Initializer,
    dropout: float,
    dtype: Any,
) -> list[Block]:
    """The blocks of a transformer, named "block0", "block1" and so on in the calling module.

    Args:
        depth: how many.
        width: of the stream between blocks.
        heads: of each full block; a head is width / heads wide.
        block_heads: heads that each block has left; `None` for all.
        mlp_widths: hidden units of each block's MLP; `None` for four times the width.
        kernel_init: see `Block`.
        dropout: see `Block`.
        dtype: see `Block`.

    Returns:
        The blocks in order.

    Raises:
        ValueError: the heads do not divide the width, or there is not one number a block.
    """
    if width % heads:
        raise ValueError(f"width {width} is no multiple of heads {heads}; change one of them")
    left = widths_or([heads] * depth, block_heads, "block_heads")
    hidden = widths_or([4 * width] * depth, mlp_widths, "mlp_widths")
    each = partial(Block, head_width=width // heads, kernel_init=kernel_init)
    return [
        each(heads=left[i], mlp_width=hidden[i], dropout=dropout, dtype=dtype, name=f"block{i}")
        for i in range(depth)
    ]
