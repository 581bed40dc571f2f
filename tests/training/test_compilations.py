"""How many programs a run compiles. Widths that no other test has: nothing is ready made."""

import jax
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests.programs import counted
from tests.training import problem


def network(hidden, depth=0):
    """Parameters of the host; ``depth`` more leaves, of shapes of their own, that nobody uses."""
    rng = np.random.default_rng(0)

    def layer(n, m):
        return {"kernel": rng.normal(size=(n, m)).astype(np.float32), "bias": np.zeros(m, "f4")}

    more = {f"more{i}": layer(hidden, hidden + i) for i in range(depth)}
    return {
        "first": layer(problem.FEATURES, hidden),
        "last": layer(hidden, problem.CLASSES),
        **more,
    }


def run(params, **options):
    """From the parameters to the end of a run; the number of programs that it compiled."""
    key = jax.random.key(1)
    options = {"cycles": 1, "schedule": "allr"} | options
    with counted() as programs:
        state = jp.training.TrainState.create(params, problem.sgd, key=key)
        jp.training.imp(
            state,
            problem.loop(),
            evaluate=jp.training.make_evaluate(problem.eval_fn, problem.DATA, batch_size=64),
            pretraining=optax.cosine_decay_schedule(0.05, 6),
            pretraining_steps=6,
            sparsity=0.75,
            retraining_steps=4,
            **options,
        )
    return programs.number


# The step, the optimizer's state, evaluation, the table of learning rates, the discount of ALLR,
# the moments of pruned weights.
PROGRAMS = 6


def test_a_run_compiles_its_parts_and_nothing_else():
    assert run(network(37)) <= PROGRAMS


@pytest.mark.parametrize(
    ("hidden", "options"),
    [
        (41, {"cycles": 3}),
        (43, {"cycles": 3, "optimizer_state": "fresh"}),
        (47, {"cycles": 3, "rewind": 2, "schedule": "lrw"}),
    ],
    ids=["cycles", "fresh optimizer", "rewinding"],
)
def test_more_cycles_compile_nothing_more(hidden, options):
    assert run(network(hidden), **options) <= PROGRAMS


@pytest.mark.slow
def test_more_leaves_compile_nothing_more():
    assert run(network(53, depth=6), cycles=2) <= PROGRAMS


def test_checkpoints_compile_one_program(tmp_path):
    checkpoints = jp.training.Checkpoints(tmp_path / "run", every=3)
    # The bits of the masks.
    assert run(network(59, depth=2), cycles=2, checkpoints=checkpoints) <= PROGRAMS + 1


def test_sets_of_different_lengths_share_the_program_of_their_evaluation():
    state = jp.training.TrainState.create(network(61), problem.sgd, key=jax.random.key(0))
    sets = [{name: x[:n] for name, x in problem.DATA.items()} for n in (203, 130, 64)]
    evaluations = [jp.training.make_evaluate(problem.eval_fn, data, batch_size=64) for data in sets]
    with counted() as programs:
        for evaluate in evaluations:
            evaluate(state)
    assert programs.number == 1
