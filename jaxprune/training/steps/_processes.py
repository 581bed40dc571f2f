"""What the processes of a run must agree on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxprune.training.steps._sharding import everywhere, settle


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class Agreement:
    """Whether a flag was set in any process when it was asked for the last time.

    Devices need not be waited for: what the processes tell each other goes behind the work that
    was given to the devices before, and is read when more of it has been given. One process
    answers for the flag of now.
    """

    def __init__(self) -> None:
        self._told: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Tells the other processes, and returns what they told before. All call equally often."""
        if jax.process_count() == 1:
            return flag
        before, self._told = self._told, _tell(flag)
        return before is not None and bool(np.any(before.addressable_data(0)))


def _tell(flag: bool) -> jax.Array:
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    devices = [firsts[process] for process in sorted(firsts)]
    mesh = Mesh(np.array(devices), ("processes",))
    rows = NamedSharding(mesh, PartitionSpec("processes"))
    own = jax.device_put(np.array([flag]), firsts[jax.process_index()])
    flags = jax.make_array_from_single_device_arrays((len(devices),), rows, [own])
    return settle(_spread(mesh)(flags))


@functools.cache
def _spread(mesh: Mesh) -> Any:
    return jax.jit(lambda x: x, out_shardings=everywhere(mesh))


def meet(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
