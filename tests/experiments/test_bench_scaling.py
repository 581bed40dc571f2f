"""The counts of messages and passes, at sizes that take no time."""

import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments.bench.scaling import __main__ as scaling
from experiments.bench.scaling import counts, problems, report
from jaxprune.masks import _engine

SMALL = {"a/kernel": (1024, 64), "b/kernel": (64, 1024), "c/kernel": (4, 4)}
LARGE = {"a/kernel": (4096, 2048), "b/kernel": (2048, 4096)}

PROGRAM = """HloModule jit_make

%add (a: u32[], b: u32[]) -> u32[] {
  ROOT %c = u32[] add(%a, %b)
}

%body.1 (p: (u32[2,3])) -> (u32[2,3]) {
  %r = (u32[3,1]{1,0}, u32[3,1]{1,0}) all-reduce(%x, %y), channel_id=2, to_apply=%add
}

%body.2 (p: (u32[])) -> (u32[]) {
  %k = u32[3,4]{1,0} conditional(%i, %u, %u), branch_computations={%read.1, %skip.1}
  ROOT %k.2 = u32[3]{0} conditional(%i, %u, %u), true_computation=%read.2, false_computation=%skip.1
}

%skip.1 (p: (u32[])) -> u32[3,4] {
  ROOT %n = u32[3,4]{1,0} constant(0)
}

%read.2 (p: (u32[])) -> u32[3] {
  %r.4 = u32[3]{0} all-reduce(%x), channel_id=5, to_apply=%add
}

%read.1 (p: (u32[])) -> u32[3,4] {
  %r.2 = u32[3,4]{1,0} all-reduce-start(%x), channel_id=3, to_apply=%add
}

ENTRY %main (p: f32[8]) -> pred[8] {
  %r.3 = u32[2,1]{1,0} all-reduce(%x), channel_id=4, to_apply=%add
  %g = bf16[16]{0} all-gather(%y), dimensions={0}
  %w.1 = (u32[2,3]) while(%t), condition=%cond.1, body=%body.1, metadata={op_name="jit(f)/while"}
  %w.2 = (u32[]) while(%t), condition=%c.2, body=%body.2, metadata={op_name="jit(f)/while"}
}
"""


def test_a_program_is_read():
    found = counts.read_messages(PROGRAM)
    assert found == counts.Messages(
        once=(8, 32), sample=(), search=(24,), ties=(48,), others=("all-gather",)
    )


@pytest.mark.parametrize(("points", "within"), [(3, True), (15, False)])
def test_a_turn_of_the_search_is_one_message(points, within):
    found = counts.messages(SMALL, dtype="float32", points=points, within=within)
    # One count of 4 bytes for each point of each leaf that is cut; a small leaf sends nothing.
    assert found.search == (2 * points * 4,)
    assert found.sample == ()
    assert found.ties == (3 * 4,)
    assert found.once == (2 * 4,) * within
    assert found.others == ()


@pytest.mark.slow
def test_large_leaves_are_sampled_first():
    found = counts.messages(LARGE, dtype="bfloat16", points=15, within=False)
    assert found.search == (2 * 15 * 4,)
    assert found.sample == (2 * 2 * 15 * 4,)
    assert found.others == ()


@pytest.mark.slow
def test_turns_are_those_of_the_search():
    n = 4 * 1024
    scores = {"w/kernel": jnp.arange(1.0, n + 1).reshape(64, -1)}
    (found,) = counts.passes(scores, [0.5], points=15)
    # 2**32 keys, a sixteenth of them left after every turn, until one has n / 2 below it; and the
    # last turn.
    assert found.sample == found.ties == 0
    assert 4 <= found.search <= 8 + 1
    (few,) = counts.passes(scores, [0.5], points=3)
    assert found.search < few.search <= 16 + 1
    equal = {"w/kernel": jnp.ones((64, 64))}
    (found,) = counts.passes(equal, [0.5], points=15)
    assert found.search == 8 + 1, "nothing ends it before the key is found"
    assert found.ties == math.log(n, 4)


@pytest.mark.slow
def test_leaves_of_their_own_are_searched_side_by_side():
    equal = {f"{i}/kernel": jnp.ones((64, 64)) for i in range(3)}
    together, alone = (
        counts.passes(equal, [0.5], points=15, allocation=allocation)[0]
        for allocation in (jp.masks.globally(), jp.masks.uniform())
    )
    assert alone.ties == together.ties > 0  # all leaves in the same turns


def test_counting_leaves_the_library_as_it_was():
    before = jax.lax.while_loop, _engine._compiled
    scores = {"w/kernel": jnp.ones((64, 64))}
    counts.passes(scores, [0.5], points=15)
    assert (jax.lax.while_loop, _engine._compiled) == before
    text = jax.jit(lambda s: jp.masks.make(s, 0.5)).lower(scores).as_text()
    assert "callback" not in text


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "repeated"])
def test_scores_repeat(kind):
    scores = counts.scores_of(1 << 14, kind, 0)
    assert [leaf.shape for leaf in scores.values()] == [(64, 64)] * 4
    first = np.asarray(scores["0/kernel"]).astype(np.float32).reshape(-1, 16)
    assert (first >= 0).all()
    assert (first == first[:, :1]).all() == (kind == "repeated")
    again = counts.scores_of(1 << 14, kind, 0)
    np.testing.assert_array_equal(scores["3/kernel"], again["3/kernel"])


def test_a_mask_travels_not_at_all():
    dense, sparse = (counts.training_step(sharded=False, masked=masked) for masked in (False, True))
    assert dense.collectives == sparse.collectives
    assert dense.collectives["all-reduce"] == pytest.approx(4, abs=1e-4)  # the gradient
    assert sparse.state - dense.state == pytest.approx(1, abs=1e-4)  # a byte a weight
    assert sparse.saved - dense.saved == pytest.approx(1 / 8, abs=1e-4)


def test_an_estimate_is_arithmetic():
    network = problems.Network("x", {"a": (1000, 1000)}, {"a": (1000, 1000)})
    count = counts.Messages(once=(8, 12), sample=(120,), search=(60,), ties=(12,), others=())
    turns = counts.Passes(sample=7, search=5, ties=3)
    found = report.estimate(network, count, turns, devices=4, itemsize=4, within=True)
    assert found.full_passes == 5 + 3
    assert found.read == (8 * 5 + 1) * 250_000 + 3 * 5 * 250_000
    assert found.messages == 2 + 7 + 5 + 3
    assert found.sent == 20 + 7 * 120 + 5 * 60 + 3 * 12
    assert found.latency == pytest.approx(17 * 4 * report.HOP)
    assert found.gathered == 4_000_000


def test_networks_are_what_they_are_called():
    for network in problems.NETWORKS:
        assert network.weights == pytest.approx(float(network.name), rel=0.01)
        wide = network.weights >= 1 << 32
        assert (sum(map(math.prod, network.compiled.values())) >= 1 << 32) == wide
        for shape in network.shapes.values():
            assert max(shape) % max(report.DEVICES) == 0


def test_the_command_prints_four_tables(monkeypatch):
    count = counts.Messages(once=(8, 12), sample=(), search=(60,), ties=(12,), others=())
    monkeypatch.setattr(problems, "NETWORKS", (problems.Network("small", SMALL, SMALL),))
    monkeypatch.setattr(counts, "messages", lambda *args, **options: count)
    step = counts.Step({"all-reduce": 4.0}, 12.0, 60.0, 12.125)
    monkeypatch.setattr(counts, "training_step", lambda **options: step)
    turns = [counts.Passes(0, 5, 3), counts.Passes(0, 7, 0)]
    monkeypatch.setattr(counts, "passes", lambda *args, **options: turns)
    out = io.StringIO()
    settings = scaling.Settings(weights=(1 << 14,), networks=("small",))
    scaling.run(settings, Console(file=out, width=1000))
    text = out.getvalue()
    assert text.count("\n|---") == 4
    usual = f"| small | 3 | float32 | global | True | {counts.ACCELERATOR_POINTS} |"
    assert f"{usual} 8 + 12 | none | 60 | 12 | none |" in text
    assert "| repeated | uniform | 16,384 | 0, 7, 3 | 0, 7, 3 |" in text
    assert "| sharded | True | all-reduce 4.00 | 12.000 | 60.00 | 12.125 |" in text
    assert text.count("| small |") == 5 + 2 * len(report.DEVICES)


def test_an_unknown_network_is_refused(capsys):
    assert scaling.main(["--networks", "1e12"]) == 2
    assert "unknown name '1e12' in networks. Known: 1e9, 1e11" in capsys.readouterr().out
