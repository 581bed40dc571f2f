"""Strict numerics for every test: promotions, rank changes and warnings are errors."""

import hashlib
import importlib.metadata
import os

# Before JAX is imported: sharded cases run on eight host devices. LLVM does not optimise, because
# tests compile much and compute little: a third of their time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Every compiled program is kept, those of a few milliseconds, too, which are most: for the other
# worker of this run and for the next run here. Another jaxlib and other flags begin a new folder;
# `make clean` removes all. Worker processes, and those that tests start, inherit the variables.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _key = importlib.metadata.version("jaxlib") + os.environ["XLA_FLAGS"]
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        ".test_programs",
        hashlib.sha256(_key.encode()).hexdigest()[:16],
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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    # The long ones first: else the last of them runs while the other worker has nothing to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
