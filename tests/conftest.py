"""Strict numerics for every test: promotions, rank changes and warnings are errors."""

import os
import shutil
import tempfile

# Before JAX is imported: sharded cases run on eight host devices. LLVM does not optimise, because
# tests compile much and compute little: a third of their time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What one test has compiled, another process need not: in a folder of this run alone, so that no
# run depends on an earlier one. Worker processes inherit the variables.
_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="jaxprune-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", _cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# A compilation may outlast hypothesis' per-example deadline; a fixed seed keeps CI repeatable.
settings.register_profile(
    "jaxprune", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("jaxprune")


def pytest_unconfigure():
    if _cache is not None:  # in the process that started the workers
        shutil.rmtree(_cache, ignore_errors=True)
