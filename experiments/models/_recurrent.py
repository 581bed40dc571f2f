"""Recurrent networks that classify sequences."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

_CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class Recurrent(nn.Module):
    """Recurrent layers over the sequence, and a dense layer on the last output.

    All sequences of a batch are taken at their full length: pad short ones in front.

    Attributes:
        num_classes: number of logits.
        vocabulary: number of tokens, which get an embedding; `None` for sequences of vectors.
        embedding_width: of a token's vector.
        widths: units of each recurrent layer.
        cell: "lstm" or "gru".
        dtype: type of the computation, the carried state included; parameters and logits are
            float32.

    References:
        Hochreiter and Schmidhuber (1997), "Long short-term memory".
        Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder" (GRU).
    """

    num_classes: int
    vocabulary: int | None = None
    embedding_width: int = 64
    widths: tuple[int, ...] = (128,)
    cell: Literal["lstm", "gru"] = "lstm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map sequences to logits float32 [batch, num_classes].

        Args:
            x: tokens int32 [batch, length], or without a vocabulary vectors [batch, length,
                features].
            train: without effect: no layer here behaves differently in training.

        Returns:
            The logits.

        Raises:
            ValueError: the input's rank does not go with the vocabulary, or the cell is unknown.
        """
        del train
        if self.cell not in _CELLS:
            raise ValueError(f"unknown cell {self.cell!r}. Known: {', '.join(_CELLS)}")
        if x.ndim != (3 if self.vocabulary is None else 2):
            raise ValueError(
                f"got an input of shape {x.shape} with vocabulary {self.vocabulary}; give tokens"
                " [batch, length] and a vocabulary, or vectors [batch, length, features] and none"
            )
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
