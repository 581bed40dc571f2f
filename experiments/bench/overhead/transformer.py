"""A small transformer, for timing."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# Equal in all kernels, as in GPT-2. Under initializers by fan-in one threshold for the whole
# network would leave nothing of the widest layers.
_normal = nn.initializers.normal(0.02)


class Transformer(nn.Module):
    """A causal language model: pre-norm blocks of attention and a feed-forward layer of width 4 d.

    Attributes:
      vocabulary: number of tokens.
      width: d.
      heads: attention heads.
      blocks: how many blocks.
    """

    vocabulary: int
    width: int
    heads: int
    blocks: int = 2

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map tokens int32 [batch, length] to logits [batch, length, vocabulary]."""
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = x + nn.Embed(tokens.shape[1], self.width)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.blocks):
            attention = nn.MultiHeadDotProductAttention(self.heads, kernel_init=_normal)
            x = x + attention(nn.LayerNorm()(x), mask=mask)
            y = nn.Dense(4 * self.width, kernel_init=_normal)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width, kernel_init=_normal)(nn.gelu(y))
        return nn.Dense(self.vocabulary, kernel_init=_normal)(nn.LayerNorm()(x))
