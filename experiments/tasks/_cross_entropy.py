"""Cross entropy of tokens."""

import jax
import jax.numpy as jnp


def per_token(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy in nats, and 0/1 correctness, float32 [batch, length].

    Args:
      logits: [batch, length, vocabulary].
      tokens: int32 [batch, length].
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probabilities, tokens[..., None], axis=-1)[..., 0]
    return losses, (jnp.argmax(logits, axis=-1) == tokens).astype(jnp.float32)
