"""The devices of a run: several processes joined into one, and the mesh to train on."""

import dataclasses
import json
import os
import re
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.config import Config
from experiments.processes import place

AXIS = "data"
# What each process of a run may be told for itself.
_OWN = (
    "coordinator",
    "num_processes",
    "process_id",
    "data_dir",
    "data_cache",
    "compilation_cache",
    "workers",
    "join_seconds",
)


def join(config: Config) -> None:
    """Joins this process with the others of the run, if there are any. Before any computation.

    Address, number and index come from ``--coordinator``, ``--num-processes`` and ``--process-id``,
    or from the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    The coordinator "auto" leaves all three to JAX, which knows Cloud TPU, Slurm, Open MPI and
    Kubernetes.

    Args:
      config: the configuration.

    Raises:
      ValueError: if one of the three is missing, or given beside "auto", or the processes disagree
        on their number or on the configuration.
      ConnectionError: if the others do not come.
    """
    found = place(config)
    if found is None or jax.distributed.is_initialized():
        return
    # Between processes on CPUs; without effect elsewhere.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM away from us, who save on it.
    jax.config.update("jax_enable_preemption_service", False)
    if found.address is None:
        _initialize(
            config,
            "the cluster did not say which processes belong together, or they did not come within "
            f"{config.join_seconds} s: pass coordinator (HOST:PORT), num_processes and process_id",
        )
        return
    _initialize(
        config,
        f"process {found.index} of {found.count} did not find the others at {found.address} within "
        f"{config.join_seconds} s: start all of them with the same coordinator and number of "
        "processes, each with its own process_id",
        coordinator_address=found.address,
        **_own_door(found.address),
        num_processes=found.count,
        process_id=found.index,
    )


def _own_door(address: str) -> dict[str, str]:
    """Where process 0 listens: JAX takes all interfaces, but what is local stays local."""
    host, port = address.rsplit(":", 1)
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return {}  # the user's word
    bare = host.strip("[]")
    local = bare == "localhost" or bare == "::1" or re.fullmatch(r"127(\.\d+){3}", bare)
    return {"coordinator_bind_address": f"{host}:{port}"} if local else {}


def _initialize(config: Config, failed: str, **known: Any) -> None:
    print(f"Waiting up to {config.join_seconds} s for the other processes.", flush=True)
    try:
        jax.distributed.initialize(**known, initialization_timeout=config.join_seconds)
    except Exception as error:
        first = [*str(error).splitlines(), type(error).__name__][0]
        raise ConnectionError(f"{failed} ({first}).") from error
    _check_agreement(config)


def _check_agreement(config: Config) -> None:
    """Raises if the processes were told different things.

    By the coordinator's table: computing together comes too late, because processes that disagree
    on their number wait for each other for ever.

    Raises:
      ValueError: naming the first difference.
    """
    from jax._src import distributed  # no public way to this table

    state = distributed.global_state
    count, index, client = state.num_processes, state.process_id, state.client
    assert client is not None
    told = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OWN}
    told = json.loads(json.dumps({**told, "num_processes": count}, default=str))
    client.key_value_set(f"jaxprune/told/{index}", json.dumps(told))
    milliseconds, found = 1000 * config.join_seconds, None
    for i in range(count):
        other = json.loads(client.blocking_key_value_get(f"jaxprune/told/{i}", milliseconds))
        different = [name for name in told if told[name] != other.get(name)]
        if different:
            found = different[0], i, other.get(different[0])
            break
    # Nobody leaves, and takes the table along, before all have read it.
    client.wait_at_barrier("jaxprune/told", milliseconds)
    if found is not None:
        name, i, value = found
        raise ValueError(
            f"the processes disagree: {name} is {told[name]!r} in process {index} and {value!r} in "
            f"process {i}. Start all with the same settings."
        )


def chosen(config: Config) -> list[Any]:
    """The devices to train on, of all processes.

    Raises:
      ValueError: if there are fewer than asked for.
    """
    there = jax.devices()
    if config.devices is None:
        # Several devices of a CPU are simulated, and slower together than one.
        one = there[0].platform == "cpu" and jax.process_count() == 1
        return there[:1] if one else there
    if config.devices > len(there):
        raise ValueError(
            f"devices={config.devices}, but there are {len(there)} ({there[0].platform}). On a CPU "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={config.devices} simulates them."
        )
    if jax.process_count() > 1 and config.devices != len(there):
        raise ValueError(
            f"devices={config.devices}, but {jax.process_count()} processes train on all of their "
            f"{len(there)} devices; leave it out."
        )
    return there[: config.devices]


def make_mesh(config: Config) -> Mesh | None:
    """The mesh to train on; `None` for one device, and for ``parallel="pmap"``."""
    devices = chosen(config)
    if config.parallel == "pmap" or len(devices) == 1:
        return None
    return Mesh(np.array(devices), (AXIS,))


def leave(status: int) -> None:
    """Ends the process at once if it is one of several: an orderly end would wait for the others.

    They find out by themselves that it is gone, and end too.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_first() -> bool:
    """Whether this process writes logs, tables and pictures."""
    return jax.process_index() == 0


def on_host(tree: Any) -> Any:
    """The arrays of a tree in the memory of every process; all of them must ask."""

    def one(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
            from jax.experimental import multihost_utils

            return multihost_utils.process_allgather(x, tiled=True)
        return np.array(x)

    return jax.tree.map(one, tree)
