"""Bad input is refused when a method is built or initialized, with the repair in the message."""

import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune import parametrizations as pz

PARAMS = {"kernel": jnp.arange(1.0, 13.0).reshape(4, 3), "bias": jnp.ones(3)}
GRADUAL = [pz.dpf, pz.gmp_recover]
NM = jp.masks.nm(2, 4, axis=0)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90])
def test_sparsity_out_of_range(sparsity):
    for method in (*GRADUAL, lambda s, **_: pz.dnw(s)):
        with pytest.raises(ValueError, match=f"is {sparsity}, but a fraction removed"):
            method(sparsity, total_steps=10, interval=2)


@pytest.mark.parametrize("sparsity", ["0.5", True, jnp.asarray(0.5)])
def test_sparsity_of_the_wrong_kind(sparsity):
    with pytest.raises(TypeError, match="must be a static number"):
        pz.dnw(sparsity)


@pytest.mark.parametrize("method", GRADUAL)
def test_gradual_windows(method):
    with pytest.raises(ValueError, match=r"never prunes.*at most 5"):
        method(0.5, total_steps=10, interval=6)
    with pytest.raises(ValueError, match="never prunes"):
        method(0.5, total_steps=10, interval=11)
    with pytest.raises(ValueError, match="total_steps is 0"):
        method(0.5, total_steps=0, interval=1)
    with pytest.raises(ValueError, match="interval is 0"):
        method(0.5, total_steps=10, interval=0)
    with pytest.raises(TypeError, match=r"interval must be a static Python integer.*2\.0"):
        method(0.5, total_steps=10, interval=2.0)
    with pytest.raises(ValueError, match=r"below 2147483648"):
        method(0.5, total_steps=2**31, interval=2)


@pytest.mark.parametrize("method", GRADUAL)
def test_growing_targets_and_fixed_patterns(method):
    p = method(0.5, total_steps=10, interval=2, pattern=NM)
    with pytest.raises(ValueError, match=r"'kernel' \(N:M\).*sr_ste\(pattern\)"):
        p.init(PARAMS)


def test_refresh():
    with pytest.raises(ValueError, match="refresh is 0"):
        pz.dpf(0.5, total_steps=10, interval=2, refresh=0)


def test_not_a_function():
    with pytest.raises(TypeError, match="scores must be a function or None"):
        pz.dnw(0.5, scores=jp.scores.magnitude(PARAMS))
    with pytest.raises(TypeError, match=r"allocation must be a function or None.*'erk'"):
        pz.dnw(0.5, allocation="erk")
    with pytest.raises(TypeError, match=r"pattern must be a function or None.*'2:4'"):
        pz.dpf(0.5, total_steps=10, interval=2, pattern="2:4")
    with pytest.raises(TypeError, match="pattern must be a function such as"):
        pz.sr_ste("2:4")
    for method in (pz.str_, pz.dst, pz.identity, lambda where: pz.cs(total_steps=3, where=where)):
        with pytest.raises(TypeError, match="where must be a function or None"):
            method(where="kernel")
    with pytest.raises(TypeError, match="threshold must be a function"):
        pz.str_(threshold="sigmoid")


def test_where_beside_scores_that_do_not_take_it():
    with pytest.raises(TypeError, match="takes no argument `where`"):
        pz.dnw(0.5, scores=lambda params: params, where=lambda path, leaf: True)


def test_where_is_handed_to_scores_that_take_it():
    p = pz.dnw(0.5, scores=jp.scores.magnitude, where=lambda path, leaf: path == "bias")
    _, mask = p.finalize(*p.init({"kernel": jnp.ones((2, 2)), "bias": jnp.array([1.0, 2.0])}))
    assert mask["kernel"] is None
    assert mask["bias"].tolist() == [False, True]


def test_allocation_and_pattern_that_do_not_fit():
    with pytest.raises(ValueError, match="do not divide axis 0 of 'kernel'"):
        pz.sr_ste(jp.masks.nm(1, 3, axis=0)).init(PARAMS)
    with pytest.raises(ValueError, match=r"fixes the sparsity, 0.5; got 0.7"):
        pz.dnw(0.7, pattern=NM).init(PARAMS)
    with pytest.raises(ValueError, match="no prunable leaf"):
        pz.dnw(0.7).init({"bias": jnp.ones(3)})
    for method in (pz.str_, pz.dst, lambda: pz.cs(total_steps=3)):
        with pytest.raises(ValueError, match="no prunable leaf"):
            method().init({"bias": jnp.ones(3)})


def test_sr_ste_patterns():
    with pytest.raises(ValueError, match=r"fix the sparsity.*'kernel'.*Use dnw"):
        pz.sr_ste(jp.masks.block(2, 3)).init(PARAMS)
    with pytest.raises(ValueError, match="None for each of the 1 prunable leaves"):
        pz.sr_ste(lambda path, leaf: None).init(PARAMS)
    with pytest.raises(ValueError, match=r"decay is -1"):
        pz.sr_ste(NM, decay=-1)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_penalties(value):
    for build in (
        lambda: pz.cs(total_steps=3, penalty=value),
        lambda: pz.dst(value),
        lambda: pz.sr_ste(NM, decay=value),
        lambda: pz.cs(total_steps=3, weight_decay=value),
        lambda: pz.dst(weight_decay=value),
    ):
        with pytest.raises(ValueError, match=r"(penalty|decay) is .*finite and in \[0, inf"):
            build()


def test_cs_arguments():
    with pytest.raises(ValueError, match="total_steps is 0"):
        pz.cs(total_steps=0)
    with pytest.raises(ValueError, match=r"initial is -100.*in \[-80"):
        pz.cs(total_steps=3, initial=-100)
    with pytest.raises(ValueError, match=r"final_temperature is 0.5"):
        pz.cs(total_steps=3, final_temperature=0.5)
    with pytest.raises(ValueError, match="'soft' or 'hard'; got 'medium'"):
        pz.cs(total_steps=3, final="medium")
    with pytest.raises(ValueError, match=r"one epoch of total_steps=10.*at most 9"):
        pz.cs(total_steps=10, interval=10)
    with pytest.raises(ValueError, match="interval is 0"):
        pz.cs(total_steps=10, interval=0)


def test_str_arguments():
    with pytest.raises(ValueError, match="initial is nan"):
        pz.str_(initial=float("nan"))
    with pytest.raises(TypeError, match=r"initial must be a static number.*'low'"):
        pz.str_(initial="low")


def test_dst_resets_arguments():
    inner = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"reset_at is 1.0, but a fraction kept"):
        pz.dst_resets(inner, reset_at=1)
    with pytest.raises(ValueError, match="pass either axis="):
        pz.dst_resets(inner, axis=0, layout="flax")
    tx = pz.dst_resets(inner)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(TypeError, match=r"wraps the optimizer of what dst trains.*got dict"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_dst_arguments():
    with pytest.raises(ValueError, match=r"reset_at is 1.*\[0, 1\)"):
        pz.dst(reset_at=1)
    with pytest.raises(ValueError, match=r"either axis=.*or layout="):
        pz.dst(axis=0, layout="flax")
    with pytest.raises(ValueError, match="got 'torch'"):
        pz.dst(layout="torch")
    with pytest.raises(TypeError, match=r"axis is an integer.*'last'"):
        pz.dst(axis="last")
    with pytest.raises(ValueError, match=r"axis 2 does not exist in 'kernel'.*\(4, 3\)"):
        pz.dst(axis=2).init(PARAMS)
    with pytest.raises(TypeError, match=r"axis is an integer.*1.5.*'kernel'"):
        pz.dst(axis=lambda path, leaf: 1.5).init(PARAMS)
    with pytest.raises(ValueError, match="one of them twice"):
        pz.dst(axis=(1, -1)).init(PARAMS)


def test_masked_arguments():
    with pytest.raises(ValueError, match="'dense' or 'masked'; got 'straight'"):
        pz.masked(PARAMS, jp.masks.dense(PARAMS), backward="straight")
    with pytest.raises(ValueError, match="of another tree"):
        pz.masked(PARAMS, {"kernel": jnp.ones((4, 3), bool)})


def test_parts_of_different_models():
    p = pz.str_()
    trainable, state = p.init(PARAMS)
    other, _ = p.init({"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"first at 'bias'.*same init"):
        p.apply(trainable._replace(thresholds=other.thresholds), state)


def test_a_leaf_without_weights_is_a_warning_of_finalize():
    values = {"a": {"kernel": jnp.full((1, 2), 0.1)}, "b": {"kernel": jnp.ones((2, 2))}}
    dnw, str_ = pz.dnw(0.4), pz.str_(initial=0.0)
    for p in (dnw, str_):
        trainable, state = p.init(values)
        p.apply(trainable, state)  # in the middle of training it is none
        with pytest.warns(UserWarning, match="no weight is left of 'a/kernel'"):
            p.finalize(trainable, state)


def test_gradual_windows_that_cannot_be():
    for method in GRADUAL:
        with pytest.raises(ValueError, match="end_step=11 lies after the end of training"):
            method(0.5, total_steps=10, interval=2, end_step=11)
        with pytest.raises(ValueError, match="asks for a pruning before the first step"):
            method(0.5, total_steps=10, interval=2, initial=0.2)


@pytest.mark.parametrize(
    "make",
    [lambda s: pz.dnw(s), *(lambda s, f=f: f(s, total_steps=10, interval=2) for f in GRADUAL)],
)
def test_targets_that_are_passed_already(make):
    kernel = PARAMS["kernel"].at[1:].set(0)
    with pytest.raises(ValueError, match=r"sparsity 0\.5, but 9 of the 12.*zero already"):
        make(0.5).init({"kernel": kernel})
    with pytest.raises(ValueError, match=r"never prunes: sparsity 0\.01 of 12"):
        make(0.01).init(PARAMS)
