"""Strict numerics for every test: promotions, rank changes and warnings are errors."""

import os

# Before JAX is imported: sharded cases run on eight host devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A compilation may outlast hypothesis' per-example deadline; a fixed seed keeps CI repeatable.
settings.register_profile(
    "jaxprune", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("jaxprune")
