"""Names and layouts: from the tensors of Hugging Face to stacked parameters and back."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pretrained.huggingface._architecture import Architecture

Read = Callable[[str], np.ndarray]


class Place(NamedTuple):
    """A tensor of a layer.

    Attributes:
      path: its place in a layer of ours.
      name: its name in a layer of theirs.
      flipped: whether theirs is ``[out, in]``.
      part: which third of theirs it is, of a kernel or bias of queries, keys and values together.
    """

    path: tuple[str, ...]
    name: str
    flipped: bool = False
    part: int | None = None


def places(of: Architecture) -> list[Place]:
    """All tensors of one layer."""
    return list(_gpt2() if of.family == "gpt2" else _rotary(of))


def _gpt2() -> Iterator[Place]:
    # "Conv1D" keeps kernels [in, out].
    for i, part in enumerate(("query", "key", "value")):
        yield Place(("attention", part, "kernel"), "attn.c_attn.weight", part=i)
        yield Place(("attention", part, "bias"), "attn.c_attn.bias", part=i)
    for path, name in (
        (("attention", "out"), "attn.c_proj"),
        (("mlp", "up"), "mlp.c_fc"),
        (("mlp", "down"), "mlp.c_proj"),
    ):
        yield Place((*path, "kernel"), f"{name}.weight")
        yield Place((*path, "bias"), f"{name}.bias")
    for path, name in (("norm_attention", "ln_1"), ("norm_mlp", "ln_2")):
        yield Place((path, "scale"), f"{name}.weight")
        yield Place((path, "bias"), f"{name}.bias")


def _rotary(of: Architecture) -> Iterator[Place]:
    biased = {
        "none": (),
        "query_key_value": ("query", "key", "value"),
        "attention": ("query", "key", "value", "out"),
    }[of.biases]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
        name = f"self_attn.{theirs}_proj"
        yield Place(("attention", ours, "kernel"), f"{name}.weight", flipped=True)
        if ours in biased:
            yield Place(("attention", ours, "bias"), f"{name}.bias")
    for part in ("gate", "up", "down"):
        yield Place(("mlp", part, "kernel"), f"mlp.{part}_proj.weight", flipped=True)
    if of.norm_heads:
        yield Place(("attention", "norm_query", "scale"), "self_attn.q_norm.weight")
        yield Place(("attention", "norm_key", "scale"), "self_attn.k_norm.weight")
    yield Place(("norm_attention", "scale"), "input_layernorm.weight")
    after = "post_attention_layernorm.weight"
    if not of.norm_after:
        yield Place(("norm_mlp", "scale"), after)
        return
    yield Place(("norm_after_attention", "scale"), after)
    yield Place(("norm_mlp", "scale"), "pre_feedforward_layernorm.weight")
    yield Place(("norm_after_mlp", "scale"), "post_feedforward_layernorm.weight")


def _outside(of: Architecture) -> dict[tuple[str, ...], tuple[str, bool]]:
    """Tensors that are of no layer: path -> name and whether it is flipped."""
    if of.family == "gpt2":
        found = {
            ("embedding",): ("wte.weight", False),
            ("positions",): ("wpe.weight", False),
            ("norm", "scale"): ("ln_f.weight", False),
            ("norm", "bias"): ("ln_f.bias", False),
        }
    else:
        found = {
            ("embedding",): ("embed_tokens.weight", False),
            ("norm", "scale"): ("norm.weight", False),
        }
    return found


def prefix(of: Architecture, names: Any) -> str:
    """What stands before the names: files of the bare network have nothing there."""
    usual = "transformer." if of.family == "gpt2" else "model."
    return usual if any(name.startswith(usual) for name in names) else ""


def _layer(of: Architecture, before: str, i: int) -> str:
    return f"{before}{'h' if of.family == 'gpt2' else 'layers'}.{i}."


_HEAD = "lm_head.weight"
# Constants that older files hold: causal masks and wavelengths.
_CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def from_torch(names: Any, read: Read, of: Architecture) -> Any:
    """Stacked parameters; kernels ``[layers, in, out]``.

    Args:
      names: of all tensors.
      read: ``read(name)``: one of them.
      of: the architecture.

    Raises:
      ValueError: naming tensors that are missing, are of another shape, or that the architecture
        has no place for.
    """
    names = set(names)
    before = prefix(of, names)
    used: set[str] = set()

    def at(name: str) -> np.ndarray:
        if name not in names:
            raise ValueError(f"there is no tensor {name!r}, which {of.family} has.")
        used.add(name)
        return read(name)

    params: dict[str, Any] = {}
    for path, (name, flipped) in _outside(of).items():
        x = at(before + name)
        _set(params, path, x.T if flipped else x)
    if not of.tied:
        _set(params, ("head", "kernel"), at(_HEAD).T)
    elif _HEAD in names:
        used.add(_HEAD)  # the same numbers again
    for place in places(of):
        layers = []
        for i in range(of.depth):
            x = at(_layer(of, before, i) + place.name)
            if place.part is not None:
                x = np.split(x, 3, axis=-1)[place.part]
            layers.append(x.T if place.flipped else x)
        _set(params, ("layers", *place.path), np.stack(layers))
    rest = sorted(n for n in names - used if not n.endswith(_CONSTANTS))
    if rest:
        raise ValueError(
            f"{len(rest)} tensors have no place in {of.family}, such as {rest[0]!r}: the network "
            "would compute something else without them."
        )
    _check_shapes(params, of)
    return jax.tree.map(jnp.asarray, params)


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _check_shapes(params: Any, of: Architecture) -> None:
    queries, keys = of.heads * of.head_width, of.groups * of.head_width
    wanted = {
        ("embedding",): (of.vocabulary, of.width),
        ("layers", "attention", "query", "kernel"): (of.depth, of.width, queries),
        ("layers", "attention", "key", "kernel"): (of.depth, of.width, keys),
        ("layers", "attention", "value", "kernel"): (of.depth, of.width, keys),
        ("layers", "attention", "out", "kernel"): (of.depth, queries, of.width),
        ("layers", "mlp", "up", "kernel"): (of.depth, of.width, of.hidden),
        ("layers", "mlp", "down", "kernel"): (of.depth, of.hidden, of.width),
    }
    for path, shape in wanted.items():
        found = _get(params, path).shape
        if found != shape:
            raise ValueError(
                f"{'/'.join(path)} has the shape {found}, but config.json says {shape}."
            )


def to_torch(params: Any, of: Architecture, before: str) -> dict[str, np.ndarray]:
    """The tensors by their own names: the inverse of `from_torch`.

    Args:
      params: the parameters.
      of: the architecture.
      before: what stands before the names, see `prefix`.
    """
    host = jax.tree.map(np.asarray, params)
    found: dict[str, np.ndarray] = {}
    for path, (name, flipped) in _outside(of).items():
        x = _get(host, path)
        found[before + name] = x.T if flipped else x
    if not of.tied:
        found[_HEAD] = host["head"]["kernel"].T
    thirds: dict[str, list[np.ndarray]] = {}
    for place in places(of):
        for i, x in enumerate(_get(host["layers"], place.path)):
            name = _layer(of, before, i) + place.name
            if place.part is None:
                found[name] = x.T if place.flipped else x
            else:
                thirds.setdefault(name, []).append(x)
    found |= {name: np.concatenate(parts, -1) for name, parts in thirds.items()}
    return {name: np.ascontiguousarray(x) for name, x in found.items()}
