"""What several tests of the experiments share."""

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """A cache folder of this run: neither tests nor the processes they start touch the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPRUNE_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture
def jax_defaults():
    """JAX's own promotions, as a user has them.

    Flax' own layers and optax' own schedules mix dtypes that strict promotion refuses.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
