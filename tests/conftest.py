"""Strict numerics for every test: promotions, rank changes and warnings are errors."""

import collections
import gc
import hashlib
import importlib.metadata
import os
import pathlib

from tests import quick

# Before JAX is imported: sharded cases run on eight host devices, and compiling is quick. The full
# lane sets flags of its own, with the emitter of kernels that users have.
_FLAGS = {"xla_force_host_platform_device_count": 8, **quick.OPTIONS}
os.environ.setdefault(
    "XLA_FLAGS", " ".join(f"--{name}={str(value).lower()}" for name, value in _FLAGS.items())
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Every compiled program is kept, those of a few milliseconds, too, which are most: for the other
# worker of this run and for the next run here. Another jaxlib and other flags begin a new folder;
# `make clean` removes all. Worker processes, and those that tests start, inherit the variables.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _key = importlib.metadata.version("jaxlib") + os.environ["XLA_FLAGS"]
    _name = hashlib.sha256(_key.encode()).hexdigest()[:16]
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.fspath(
        pathlib.Path(__file__).absolute().parents[1] / ".test_programs" / _name
    )
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A compilation may outlast hypothesis' per-example deadline; a fixed seed keeps CI repeatable.
_quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default lane", derandomize=True, max_examples=25, **_quiet)
settings.register_profile("full lane", derandomize=True, max_examples=100, **_quiet)


def pytest_configure(config):
    default = "not slow" in config.getoption("markexpr")
    settings.load_profile("default lane" if default else "full lane")


def _cases_of_the_default_lane():
    """How many leading cases of a parametrised test are in the default lane, by its name."""
    lines = (pathlib.Path(__file__).parent / "default_lane.txt").read_text().splitlines()
    rows = (line.rsplit(maxsplit=1) for line in lines if not line.startswith("#"))
    return {name: int(number) for name, number in rows}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    cases, seen = _cases_of_the_default_lane(), collections.Counter()
    for item in items:
        name = item.nodeid.split("[")[0]
        seen[name] += item.get_closest_marker("slow") is None
        if seen[name] > cases.get(name, seen[name]):
            item.add_marker(pytest.mark.slow)
    result = yield  # here those of the other lane are left out
    # The long ones first: else the last of them runs while the other worker has nothing to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    return result


# A compiled program takes some twenty mappings of memory, and Linux gives a process 65,530: XLA
# crashes where there are no more, after some thousand programs.
_MOST_MAPPINGS = 30_000
_MAPPINGS = pathlib.Path("/proc/self/maps")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    same = nextitem is not None and nextitem.path == item.path
    if same or not _MAPPINGS.exists():
        return
    with _MAPPINGS.open("rb") as file:
        number = sum(1 for _ in file)
    if number > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()
