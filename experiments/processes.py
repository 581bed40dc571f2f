"""Which process of a run this one is: from its options, else from the environment."""

import dataclasses
import os
import re

from experiments.config import Config

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process among those of a run; all `None` if the cluster is to be asked.

    Attributes:
      address: HOST:PORT of process 0.
      count: number of processes.
      index: of this one, from 0.
    """

    address: str | None
    count: int | None
    index: int | None


def place(config: Config) -> Place | None:
    """Where this process stands among those of the run; `None` if it is alone.

    Raises:
      ValueError: if one of the three is missing or wrong, or given beside "auto".
    """
    address = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None:
        for field in ("num_processes", "process_id"):
            if getattr(config, field) is not None:
                raise ValueError(f"{field} means nothing without a coordinator (HOST:PORT).")
        return None
    if config.coordinator == AUTO:
        for field in ("num_processes", "process_id"):
            if getattr(config, field) is not None:
                raise ValueError(
                    f"coordinator auto asks the cluster for {field}; leave out "
                    f"--{field.replace('_', '-')}, or name the coordinator (HOST:PORT)."
                )
        return Place(None, None, None)
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"coordinator is HOST:PORT; got {address!r}.")
    count = _number(config.num_processes, "num_processes", "JAX_NUM_PROCESSES")
    index = _number(config.process_id, "process_id", "JAX_PROCESS_ID")
    if not 0 <= index < count:
        raise ValueError(f"process_id is an index in [0, {count}) of num_processes; got {index}.")
    return Place(address, count, index)


def _number(given: int | None, field: str, variable: str) -> int:
    text = os.environ.get(variable)
    if given is None and text is None:
        raise ValueError(f"a coordinator is named, but no {field}; pass it, or set {variable}.")
    try:
        return given if given is not None else int(text or "")
    except ValueError as error:
        raise ValueError(f"{variable} is a number; got {text!r}.") from error
