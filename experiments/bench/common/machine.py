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

_PACKAGES = ("jax", "jaxlib", "numpy", "torch")


def describe(packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """What a result must be read with: processor, device, versions of packages, commit."""
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": {
            "jaxprune": jaxprune.__version__,
            **{package: _version(package) for package in packages},
        },
        "commit": commit(),
    }


def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 62  # unknown: let it be tried


def free_device_bytes() -> int:
    """Memory that arrays can still take on the device; on a CPU that of the host."""
    if jax.default_backend() == "cpu":
        return free_host_bytes()
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return 1 << 62
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
