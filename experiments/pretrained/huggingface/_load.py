"""A folder of Hugging Face as a network."""

import json
import pathlib
from functools import partial
from typing import Any

import numpy as np

from experiments.pretrained._network import Network
from experiments.pretrained.huggingface import _architecture, _weights
from experiments.pretrained.huggingface._forward import forward

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
# What a reader of the weights needs beside them. Never their index: they are written as one file.
_KEPT = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
         "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")  # fmt: skip


def load(folder: pathlib.Path) -> Network:
    """A language model of the families GPT-2, Llama, Mistral, Qwen 2 and 3, Gemma 1 and 2.

    ``apply`` maps tokens, int32 ``[batch, length]``, to logits ``[batch, length, vocabulary]``. The
    layers are stacked along axis 0, and their kernels are what pruning takes.

    Args:
      folder: with config.json and model.safetensors, or the files that its index names.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if the architecture is not known here, or tensors do not fit it.
    """
    of = _architecture.read(folder)
    files = _files(folder)
    try:
        params = _weights.from_torch(files, partial(_read, files), of)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    before = _weights.prefix(of, files)
    return Network(
        name=folder.resolve().name,
        params=params,
        apply=partial(forward, of=of),
        where=in_layers,
        to_torch=lambda params: _weights.to_torch(params, of, before),
        stacked={"layers/.*": 0},
        windows=(r"layers/attention.*\[(\d+)\]", r"layers/.*\[(\d+)\]"),
        files={name: folder / name for name in _KEPT if (folder / name).is_file()},
    )


def in_layers(path: str, leaf: Any) -> bool:
    """Whether a leaf is a kernel of a layer; embedding and output layer stay as they are."""
    del leaf
    return path.startswith("layers/") and path.endswith("/kernel")


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where each tensor lies, by name."""
    from safetensors import SafetensorError, safe_open

    index = folder / INDEX
    if index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({folder / name for name in listed.values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of tensors ({error}).") from error
    else:
        files = [folder / WHOLE]
    found = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}. Give a folder that holds all weights.")
        try:
            with safe_open(file, framework="numpy") as opened:
                found |= dict.fromkeys(opened.keys(), file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file ({error}).") from error
    return found


def _read(files: dict[str, pathlib.Path], name: str) -> np.ndarray:
    from safetensors import safe_open

    # Through JAX: NumPy alone has no bfloat16.
    with safe_open(files[name], framework="flax") as opened:
        return np.asarray(opened.get_tensor(name))
