"""Recurrent networks that classify sequences, to analyse and shrink."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

_CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class Recurrent(nn.Module):
    """Recurrent layers over the sequence, and a dense layer on the last output.

    Attributes:
        vocabulary: number of tokens, which get an embedding; `None` for sequences of vectors.
    """

    num_classes: int
    vocabulary: int | None = None
    embedding_width: int = 64
    widths: tuple[int, ...] = (128,)
    cell: Literal["lstm", "gru"] = "lstm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if self.vocabulary is not None:
            embed = nn.Embed(
                self.vocabulary, self.embedding_width, dtype=self.dtype, name="embed_tokens"
            )
            x = embed(x)
        for layer, width in enumerate(self.widths):
            cell = _CELLS[self.cell](width, dtype=self.dtype, name=f"layer{layer}")
            # Flax starts from float32 whatever the dtype, and then carries that type along.
            start = cell.initialize_carry(jax.random.key(0), (x.shape[0], x.shape[-1]))
            start = jax.tree.map(lambda leaf: leaf.astype(self.dtype), start)
            outputs: Any = nn.RNN(cell)(x, initial_carry=start)
            x = outputs
        dense = nn.Dense(self.num_classes, dtype=self.dtype, name="dense_out")
        return dense(x[:, -1]).astype(jnp.float32)
