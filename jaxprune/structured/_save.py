"""Shrunk networks in files: the small parameters, and what makes the function that runs them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune import _network, _safetensors, _tree
from jaxprune._tree import PyTree
from jaxprune.structured._cut import take
from jaxprune.structured._identity import difference, identity, inputs_as_saved
from jaxprune.structured._masks import alive_along, kept_along, kept_positions
from jaxprune.structured._shrink import Origin, SmallApply
from jaxprune.structured.analysis._graph import Graph, build


def save(
    path: str | os.PathLike[str],
    small: PyTree,
    masks: PyTree | Callable[..., Any],
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes a shrunk network to one safetensors file, from which `load` rebuilds its function.

    The file is as that of `jaxprune.save`, which see for names, types and checksums: the small
    parameters are readable from PyTorch and by `jaxprune.load`. Beside them stand the shapes that
    they had and, under "jaxprune.kept/", which positions are left on each axis, one bit each, the
    axes one after the other. The dense weights are not needed, neither here nor for loading.

    With the small function in place of masks the file also says what that function is: how many
    operations there are of each kind, a digest of how they hang together, and sums of the arrays
    that it captures. `load` then knows whether it gets the same. It is the way, too, for what was
    shrunk several times: the function knows all that went.

    Args:
      path: the file, by convention ``*.safetensors``; its folder must exist.
      small: the small parameters, from `shrink` or trained since. With several processes only one
        of them should save.
      masks: the small function, from `shrink` or `load`; or the masks that the
        network was shrunk with, of the dense parameters' shapes: then the function is not known.
      settings: how the network was made: strings, finite numbers, booleans, None, and lists and
        dicts of these. `jaxprune.read_settings` gives them back.

    Raises:
      ValueError: if the parameters are not what these masks leave, naming path and shapes; and as
        `jaxprune.save`.
      TypeError: if a mask is not bool, or a leaf or a setting cannot be written.
      FileNotFoundError: if the folder does not exist.

    Example:
      >>> import pathlib, tempfile
      >>> import jax, jax.numpy as jnp, jaxprune as jp
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((1, 3)), "b": jnp.ones((3, 1))}
      >>> x = jnp.ones((1, 1))
      >>> groups = jp.structured.channel_groups(apply, params, x)
      >>> masks = jp.structured.masks(groups, [jnp.array([True, False, True])])
      >>> small_apply, small = jp.structured.shrink(apply, params, masks, x)
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "small.safetensors"
      >>> jp.structured.save(path, small, small_apply, settings={"ratio": 1 / 3})
      >>> small_apply, small = jp.structured.load(path, apply, x)
      >>> small["a"].shape, small_apply(small, x).shape
      ((1, 2), (1, 1))
    """
    if not isinstance(masks, SmallApply):
        _network.write(path, small, settings=settings, cuts=_cuts(small, masks))
        return
    masks.check(small)
    origin = masks.origin()
    program = None
    if origin.inputs is not None:
        full = jax.tree.map(
            lambda x, now: jax.ShapeDtypeStruct(x.shape, now.dtype), origin.params, small
        )
        program = identity(origin.apply, full, origin.inputs)
    cuts = _cuts_of(origin)
    _network.write(path, small, settings=settings, cuts=cuts, program=program)


def load(
    path: str | os.PathLike[str],
    apply: Callable[..., Any],
    *inputs: Any,
    like: PyTree | None = None,
    other_function: bool = False,
) -> tuple[Callable[..., Any], PyTree]:
    """Reads a network that `save` wrote: as `shrink` gave it, without the dense weights.

    ``apply`` is followed anew with abstract parameters of the shapes that they had, so that one
    file serves training and inference: call `load` with the function of each. A function with
    other parameters, or whose channels hang together otherwise, is refused. So is one that computes
    something else than the saved one, with other activations, say, if the network was saved with
    its function and by the same release of JAX. Another release may write the same function as
    other operations: there a difference is a warning, as it is where ``apply`` cannot be traced
    with inputs of the shapes that were saved. The precision of
    products and what runs outside of JAX (callbacks, kernels of Pallas) are not compared.

    Args:
      path: the file.
      apply: the function of the dense network, ``apply(params, *inputs)``.
      *inputs: example inputs: pytrees of arrays or `jax.ShapeDtypeStruct`.
      like: the dense parameters or the small ones, arrays or `jax.ShapeDtypeStruct`, such as
        ``jax.eval_shape(init, key)``: where ``apply`` takes other containers than dicts and lists
        (NamedTuples, tuples, an NNX state, an equinox module). Each leaf is placed as that of
        ``like`` is.
      other_function: whether ``apply`` is meant to be another function of the same parameters than
        the saved one, as for training what was saved for inference: then it is not compared.

    Returns:
      ``(small_apply, small_params)``.

    Warns:
      UserWarning: if the function differs and another release of JAX wrote the file, or if it could
        not be compared.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is of another kind or damaged; if ``like`` or ``apply`` are of another
        network, saying what differs; if ``apply`` computes something else than the function
        saved; see `shrink` for what ``apply`` must be.
      TypeError: if a leaf of the parameters is no array.

    Example:
      See `save`.
    """
    stored = _network.read_shrunk(path, like=like)
    named = _tree.named_leaves(stored.full)
    try:
        graph = build(apply, stored.full, inputs)
        alive = {
            (name, axis): positions
            for i, (name, leaf) in enumerate(named)
            for axis, positions in enumerate(_alive(stored.cuts.get(i), leaf))
        }
        stays = kept_positions(graph.groups, kept_along(graph.groups, alive))
        _check_same(named, jax.tree.leaves(stored.params), stays, graph)
        function = SmallApply(apply, stored.full, stays)
        function.remember(inputs, stored.params, graph)
        if stored.program is not None and not other_function:
            _check_function(stored.program, apply, stored.full, inputs)
    except ValueError as error:
        raise ValueError(
            f"the network in {os.fspath(path)!r} does not fit this function: {error} Pass the "
            "`apply` that was shrunk, and inputs for it."
        ) from error
    return function, stored.params


def _check_function(
    saved: dict[str, Any], apply: Callable[..., Any], full: PyTree, inputs: tuple[Any, ...]
) -> None:
    """Raises or warns if the function is not the one that was saved."""
    same_inputs = inputs_as_saved(saved, inputs)
    try:
        now = identity(apply, full, same_inputs)
    except Exception as error:
        warnings.warn(
            "the function could not be compared with the saved one: with inputs of the shapes "
            f"saved it raises {type(error).__name__}: {error}. Compare results yourself.",
            stacklevel=3,
        )
        return
    found = difference(saved, now)
    if found is None:
        return
    if saved["jax"] == now["jax"]:
        raise ValueError(
            f"it computes something else than the one that was saved: {found}. If that is meant "
            "(training instead of inference), pass other_function=True."
        )
    warnings.warn(
        f"the function differs from the saved one: {found}. That may be due to JAX alone, which "
        f"was {saved['jax']} and is {now['jax']}. Compare results yourself.",
        stacklevel=3,
    )


def _cuts_of(origin: Origin) -> dict[tuple[str, ...], _network.Cut]:
    """What is left of every parameter that lost positions."""
    cuts = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(origin.params):
        name = _tree.path_string(keys)
        alive = tuple(
            origin.alive.get((name, axis), np.ones(n, bool)) for axis, n in enumerate(leaf.shape)
        )
        if not all(a.all() for a in alive):
            cuts[_network.keys_of(keys)] = _network.Cut(leaf.shape, alive)
    return cuts


def _cuts(small: PyTree, masks: PyTree) -> dict[tuple[str, ...], _network.Cut]:
    """What the masks say of every parameter that they cover, checked against the small ones."""
    leaves = {
        _network.keys_of(keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(small, is_leaf=_tree.is_absent)
    }
    masks = _tree.expanded(masks, small)
    cuts = {}
    for keys, mask in jax.tree_util.tree_leaves_with_path(masks):
        where, name = _network.keys_of(keys), _tree.path_string(keys)
        leaf = leaves.get(where)
        if leaf is None:
            raise ValueError(
                f"the masks are of another network: they have {name!r}, which the small parameters "
                "do not. Pass those that the network was shrunk with."
            )
        if not hasattr(mask, "dtype") or mask.dtype != bool:
            kind = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(f"a mask is bool (True = kept), but {name!r} is {kind}.")
        mask = _safetensors.on_host(name, mask, what="masks'")
        left, now = alive_along(mask, mask.shape), np.shape(leaf)
        if len(now) != mask.ndim or not all(
            a.sum() <= n <= len(a) for a, n in zip(left, now, strict=True)
        ):
            raise ValueError(
                f"{name!r} has shape {now}, but its mask of shape {mask.shape} leaves "
                f"{tuple(int(a.sum()) for a in left)}. Pass the small parameters, and the masks of "
                "the dense ones that they were shrunk with."
            )
        cuts[where] = _network.Cut(mask.shape, tuple(left))
    return cuts


def _alive(cut: _network.Cut | None, leaf: Any) -> list[np.ndarray]:
    return alive_along(None, leaf.shape) if cut is None else list(cut.alive)


def _check_same(
    named: list[tuple[str, Any]],
    small: list[Any],
    stays: Mapping[tuple[str, int], np.ndarray],
    graph: Graph,
) -> None:
    """Raises unless the function leaves of each parameter what is in the file."""
    for (name, full), leaf in zip(named, small, strict=True):
        wanted = tuple(np.shape(take(full, name, dict(stays))))
        if tuple(np.shape(leaf)) == wanted:
            continue
        axis = next(i for i, (a, b) in enumerate(zip(leaf.shape, wanted, strict=True)) if a != b)
        reasons = [f.reason for f in graph.groups.fixed if (f.path, f.axis) == (name, axis)]
        why = f" (axis {axis}: {'; '.join(reasons)})" if reasons else ""
        raise ValueError(
            f"{name!r} was shrunk from {full.shape} to {np.shape(leaf)}, but this function would "
            f"leave {wanted}{why}."
        )
