"""One step and forty steps of every method against its NumPy transcription.

Momentum 0.9, Nesterov's step and coupled L2 weight decay are on.
"""

import jax
import numpy as np
import pytest

import jaxprune as jp
from tests.parametrizations import cases, oracle


@pytest.mark.parametrize("steps", [1, cases.STEPS])
@pytest.mark.parametrize("name", cases.CASES)
def test_training_follows_the_definition(name, steps):
    case = cases.CASES[name]
    decayed = None if case.decays_extra else tuple(oracle.SHAPES)
    wanted, weights, masks, losses, penalties = oracle.train(
        case.definition(), oracle.parameters(), steps, decayed
    )

    carry, (got_losses, got_penalties, _) = cases.train(name, cases.params(), steps)

    near = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(got_losses[:steps], losses, **near)
    np.testing.assert_allclose(got_penalties[:steps], penalties, **near)
    for k, value in cases.flat(cases.dense(carry.trainable)).items():
        np.testing.assert_allclose(value, wanted[k], **near, err_msg=k)
    if case.extra is not None:
        extra = jax.tree.leaves(carry.trainable[1])
        if name.startswith("dst"):  # thresholds in force
            extra = [t - o for t, o in zip(extra, jax.tree.leaves(carry.state[1]), strict=True)]
        for k, value in zip(case.extra, extra, strict=True):
            np.testing.assert_allclose(value, wanted[k], **near, err_msg=k)

    final, mask = cases.finalize(name)(carry.trainable, carry.state)
    if steps == cases.STEPS or not isinstance(case.definition(), oracle.Gradual):
        for k, value in cases.flat(mask).items():
            np.testing.assert_array_equal(value, masks[k], err_msg=k)
        for k, value in cases.flat(final).items():
            np.testing.assert_allclose(value, weights[k], **near, err_msg=k)
    if case.sparsity is not None:
        assert jp.sparsity(mask) == pytest.approx(case.sparsity, abs=1e-12)


def test_the_cases_show_what_the_methods_do():
    """The comparison above would prove little if masks never moved, or moments mattered to none."""
    kept, forgot = (
        oracle.train(cases.CASES[name].definition(), oracle.parameters(), cases.STEPS)[0]["w1"]
        for name in ("gmp_recover", "gmp_recover_recipe")
    )
    assert np.abs(kept - forgot).max() > 1e-3
    histories = {}
    for name in ("dpf", "dpf_refreshed_at_the_end", "dpf_as_first_published", "gmp_recover"):
        method = cases.CASES[name].definition()
        oracle.train(method, oracle.parameters(), cases.STEPS)
        pairs = zip(method.history, method.history[1:], strict=False)
        moves = [
            (i + 2, any((~before[k] & after[k]).any() for k in oracle.WEIGHTS))
            for i, (before, after) in enumerate(pairs)
            if any((before[k] != after[k]).any() for k in oracle.WEIGHTS)
        ]
        histories[name] = dict(moves)  # iteration -> whether a pruned weight returned
    assert histories["dpf"] == {10: False, 16: True, 20: True, 30: True, 32: True}
    refreshed = {10: False, 16: True, 20: True, 24: True, 30: True, 32: True, 40: True}
    assert histories["dpf_refreshed_at_the_end"] == refreshed
    assert histories["dpf_as_first_published"].keys() == {16, 32}
    assert histories["gmp_recover"] == {10: False, 20: True, 30: True}

    for decayed in (tuple(oracle.SHAPES), None):  # with and without the decay of thresholds
        dst = cases.CASES["dst"].definition()
        oracle.train(dst, oracle.parameters(), cases.STEPS, decayed)
        assert 2 <= dst.resets <= cases.STEPS
    for name in ("str_", "cs", "cs_epochs", "dst"):
        masks = oracle.train(cases.CASES[name].definition(), oracle.parameters(), cases.STEPS)[2]
        kept = np.mean(np.concatenate([masks[k].ravel() for k in oracle.WEIGHTS]))
        assert 0.08 < kept < 0.9, name
