"""Decoder-only transformers: language models in the shape of GPT-2."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ._layers import layer_norm
from ._transformer import blocks


class GPT(nn.Module):
    """A causal transformer with learned positions and normalisation before each branch.

    Token t attends to tokens 0 to t, and its logits are for token t + 1. The defaults make a small
    model; vocabulary 50,257, max_length 1024, width 768, depth 12 and heads 12 have the 124,439,808
    parameters of the smallest GPT-2.

    Attributes:
        vocabulary: number of tokens and of logits.
        max_length: longest sequence.
        width: of a token's vector.
        depth: blocks.
        heads: of each full block; must divide the width.
        mlp_widths: hidden units of each block's MLP, one number a block; `None` for four times the
            width.
        block_heads: heads that each block has left, one number a block; `None` for all. Heads keep
            their width.
        tied: the token embedding serves as the output layer, too; otherwise that is a dense layer
            of its own, without bias.
        dropout: fraction that training drops of the embedding and of each branch's result; where it
            is positive, training needs a key named "dropout".
        dtype: type of the computation; parameters and logits are float32.

    References:
        Radford et al. (2019), "Language models are unsupervised multitask learners", section 2.3.
        Press and Wolf (2017), "Using the output embedding to improve language models" (tied).
    """

    vocabulary: int
    max_length: int = 256
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_widths: tuple[int, ...] | None = None
    block_heads: tuple[int, ...] | None = None
    tied: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map tokens int32 [batch, length] to logits float32 [batch, length, vocabulary].

        Raises:
            ValueError: the sequence is longer than `max_length`, the heads do not divide the width,
                or there is not one number a block.
        """
        length = x.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_length {self.max_length}; cut"
                " it, or give a larger max_length"
            )
        init = nn.initializers.normal(0.02)
        embed = nn.Embed(
            self.vocabulary, self.width, embedding_init=init, dtype=self.dtype, name="embed_tokens"
        )
        positions = nn.Embed(
            self.max_length,
            self.width,
            embedding_init=init,
            dtype=self.dtype,
            name="embed_positions",
        )
        x = embed(x) + positions(jnp.arange(length))[None]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for block in blocks(
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            block_heads=self.block_heads,
            mlp_widths=self.mlp_widths,
            kernel_init=init,
            dropout=self.dropout,
            dtype=self.dtype,
        ):
            x = block(x, causal, train)
        x = layer_norm(self.dtype, "norm_out")(x)
        if self.tied:
            return embed.attend(x).astype(jnp.float32)
        dense = nn.Dense(
            self.vocabulary, use_bias=False, kernel_init=init, dtype=self.dtype, name="dense_out"
        )
        return dense(x).astype(jnp.float32)
