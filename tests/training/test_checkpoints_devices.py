"""Runs that go on on other devices than they began on."""

import jax
import optax
import pytest

from jaxprune.training import Checkpoints, Preempted
from tests.training import meshed
from tests.training.checkpointed import after, assert_equal, imp_on, loud_when_collected

pytestmark = loud_when_collected

slow = pytest.mark.slow


def assert_ends(result):
    n = 3 * 3 * 2 * 16 + 16 * 64 + 64 * 4
    assert result.records[-1].nonzero == n - round(0.8 * n)
    assert int(result.state.step) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices",
    [
        "1",
        pytest.param("8", marks=slow),
        pytest.param("2x2 sharded", marks=slow),
        pytest.param("8 by pmap", marks=slow),
    ],
)
def test_another_number_of_devices_goes_on(stopped_on_8, devices):
    assert Checkpoints(stopped_on_8).steps()[-1] == 16
    assert_ends(imp_on(devices, Checkpoints(stopped_on_8, every=100, resume=True)))


@pytest.mark.slow
def test_more_devices_go_on(tmp_path):
    with pytest.raises(Preempted):
        imp_on("1", Checkpoints(tmp_path, every=100, stop=after(4)))
    assert_ends(imp_on("8 sharded", Checkpoints(tmp_path, every=100, resume=True)))


@pytest.mark.parametrize("devices", ["1", "8", "2x2 sharded"])
def test_other_devices_go_on_with_the_same_bits(ended_on_8, devices):
    folder, truth = ended_on_8
    train = meshed.loop(devices)._replace(run=lambda *a: pytest.fail("trained"))
    result = imp_on(devices, Checkpoints(folder, every=100, resume=True), train=train)
    assert_equal(jax.device_get(result.state), jax.device_get(truth.state))
    like = meshed.step(devices).place(meshed.state())
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(like), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.slow
def test_rewinding_to_the_start_works_on_a_mesh(tmp_path):
    committed = jax.device_put(meshed.state(), jax.devices()[0])
    for rewind in (0, committed):
        result = imp_on(
            "8",
            Checkpoints(tmp_path / str(type(rewind).__name__), every=100),
            state=committed,
            evaluate=lambda state: {},
            rewind=rewind,
            sparsity=0.3,
            schedule="lrw",
            pretraining_steps=8,
            pretraining=optax.linear_schedule(0.1, 0.0, 8),
        )
        assert len(result.state.params["Dense_0"]["bias"].sharding.device_set) == 8
