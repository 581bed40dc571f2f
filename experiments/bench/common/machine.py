"""The machine: what it is, what is installed, what memory is free."""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

import jaxprune
from experiments.reports import commit

PACKAGES = ("jax", "jaxlib", "numpy", "torch")
_UNKNOWN = 1 << 62  # bytes: let it be tried


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a result must be read with: processor, device, versions of packages, commit."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": {"jaxprune": jaxprune.__version__, **{p: _version(p) for p in packages}},
        "commit": commit(),
    }


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> tuple[float, ...] | None:
    """Load averages of the last 1, 5 and 15 minutes, where the system has them."""
    return tuple(round(x, 2) for x in os.getloadavg()) if hasattr(os, "getloadavg") else None


def free_host_bytes() -> int:
    """Memory of the host that can be used without swapping."""
    found = _field("/proc/meminfo", "MemAvailable")
    return 1024 * int(found.split()[0]) if found else _UNKNOWN


def free_device_bytes() -> int:
    """Memory that arrays can still take on the device; on a CPU that of the host."""
    if jax.default_backend() == "cpu":
        return free_host_bytes()
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", _UNKNOWN) - stats.get("bytes_in_use", 0)


def _field(file: str, name: str) -> str | None:
    """What Linux says of the machine, where it is Linux."""
    try:
        lines = pathlib.Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((x.partition(":")[2].strip() for x in lines if x.startswith(name)), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
