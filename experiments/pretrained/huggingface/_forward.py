"""The forward pass of a causal transformer, as one `scan` over stacked layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained.huggingface._architecture import Architecture, Rope

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def forward(params: Any, tokens: jax.Array, *, of: Architecture) -> jax.Array:
    """Logits of the next token, float32 ``[batch, length, vocabulary]``.

    Computed in the type of the weights; norms, scores of attention and logits in float32.

    Args:
      params: as `weights.from_torch` makes them.
      tokens: int32 ``[batch, length]``.
      of: the architecture.

    Raises:
      ValueError: if the sequence is longer than the model's positions.
    """
    length = tokens.shape[1]
    if length > of.longest:
        raise ValueError(
            f"a sequence of {length} tokens is longer than the {of.longest} positions of this "
            "model (or of its sliding window). Cut it."
        )
    x = params["embedding"][tokens]
    x = x * jnp.asarray(of.embedding_factor, x.dtype)
    turns = None
    if of.rope is None:
        x = x + params["positions"][:length]
    else:
        turns = _turns(of.rope, of.head_width, length)

    def layer(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
        y = _attention(params["attention"], _norm(params["norm_attention"], x, of), turns, of)
        x = x + (_norm(params["norm_after_attention"], y, of) if of.norm_after else y)
        y = _mlp(params["mlp"], _norm(params["norm_mlp"], x, of), of)
        return x + (_norm(params["norm_after_mlp"], y, of) if of.norm_after else y), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    x = _norm(params["norm"], x, of)
    head = params["embedding"].T if of.tied else params["head"]["kernel"]
    return _capped((x @ head).astype(jnp.float32), of.logit_cap)


def _capped(x: jax.Array, cap: float | None) -> jax.Array:
    return x if cap is None else cap * jnp.tanh(x / cap)


def _norm(params: Any, x: jax.Array, of: Architecture) -> jax.Array:
    wide = x.astype(jnp.float32)
    if not of.root_mean_square:
        wide = wide - jnp.mean(wide, -1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + of.epsilon)
    scale = params["scale"].astype(jnp.float32) + (1 if of.scale_plus_one else 0)
    wide = wide * scale
    if "bias" in params:
        wide = wide + params["bias"].astype(jnp.float32)
    return wide.astype(x.dtype)


def _dense(params: Any, x: jax.Array) -> jax.Array:
    y = x @ params["kernel"]
    return y + params["bias"] if "bias" in params else y


def _mlp(params: Any, x: jax.Array, of: Architecture) -> jax.Array:
    act = _ACTIVATIONS[of.activation]
    if of.gated:
        return _dense(params["down"], act(_dense(params["gate"], x)) * _dense(params["up"], x))
    return _dense(params["down"], act(_dense(params["up"], x)))


def _attention(params: Any, x: jax.Array, turns: Any, of: Architecture) -> jax.Array:
    batch, length, _ = x.shape
    q, k, v = (
        _dense(params[name], x).reshape(batch, length, -1, of.head_width)
        for name in ("query", "key", "value")
    )
    if of.norm_heads:
        q, k = _norm(params["norm_query"], q, of), _norm(params["norm_key"], k, of)
    if turns is not None:
        q, k = _turned(q, turns), _turned(k, turns)
    # Query heads of one group lie side by side.
    q = q.reshape(batch, length, of.groups, -1, of.head_width)
    scores = jnp.einsum("btghd,bsgd->bghts", q, k, preferred_element_type=jnp.float32)
    scores = _capped(scores * of.query_factor, of.attention_cap)
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1).astype(x.dtype)
    y = jnp.einsum("bghts,bsgd->btghd", weights, v)
    return _dense(params["out"], y.reshape(batch, length, -1))


def _turns(rope: Rope, width: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, each ``[length, width / 2]``; on the host, in float64."""
    rates = rope.theta ** -(np.arange(0, width, 2) / width)
    if rope.low is None or rope.high is None or rope.original is None:
        rates = rates / rope.factor
    else:
        fits = rope.original * rates / (2 * math.pi)
        share = np.clip((fits - rope.low) / (rope.high - rope.low), 0, 1)
        rates = share * rates + (1 - share) * rates / rope.factor
    angles = np.arange(length)[:, None] * rates
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


def _turned(x: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates ``[batch, length, heads, width]``: entry i with entry i + width / 2."""
    cos, sin = (t[None, :, None] for t in turns)
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
