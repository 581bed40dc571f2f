"""Counts over an array that may be spread over devices, without moving the array."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# local(offsets, array, *aligned, *queries) -> counts; offsets: where the shard begins on each axis.
Local = Callable[..., jax.Array]


def sum_over_shards(
    local: Local, arrays: Sequence[jax.Array], queries: Sequence[jax.Array], rank: int
) -> jax.Array:
    """Evaluates ``local`` on each device's part of the arrays and adds the results up.

    The partitioner would do the same for a plain sum. It does not for a reduction of several
    operands at once, the only form that XLA's CPU backend fuses with the comparison that feeds it
    (ten times faster, no temporary): there it gathers. Hence the rule written here: every device
    counts what it holds, one all-reduce adds the counts. Mapped axes (`vmap`) stay in front and
    keep their sharding.

    Args:
      local: ``local(offsets, *arrays, *queries) -> uint32 [digits]``, additive over parts of the
        arrays. ``offsets`` has, for each axis, the index at which this part begins: the Python
        integer 0 where the axis is whole.
      arrays: arrays of one shape, e.g. scores and the mask beside them.
      queries: small arrays that every device needs whole.
      rank: number of entries of the result's shape.

    Returns:
      The sum of ``local`` over all parts.
    """
    return _counted(local, len(arrays), rank, 0)(*arrays, *queries)


def _counted(local: Local, arrays: int, rank: int, batch: int) -> Callable[..., jax.Array]:
    """The function for arrays with ``batch`` mapped axes in front."""

    def mapped(offsets: Sequence[Any], args: Sequence[jax.Array]) -> jax.Array:
        f = partial(local, offsets)
        for _ in range(batch):
            f = jax.vmap(f)
        return f(*args)

    @custom_partitioning
    def counted(args: tuple[jax.Array, ...]) -> jax.Array:
        return mapped([0] * (args[0].ndim - batch), args)

    def by_names(names: Sequence[tuple[str, ...]], args: Sequence[jax.Array]) -> jax.Array:
        """What one device does where mesh axes are known: counts its part, adds up with others."""
        offsets = [
            jax.lax.axis_index(axis).astype(jnp.uint32) * jnp.uint32(size) if axis else 0
            for axis, size in zip(names[batch:], args[0].shape[batch:], strict=True)
        ]
        counts = mapped(offsets, args)
        reduced = tuple(name for axis in names[batch:] for name in axis)
        return jax.lax.psum(counts, reduced) if reduced else counts

    def by_parts(parts: _Parts, args: Sequence[jax.Array]) -> jax.Array:
        """The same for any partition: where several devices hold a part, the first counts."""
        if not parts.names:
            return mapped([0] * len(args[0].shape), args)
        device = jax.lax.axis_index(parts.names)
        here = jnp.asarray(parts.begins)[device]
        cut = np.asarray(parts.begins.any(axis=0))
        counts = mapped([here[i] if cut[i] else 0 for i in range(args[0].ndim)], args)
        if not parts.first.all():
            counts = counts * jnp.asarray(parts.first.astype(np.uint32))[device]
        return jax.lax.psum(counts, parts.names)

    def shardings(mesh: Any, args: Sequence[Any]) -> tuple[list[tuple[str, ...]], tuple[Any, ...]]:
        names = _axis_names(args[0])
        aligned = NamedSharding(mesh, PartitionSpec(*names))
        whole = NamedSharding(mesh, PartitionSpec(*names[:batch]))
        return names, (aligned,) * arrays + (whole,) * (len(args) - arrays) + (whole,)

    def partition(mesh: Any, arg_shapes: Any, result_shape: Any) -> Any:
        del result_shape  # follows from the first array
        (args,) = arg_shapes
        if batch:
            names, (*aligned, result) = shardings(mesh, args)
            return mesh, partial(by_names, names), result, (tuple(aligned),)
        sharding = args[0].sharding
        if mesh.empty:
            mesh = Mesh(np.array(list(sharding.devices_indices_map(args[0].shape))), ("devices",))
        whole = NamedSharding(mesh, PartitionSpec())
        parts = _parts(args[0].shape, sharding, mesh)
        if parts is None:
            parts, sharding = _Parts((), np.zeros((0, args[0].ndim), np.uint32), np.zeros(0)), whole
        spread = (sharding,) * arrays + (whole,) * (len(args) - arrays)
        return mesh, partial(by_parts, parts), whole, (spread,)

    def infer(mesh: Any, arg_shapes: Any, result_shape: Any) -> Any:
        del result_shape
        if not batch:
            return NamedSharding(mesh, PartitionSpec())
        return shardings(mesh, arg_shapes[0])[1][-1]

    def rule(mesh: Any, operands: Any, results: Any) -> str:
        del mesh, results
        batched = [f"b{i}" for i in range(batch)]
        words = []
        for i, operand in enumerate(operands):
            axes = range(len(operand.shape) - batch)
            words.append(" ".join(batched + [f"x{j}" if i < arrays else f"q{i}{j}" for j in axes]))
        return ", ".join(words) + " -> " + " ".join(batched + [f"r{j}" for j in range(rank)])

    # Without mapped axes shardings are taken as they come: the partitioner may cut an array, say
    # after a reshape, in a way that no mesh axis has a name for.
    counted.def_partition(
        partition,
        infer_sharding_from_operands=infer,
        sharding_rule=rule,
        decode_shardings=bool(batch),
    )

    @custom_vmap
    def over(*args: jax.Array) -> jax.Array:
        sharding = jax.typeof(args[0]).sharding
        if not sharding.mesh.are_all_axes_explicit:
            return counted(args)
        # On a mesh of explicit axes the sharding is part of the type: the partition is known now.
        names = _axis_names(jax.ShapeDtypeStruct(args[0].shape, args[0].dtype, sharding=sharding))
        aligned, whole = PartitionSpec(*names), PartitionSpec(*names[:batch])
        specs = (aligned,) * arrays + (whole,) * (len(args) - arrays)
        mesh = sharding.mesh  # named here: the caller need not have set it
        placed = (NamedSharding(mesh, spec) for spec in specs)
        args = tuple(jax.sharding.reshard(a, s) for a, s in zip(args, placed, strict=True))
        each = jax.shard_map(
            lambda *args: by_names(names, args), mesh=mesh, in_specs=specs, out_specs=whole
        )
        return each(*args)

    @over.def_vmap
    def over_batch(axis_size: int, batched: Sequence[bool], *args: jax.Array) -> Any:
        if not any(batched[:arrays]):
            # Several questions about one array: one after the other, not a copy for each.
            flags = batched[arrays:]
            asked = tuple(
                q if b else _repeat(q, axis_size) for q, b in zip(args[arrays:], flags, strict=True)
            )
            return jax.lax.map(lambda q: over(*args[:arrays], *q), asked), True
        args = tuple(a if b else _repeat(a, axis_size) for a, b in zip(args, batched, strict=True))
        return _counted(local, arrays, rank, batch + 1)(*args), True

    return over


def vary_as(x: jax.Array, array: jax.Array) -> jax.Array:
    """Gives ``x`` the type of data that differs between devices, where ``array`` has it.

    Inside `jax.shard_map` what a loop carries must have from the start the type that it gets from
    the data it meets.
    """
    axes = jax.typeof(array).manual_axis_type.varying - jax.typeof(x).manual_axis_type.varying
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def _repeat(array: jax.Array, times: int) -> jax.Array:
    return jnp.broadcast_to(array[None], (times, *array.shape))


class _Parts(NamedTuple):
    """How an array lies on the devices of a mesh.

    Attributes:
      names: the mesh axes along which devices hold different parts.
      begins: uint32 ``[devices along these, axes]``, where the part of each device begins.
      first: bool ``[devices along these]``, whether it is the first to hold its part.
    """

    names: tuple[str, ...]
    begins: np.ndarray
    first: np.ndarray


def _parts(shape: Sequence[int], sharding: Any, mesh: Any) -> _Parts | None:
    """The parts of an array, or `None` if they are not of one size."""
    # The partitioner pads parts smaller than their neighbours, and padding must not be counted.
    try:
        slices = list(sharding.devices_indices_map(tuple(shape)).values())
    except Exception:  # what JAX raises where parts differ is no public class
        return None
    bounds = np.array([[s.indices(n)[:2] for s, n in zip(at, shape, strict=True)] for at in slices])
    bounds = bounds.reshape(*mesh.devices.shape, len(shape), 2)
    begins, sizes = bounds[..., 0], (bounds[..., 1] - bounds[..., 0]).reshape(-1, len(shape))
    if (sizes != sizes[0]).any() or 0 in sizes:
        return None
    number = math.prod(n // int(size) for n, size in zip(shape, sizes[0], strict=True))
    if number * math.prod(sizes[0].tolist()) != math.prod(shape):
        return None
    axes = range(mesh.devices.ndim)
    used = [bool((begins != begins.take([0], axis=axis)).any()) for axis in axes]
    begins = begins[tuple(slice(None) if use else 0 for use in used)].reshape(-1, len(shape))
    names = tuple(name for name, use in zip(mesh.axis_names, used, strict=True) if use)
    first = np.isin(np.arange(len(begins)), np.unique(begins, axis=0, return_index=True)[1])
    return _Parts(names, begins.astype(np.uint32), first)


def _axis_names(array: Any) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of an array is split over, where it is split evenly."""
    if not isinstance(array.sharding, NamedSharding):
        return [()] * array.ndim  # a sharding without names; the array is made whole
    spec, sizes = array.sharding.spec, array.sharding.mesh.shape
    names = []
    for i, size in enumerate(array.shape):
        entry = spec[i] if i < len(spec) else None
        axis = (entry,) if isinstance(entry, str) else tuple(entry or ())
        parts = 1
        for name in axis:
            parts *= sizes[name]
        # A part of another size than its neighbours is padded, and padding must not be counted.
        names.append(axis if size % parts == 0 else ())
    return names
