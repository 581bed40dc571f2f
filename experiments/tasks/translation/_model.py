"""An encoder-decoder transformer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import models
from experiments.config import Config

from ._data import PAD

_INIT = nn.initializers.normal(0.02)


class Transformer(nn.Module):
    """Encoder and decoder with learned positions and normalisation before each branch.

    Both languages share the embedding of tokens, which is the output layer, too.

    Attributes:
      vocabulary: number of tokens and of logits.
      max_length: longest sequence.
      width: of a token's vector.
      depth: blocks of the encoder, and of the decoder.
      heads: of each attention; must divide the width.
      dropout: fraction that training drops of embeddings and of each branch's result.
      cached: whether the decoder is fed token by token and keeps keys and values of those before,
        in the collection "cache". The parameters are the same.
      dtype: type of the computation; parameters and logits are float32.

    References:
      Vaswani et al. (2017), "Attention is all you need". Press and Wolf (2017), "Using the output
      embedding to improve language models" (shared embedding).
    """

    vocabulary: int
    max_length: int = 64
    width: int = 128
    depth: int = 2
    heads: int = 4
    dropout: float = 0.0
    cached: bool = False
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is no multiple of heads {self.heads}; change one of them."
            )
        sizes: dict[str, Any] = {
            "width": self.width,
            "heads": self.heads,
            "kernel_init": _INIT,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }

        def embed(number: int) -> nn.Embed:
            return nn.Embed(number, self.width, embedding_init=_INIT, dtype=self.dtype)

        self.embed_tokens = embed(self.vocabulary)
        self.embed_source = embed(self.max_length)
        self.embed_target = embed(self.max_length)
        self.encoder = _Encoder(self.depth, sizes)
        self.decoder = _Decoder(self.depth, sizes, self.cached)

    def __call__(self, source: jax.Array, target_in: jax.Array, train: bool) -> jax.Array:
        """Logits of translations.

        Args:
          source: int32 [b, source length], padded with `PAD`.
          target_in: int32 [b, target length]: `BEGIN`, then the tokens before each.
          train: whether dropout is on.

        Returns:
          float32 [b, target length, vocabulary].

        Raises:
          ValueError: if a sequence is longer than ``max_length``.
        """
        memory = self.encode(source, train)
        place = jnp.arange(target_in.shape[1], dtype=jnp.int32)
        return self.decode(memory, source, target_in, place, train)

    def encode(self, source: jax.Array, train: bool) -> jax.Array:
        """What the decoder is told of sources: [b, source length, width]."""
        self._check(source)
        place = jnp.arange(source.shape[1], dtype=jnp.int32)
        x = self.embed_tokens(source) + self.embed_source(place)[None]
        return self.encoder(x, (source != PAD)[:, None, None, :], train)

    def decode(
        self,
        memory: jax.Array,
        source: jax.Array,
        target_in: jax.Array,
        place: jax.Array,
        train: bool,
    ) -> jax.Array:
        """Logits of the tokens after ``target_in``, which stand at ``place`` [target length]."""
        self._check(target_in)
        length = target_in.shape[1]
        x = self.embed_tokens(target_in) + self.embed_target(place)[None]
        causal = None if self.cached else jnp.tril(jnp.ones((1, 1, length, length), bool))
        x = self.decoder(x, memory, causal, (source != PAD)[:, None, None, :], train)
        return self.embed_tokens.attend(x).astype(jnp.float32)

    def _check(self, tokens: jax.Array) -> None:
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence of {tokens.shape[1]} tokens is longer than max_length "
                f"{self.max_length}; give a larger max_length."
            )


def _norm(dtype: Any, name: str) -> Callable[[jax.Array], jax.Array]:
    layer = nn.LayerNorm(dtype=jnp.float32, name=name)
    return lambda x: layer(x.astype(jnp.float32)).astype(dtype)


class _Encoder(nn.Module):
    """Blocks of attention and MLP over the source."""

    depth: int
    sizes: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        x = nn.Dropout(self.sizes["dropout"], deterministic=not train)(x)
        none: dict[str, Any] = {"block_heads": None, "mlp_widths": None}
        for block in models.blocks(depth=self.depth, **self.sizes, **none):
            x = block(x, mask, train)
        return _norm(self.sizes["dtype"], "norm_out")(x)


class _Decoder(nn.Module):
    """Blocks of attention to the target so far, attention to the source, and MLP."""

    depth: int
    sizes: Any
    cached: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        causal: jax.Array | None,
        mask: jax.Array,
        train: bool,
    ) -> jax.Array:
        dtype = self.sizes["dtype"]
        drop = nn.Dropout(self.sizes["dropout"], deterministic=not train)
        dense: dict[str, Any] = {"dtype": dtype, "kernel_init": self.sizes["kernel_init"]}
        x = drop(x)
        for i in range(self.depth):
            y = _norm(dtype, f"block{i}_norm_self")(x)
            attention = self._attention(f"block{i}_attention_self", decode=self.cached)
            x = x + drop(attention(y, mask=causal))
            y = _norm(dtype, f"block{i}_norm_source")(x)
            attention = self._attention(f"block{i}_attention_source")
            x = x + drop(attention(y, memory, mask=mask))
            y = _norm(dtype, f"block{i}_norm_mlp")(x)
            y = nn.Dense(4 * x.shape[-1], name=f"block{i}_mlp_in", **dense)(y)
            y = nn.Dense(x.shape[-1], name=f"block{i}_mlp_out", **dense)(nn.gelu(y))
            x = x + drop(y)
        return _norm(dtype, "norm_out")(x)

    def _attention(self, name: str, *, decode: bool = False) -> nn.MultiHeadDotProductAttention:
        return nn.MultiHeadDotProductAttention(
            self.sizes["heads"],
            kernel_init=self.sizes["kernel_init"],
            deterministic=True,  # dropout is applied to the result alone
            dtype=self.sizes["dtype"],
            decode=decode,
            name=name,
        )


MODELS: dict[str, Callable[..., nn.Module]] = {"transformer": Transformer}
"""Name -> factory(vocabulary=..., max_length=..., dtype=..., **fields of the model)."""


def create(config: Config, vocabulary: int, dtype: Any) -> nn.Module:
    """The model of a configuration.

    Args:
      config: names the model and its sizes.
      vocabulary: number of tokens, special ones included.
      dtype: type of the computation.
    """
    sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
    given = {name: value for name, value in sizes.items() if value is not None}
    return MODELS[config.model](
        vocabulary=vocabulary,
        max_length=config.max_length,
        dropout=config.dropout,
        dtype=dtype,
        **given,
    )
