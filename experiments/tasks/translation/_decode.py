"""Greedy translation: the likeliest token, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._data import BEGIN, END, PAD


def make_translate(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """Builds ``translate(params, source)``.

    Keys and values of the tokens before are kept, so that each token costs one pass of the decoder
    over a single place; it ends when all sentences have ended.

    Args:
      model: a `Transformer`.

    Returns:
      The compiled function, of int32 [b, source length] to int32 [b, max_length]; `END` is the last
      token of a translation that ended, `PAD` what follows. A source of nothing but `PAD` gives
      nothing. Each source length is compiled once.
    """
    cached = model.clone(cached=True)

    def translate(params: Any, source: jax.Array) -> jax.Array:
        rows, length = source.shape[0], model.max_length
        memory = model.apply({"params": params}, source, False, method="encode")
        whole = jnp.zeros((rows, length), jnp.int32)
        # Only the shapes of what is kept.
        shapes = jax.eval_shape(lambda: cached.init(jax.random.key(0), source, whole, False))
        cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["cache"])

        def goes_on(carry: Any) -> jax.Array:
            place, _, ended, _, _ = carry
            return (place < length) & ~jnp.all(ended)

        def step(carry: Any) -> Any:
            place, token, ended, out, cache = carry
            logits, kept = cached.apply(
                {"params": params, "cache": cache},
                memory,
                source,
                token[:, None],
                place[None],
                False,
                method="decode",
                mutable=["cache"],
            )
            # Neither is ever a target.
            scores = logits[:, 0].at[:, jnp.array([PAD, BEGIN])].set(-jnp.inf)
            token = jnp.where(ended, PAD, jnp.argmax(scores, axis=-1).astype(jnp.int32))
            out = jax.lax.dynamic_update_slice(out, token[:, None], (jnp.int32(0), place))
            return place + 1, token, ended | (token == END), out, kept["cache"]

        begin = jnp.full((rows,), BEGIN, jnp.int32)
        nothing = jnp.all(source == PAD, axis=1)
        carry = (jnp.int32(0), begin, nothing, whole, cache)
        return jax.lax.while_loop(goes_on, step, carry)[3]

    return jax.jit(translate)
