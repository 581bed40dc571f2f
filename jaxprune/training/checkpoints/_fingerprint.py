"""What identifies a run: settings, shapes and hashes that must not change until it is resumed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune._version import __version__
from jaxprune.training.checkpoints._portable import digests, to_arrays

_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_DEPTH = 4  # functions in functions


def versions() -> dict[str, str]:
    """The installed versions of the packages that compute and store."""
    # Ours from the code: a checkout that is not installed has no metadata.
    return {
        package: __version__ if package == "jaxprune" else importlib.metadata.version(package)
        for package in _PACKAGES
    }


def describe_model(params: PyTree, model_state: PyTree) -> dict[str, str]:
    """Shape and type of every parameter and array of the model state, by path."""
    shown = {}
    for kind, tree in (("parameter", params), ("model state", model_state)):
        for path, leaf in _tree.named_leaves(tree):
            shape = "x".join(map(str, np.shape(leaf)))
            shown[f"{kind} {path}"] = f"{getattr(leaf, 'dtype', type(leaf).__name__)}[{shape}]"
    return shown


def describe_array(x: Any) -> str:
    """A short name for the content of an array: its length and a hash."""
    x = np.ascontiguousarray(x)
    return f"{len(x)} numbers, sha256 {hashlib.sha256(x.tobytes()).hexdigest()[:16]}"


def describe_state(state: PyTree) -> str:
    """A short name for the content of a state, however it is spread over devices."""
    held = sorted(digests(to_arrays(state)).items())
    return f"a state, sha256 {hashlib.sha256(str(held).encode()).hexdigest()[:16]}"


def describe_function(f: Any) -> Any:
    """Describes a function by its name and by the numbers, words and arrays that it holds.

    Two with one description may still differ, in what they hold of other kinds and in their code.
    """
    return _describe(f, _DEPTH)


def _describe(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        x = np.asarray(value)
        digest = hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
        return f"{x.dtype}{list(x.shape)} {digest}"
    if depth == 0:
        return type(value).__name__
    if isinstance(value, functools.partial):
        held = [value.func, *value.args, *sorted(value.keywords.items())]
        return [_describe(x, depth - 1) for x in held]
    if isinstance(value, (tuple, list)):
        return [_describe(x, depth - 1) for x in value]
    if isinstance(value, dict):
        return {str(k): _describe(x, depth - 1) for k, x in value.items()}
    name = getattr(value, "__qualname__", None)
    if name is None:
        return type(value).__name__
    held = {k: _describe(x, depth - 1) for k, x in _closure(value).items()}
    module = getattr(value, "__module__", "")
    if module.startswith("jaxprune."):
        module = "jaxprune"  # in which file of ours it stands may change
    name = f"{module}.{name}"
    return [name, held] if held else name


def _closure(f: Any) -> dict[str, Any]:
    """The variables of enclosing functions that a function refers to."""
    held = {}
    for name, cell in zip(
        f.__code__.co_freevars if inspect.isfunction(f) else (),
        getattr(f, "__closure__", None) or (),
        strict=False,
    ):
        with contextlib.suppress(ValueError):  # not filled yet
            held[name] = cell.cell_contents
    return held


def describe_optimizer(opt_state: PyTree) -> str:
    """A short name for what an optimizer keeps: how many arrays, and a hash of their shapes."""
    shown = [(path, np.shape(x), str(x.dtype)) for path, x in _tree.named_leaves(opt_state)]
    return f"{len(shown)} arrays, sha256 {hashlib.sha256(str(shown).encode()).hexdigest()[:16]}"


def check_same(
    held: Mapping[str, Any], now: Mapping[str, Any], folder: str | os.PathLike[str]
) -> None:
    """Raises if a checkpoint is of other settings or another model.

    Raises:
      ValueError: naming what differs, at most three.
    """
    names = [*held, *(name for name in now if name not in held)]
    missing = "absent"
    changed = [n for n in names if held.get(n, missing) != now.get(n, missing)]
    if not changed:
        return
    model = [n for n in changed if n.startswith(("parameter ", "model state "))]
    what = "of another model" if model else "of a run with other settings"
    shown = "; ".join(
        f"{n}: {held.get(n, missing)!r} there, {now.get(n, missing)!r} now"
        for n in (model or changed)[:3]
    )
    raise ValueError(
        f"the checkpoint in {folder} is {what} ({shown}). Resume with the settings that it was "
        "made with, or choose another folder."
    )
