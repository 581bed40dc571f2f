"""Learning-rate rewinding as in the code of Renda et al.: the run goes on, its rate goes back."""

import jax
import numpy as np
import optax

import jaxprune as jp
from tests.training import problem


def test_with_the_optimizer_kept_it_is_the_loop_going_on_under_the_mask():
    dense, retraining = 30, 10
    schedule = optax.piecewise_constant_schedule(0.1, {15: 0.1, 25: 0.1})
    train = problem.loop()
    result = jp.training.imp(
        problem.state(),
        train,
        evaluate=problem.evaluate,
        pretraining=schedule,
        pretraining_steps=dense,
        sparsity=0.8,
        cycles=2,
        retraining_steps=retraining,
        schedule="lrw",
        optimizer_state="keep",
    )

    rates = np.asarray([schedule(t) for t in range(dense)], np.float32)
    state, _ = train(problem.state(), rates)
    mask = None
    for sparsity in jp.schedules.imp_sparsities(0.8, 2):
        params, mask = jp.prune(state.params, sparsity, within=mask)
        opt_state = problem.step().set_mask(state.opt_state, mask)
        state, _ = train(state._replace(params=params, opt_state=opt_state), rates[-retraining:])
    jax.tree.map(np.testing.assert_array_equal, result.state.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, result.state.opt_state, state.opt_state)
