"""What several tests of the experiments share."""

import jax
import pytest


@pytest.fixture
def jax_defaults():
    """JAX's own promotions, as a user has them.

    Flax' own layers and optax' own schedules mix dtypes that strict promotion refuses.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
