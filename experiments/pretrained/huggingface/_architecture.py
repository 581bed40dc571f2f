"""What a config.json of Hugging Face says of a language model, in the words used here."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Family = Literal["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"]
FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")


class Rope(NamedTuple):
    """Rotary positions.

    Attributes:
      theta: base of the wavelengths.
      factor: wavelengths are this much longer: all, or those that ``low`` and ``high`` say.
      low: "llama3": waves that fit less often than this into ``original`` positions are stretched;
        `None` stretches all.
      high: those that fit more often are not; what is between, in part.
      original: positions of the first training.
    """

    theta: float
    factor: float = 1.0
    low: float | None = None
    high: float | None = None
    original: int | None = None


class Architecture(NamedTuple):
    """The shape of a causal transformer and what its family does differently.

    Attributes:
      family: ``model_type`` of config.json.
      vocabulary: tokens.
      width: of a token's vector.
      depth: layers.
      heads: query heads.
      groups: key and value heads; each serves ``heads / groups`` query heads.
      head_width: of a head.
      hidden: of the MLP.
      longest: positions, of which a sequence may have as many.
      epsilon: of the norms.
      rope: rotary positions; `None` for learned ones (GPT-2).
      biases: where products have biases: "none", "query_key_value", "attention" or "all".
      gated: whether the MLP multiplies by a gate.
      activation: "silu", "gelu" or "gelu_tanh".
      tied: whether the embedding serves as the output layer.
      root_mean_square: whether norms are RMS norms.
      scale_plus_one: whether norms multiply by ``1 + scale`` (Gemma).
      norm_heads: whether queries and keys are normalised (Qwen 3).
      norm_after: whether results of both branches are normalised, too (Gemma 2).
      embedding_factor: what embeddings are multiplied by.
      query_factor: what scores of attention are multiplied by.
      attention_cap: ``cap * tanh(scores / cap)``; `None` for none.
      logit_cap: likewise of logits.
    """

    family: str
    vocabulary: int
    width: int
    depth: int
    heads: int
    groups: int
    head_width: int
    hidden: int
    longest: int
    epsilon: float
    rope: Rope | None
    biases: Literal["none", "query_key_value", "attention", "all"]
    gated: bool
    activation: str
    tied: bool
    root_mean_square: bool
    scale_plus_one: bool
    norm_heads: bool
    norm_after: bool
    embedding_factor: float
    query_factor: float
    attention_cap: float | None
    logit_cap: float | None


_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def read(folder: pathlib.Path) -> Architecture:
    """The architecture of a folder's config.json.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no JSON object, or says something that is not known here.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}. Give a folder of Hugging Face: config.json and *.safetensors."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds no JSON object.")
    try:
        return parse(config)
    except KeyError as error:
        raise ValueError(f"{file} does not say {error}.") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse(config: Mapping[str, Any]) -> Architecture:
    """The architecture that the values of a config.json describe.

    Raises:
      ValueError: naming what is not known here.
      KeyError: naming what is missing.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type is {family!r}, but is known for {', '.join(FAMILIES)} alone.")
    for name in ("quantization_config", "add_cross_attention"):
        if config.get(name):
            raise ValueError(f"{name} is set, which is not supported: take the plain model.")
    return _gpt2(config) if family == "gpt2" else _rotary(config, family)


def _activation(name: Any) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name!r} is none of {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def _gpt2(config: Mapping[str, Any]) -> Architecture:
    width, heads = config["n_embd"], config["n_head"]
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise ValueError("scale_attn_by_inverse_layer_idx is not supported.")
    scaled = config.get("scale_attn_weights", True)
    return Architecture(
        family="gpt2",
        vocabulary=config["vocab_size"],
        width=width,
        depth=config["n_layer"],
        heads=heads,
        groups=heads,
        head_width=width // heads,
        hidden=config.get("n_inner") or 4 * width,
        longest=config["n_positions"],
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        rope=None,
        biases="all",
        gated=False,
        activation=_activation(config.get("activation_function", "gelu_new")),
        tied=config.get("tie_word_embeddings", True),
        root_mean_square=False,
        scale_plus_one=False,
        norm_heads=False,
        norm_after=False,
        embedding_factor=1.0,
        query_factor=1 / math.sqrt(width // heads) if scaled else 1.0,
        attention_cap=None,
        logit_cap=None,
    )


def _rotary(config: Mapping[str, Any], family: str) -> Architecture:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    gemma = family.startswith("gemma")
    # Qwen 3 and Gemma have heads of a width of their own, of which config.json may be silent.
    default = {"gemma": 256, "gemma2": 256, "qwen3": 128}.get(family) or width // heads
    head_width: int = config.get("head_dim") or default
    positions = config["max_position_embeddings"]
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", family in ("mistral", "gemma2")):
        positions = min(positions, window)  # up to there a window changes nothing
    if config.get("mlp_bias"):
        raise ValueError("mlp_bias is not supported.")
    query: int = config.get("query_pre_attn_scalar", 256) if family == "gemma2" else head_width
    biases = "query_key_value" if family == "qwen2" else "none"
    activation = config.get("hidden_activation") or config.get("hidden_act", "silu")
    if family == "gemma":  # whose config.json says gelu and means the one by tanh
        activation = config.get("hidden_activation") or "gelu_pytorch_tanh"
    return Architecture(
        family=family,
        vocabulary=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        heads=heads,
        groups=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        hidden=config["intermediate_size"],
        longest=positions,
        epsilon=config.get("rms_norm_eps", 1e-6),
        rope=_rope(config),
        biases="attention" if config.get("attention_bias") else biases,
        gated=True,
        activation=_activation(activation),
        tied=config.get("tie_word_embeddings", gemma),
        root_mean_square=True,
        scale_plus_one=gemma,
        norm_heads=family == "qwen3",
        norm_after=family == "gemma2",
        embedding_factor=math.sqrt(width) if gemma else 1.0,
        query_factor=1 / math.sqrt(query),
        attention_cap=config.get("attn_logit_softcapping", 50.0) if family == "gemma2" else None,
        logit_cap=config.get("final_logit_softcapping", 30.0) if family == "gemma2" else None,
    )


def _rope(config: Mapping[str, Any]) -> Rope:
    # Newer files hold all of it in one place.
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = said.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = said.get("rope_type", said.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, said["factor"])
    if kind == "llama3":
        return Rope(
            theta,
            said["factor"],
            said["low_freq_factor"],
            said["high_freq_factor"],
            said["original_max_position_embeddings"],
        )
    raise ValueError(f"rope_scaling of type {kind!r} is none of default, linear, llama3.")
