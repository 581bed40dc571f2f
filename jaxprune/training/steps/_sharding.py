"""Where the arrays of a run lie on a mesh of devices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune import _tree
from jaxprune._tree import PyTree

Rule: TypeAlias = Callable[[str, Any], PartitionSpec]

# Below this many entries a leaf costs more messages than memory.
_SMALL = 2**16


def replicated() -> Rule:
    """A rule that keeps every parameter whole on every device: plain data parallelism.

    Returns:
      ``rule(path, leaf) -> PartitionSpec``.
    """
    return lambda path, leaf: PartitionSpec()


def fully_sharded(
    mesh: Mesh,
    *,
    min_size: int = _SMALL,
    rules: Mapping[str, PartitionSpec] | None = None,
) -> Rule:
    """A rule that cuts every large parameter over all devices (FSDP, ZeRO stage 3).

    Each leaf of at least ``min_size`` entries is cut along its longest axis that the number of
    devices divides; what is smaller, or has no such axis, is kept whole everywhere. Moments and
    masks lie as their parameters do. The compiler gathers a parameter where a layer uses it.

    Args:
      mesh: the devices.
      min_size: entries below which a leaf is not cut.
      rules: specs of your own by regular expressions of whole paths, the first match wins:
        ``{".*/embedding": PartitionSpec("data")}``.

    Returns:
      ``rule(path, leaf) -> PartitionSpec``, for ``make_train_step(..., sharding=rule)``.

    Example:
      >>> import jax, numpy as np
      >>> from jax.sharding import Mesh
      >>> import jaxprune as jp
      >>> mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
      >>> rule = jp.training.fully_sharded(mesh, min_size=100)
      >>> rule("Dense_0/kernel", np.zeros((8, 64))), rule("Dense_0/bias", np.zeros(64))
      (P(None, 'data'), P())

    References:
      Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
      2020; Zhao et al., PyTorch FSDP, 2023.
    """
    compiled = [(re.compile(pattern), spec) for pattern, spec in (rules or {}).items()]
    axes = mesh.axis_names[0] if len(mesh.axis_names) == 1 else mesh.axis_names

    def rule(path: str, leaf: Any) -> PartitionSpec:
        for pattern, spec in compiled:
            if pattern.fullmatch(path):
                return spec
        shape = np.shape(leaf)
        divisible = [i for i, n in enumerate(shape) if n and n % mesh.size == 0]
        if math.prod(shape) < min_size or not divisible:
            return PartitionSpec()
        cut = max(divisible, key=lambda i: shape[i])
        return PartitionSpec(*[None] * cut, axes)

    return rule


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with automatic axes: where arrays lie is then no part of their types."""
    return Mesh(mesh.devices, mesh.axis_names)


def shardings(state: PyTree, params: PyTree, mesh: Mesh, rule: Rule) -> PyTree:
    """Where every array of a state lies.

    A leaf lies as the parameter does whose path its own ends with, if their shapes agree: moments,
    masks, dense copies. All else is kept whole everywhere.

    Args:
      state: arrays or their shapes; ``params`` is a part of it.
      params: the parameters.
      mesh: the devices.
      rule: the rule for parameters.

    Returns:
      A tree like ``state`` of shardings.

    Raises:
      ValueError: if a spec does not fit its parameter or the mesh, naming both.
    """
    specs: dict[tuple[Any, ...], tuple[tuple[int, ...], PartitionSpec]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = _tree.path_string(path)
        specs[path] = (np.shape(leaf), _checked(rule(name, leaf), name, np.shape(leaf), mesh))
    depths = sorted({len(path) for path in specs}, reverse=True)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for depth in depths:
            shape, spec = specs.get(path[len(path) - depth :], (None, None))
            if spec is not None and shape == np.shape(leaf):
                return NamedSharding(mesh, spec)
        return everywhere(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def _checked(spec: PartitionSpec, path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    if len(spec) > len(shape):
        raise ValueError(f"{spec} has more axes than the parameter {path!r} of shape {shape}.")
    for i, names in enumerate(spec):
        names = () if names is None else names if isinstance(names, tuple) else (names,)
        unknown = [name for name in names if name not in mesh.axis_names]
        if unknown:
            raise ValueError(
                f"{spec} of the parameter {path!r} names the axis {unknown[0]!r}, but the mesh has "
                f"{mesh.axis_names}."
            )
        parts = math.prod(mesh.shape[name] for name in names)
        if shape[i] % parts:
            raise ValueError(
                f"{spec} cuts axis {i} of the parameter {path!r}, of shape {shape}, into {parts} "
                "parts, which do not divide it. Cut another axis, or leave this leaf whole."
            )
    return spec


def everywhere(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The examples of a batch, which come first, over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def spread(batch: PyTree, mesh: Mesh) -> PyTree:
    """Inside compiled code: lays the examples of a batch, which come first, over all devices."""
    rows = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows) if x.ndim else x, batch)


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh that arrays are spread over; `None` if they lie on one device."""
    for leaf in jax.tree.leaves(tree):
        where = getattr(leaf, "sharding", None)
        if isinstance(where, NamedSharding) and where.mesh.size > 1:
            return Mesh(np.asarray(where.mesh.devices), where.mesh.axis_names)
    return None


def device_of(tree: PyTree) -> Any:
    """The one device that arrays lie on; `None` if they are spread, or nowhere yet."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and len(leaf.devices()) == 1:
            return next(iter(leaf.devices()))
    return None


def settle(result: PyTree) -> PyTree:
    """Waits for a result of several devices that one CPU simulates; else returns at once.

    XLA's CPU runtime deadlocks, and then aborts, when such devices meet for the collectives of
    several programs at a time: they wait for each other in threads that they all share.
    """
    if jax.default_backend() == "cpu":
        leaves = jax.tree.leaves(result)
        if leaves and len(leaves[0].sharding.addressable_devices) > 1:
            jax.block_until_ready(result)
    return result


def put(tree: PyTree, where: PyTree) -> PyTree:
    """Puts arrays where they belong, even if other processes hold some of the devices.

    Args:
      tree: arrays; every process holds the same, or a part of the same global ones.
      where: a sharding for each, or one for all.

    Returns:
      The arrays.
    """
    if isinstance(where, NamedSharding):
        where = jax.tree.map(lambda _: where, tree)
    return jax.tree.map(_put, tree, where)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(lambda y: y, out_shardings=sharding)(x)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def check_batch(batch: PyTree, devices: int, accumulate: int = 1) -> None:
    """Raises if a batch cannot be split over the devices.

    Raises:
      ValueError: with the sizes and the repair.
    """
    parts = devices * accumulate
    for path, leaf in _tree.named_leaves(batch):
        if np.ndim(leaf) and np.shape(leaf)[0] % parts:
            into = f"{devices} devices" if devices > 1 else ""
            if accumulate > 1:
                into += f"{' x ' * bool(into)}{accumulate} accumulated parts"
            raise ValueError(
                f"the batch has {np.shape(leaf)[0]} examples ({path!r}), which {into} do not "
                f"divide. Take a batch size that is a multiple of {parts}, or other devices."
            )


def put_rows(batch: PyTree, mesh: Mesh) -> PyTree:
    """Spreads the rows of a batch over the devices.

    Args:
      batch: arrays with the examples in front; of several processes each passes its own rows.
      mesh: the devices.

    Returns:
      The global batch.

    Raises:
      ValueError: if the devices do not divide the batch.
    """
    rows, whole = batch_sharding(mesh), everywhere(mesh)
    alone = rows.is_fully_addressable
    check_batch(batch, mesh.size if alone else len(mesh.local_devices))

    def put_leaf(x: Any) -> jax.Array:
        where = rows if np.ndim(x) else whole
        if alone or (isinstance(x, jax.Array) and not x.is_fully_addressable):
            return jax.device_put(x, where)
        return jax.make_array_from_process_local_data(where, np.asarray(x))

    return jax.tree.map(put_leaf, batch)
