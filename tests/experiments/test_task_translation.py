"""Translation: buckets, model, decoding, BLEU, runs, reading, bad input."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import checks
from experiments.config import defaults
from experiments.setup import build
from experiments.tasks import translation as mt
from experiments.tasks.translation._data import BEGIN, END, PAD, SPECIAL
from experiments.tasks.translation._metrics import bleu
from tests.experiments._streams import real
from tests.experiments._tasks import (
    image_feature,
    lines,
    run,
    summary,
    text_feature,
    with_method,
    write_examples,
)

pytestmark = pytest.mark.usefixtures("jax_defaults")

NAMES = ("ein", "zwei", "drei", "vier", "rot", "blau")
OTHERS = ("one", "two", "three", "four", "red", "blue")
SMALL = defaults(
    "translation",
    data="words",
    width=16,
    depth=1,
    heads=2,
    vocabulary=256,
    max_length=24,
    buckets=2,
    batch_size=8,
    eval_batch_size=8,
    epochs=1,
    retrain_epochs=1,
    cycles=1,
    sparsity=0.5,
    checkpoint_epochs=1,
)


def sentences(n, seed):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        words = random.integers(0, len(NAMES), random.integers(1, 5))
        found.append((" ".join(NAMES[w] for w in words), " ".join(OTHERS[w] for w in words)))
    return found


SPLITS = {"train": sentences(42, 0), "validation": sentences(6, 1), "test": sentences(11, 2)}


@pytest.fixture(scope="module")
def pairs():
    return mt.make_pairs("words", SPLITS, 256)


def random_model(**options):
    """A network whose translations depend on the source: larger weights than at the start."""
    sizes = {"vocabulary": 12, "max_length": 9, "width": 8, "depth": 2, "heads": 2, **options}
    model = mt.Transformer(**sizes)
    x = jnp.ones((1, 5), jnp.int32)
    params = jax.jit(lambda k: model.init(k, x, x, False))(jax.random.key(3))["params"]
    keys = iter(jax.random.split(jax.random.key(7), len(jax.tree.leaves(params))))
    return model, jax.tree.map(lambda x: x + jax.random.normal(next(keys), x.shape), params)


def test_batches_have_few_shapes_and_an_epoch_has_each_pair_once(pairs):
    bounds = mt.bounds_of([len(x) for x in pairs.train.target], 3, pairs.longest())
    plan = mt.Plan(pairs.train, bounds, batch_size=4, seed=1)
    assert plan.steps == 42 // 4
    known = [t.tobytes() + s.tobytes() for s, t in zip(*pairs.train[:2], strict=True)]
    assert len({*known}) > 30
    epochs = []
    for epoch in range(2):
        seen, shapes = [], set()
        for step in range(plan.steps * epoch, plan.steps * (epoch + 1)):
            batch = plan.batch_at(step)
            shapes.add(batch["source"].shape)
            assert {x.shape for x in batch.values()} == {batch["source"].shape}
            for source, target, before in zip(
                batch["source"], batch["target"], batch["target_in"], strict=True
            ):
                t, s = target[target != PAD], source[source != PAD]
                assert t[-1] == s[-1] == END
                assert before[0] == BEGIN
                np.testing.assert_array_equal(before[1:], target[:-1])
                seen.append(t.tobytes() + s.tobytes())
        assert shapes <= {(4, length) for length in bounds}
        assert len(shapes) > 1
        # No pair more often than the set has it.
        assert all(seen.count(one) <= known.count(one) for one in seen)
        assert len(seen) == 40
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    again = mt.Plan(pairs.train, bounds, batch_size=4, seed=1)
    first = next(again.stream(13))
    np.testing.assert_array_equal(first["source"], plan.batch_at(13)["source"])
    halves = [next(plan.stream(13, index, 2))["target"] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), first["target"])


def test_padding_changes_nothing():
    model, params = random_model()
    source = jnp.array([[3, 4, 5, END]], jnp.int32)
    before = jnp.array([[BEGIN, 7, 8]], jnp.int32)
    apply = jax.jit(lambda s, before: model.apply({"params": params}, s, before, False))
    logits = apply(source, before)
    longer = jnp.pad(source, ((0, 0), (0, 3)))
    padded = apply(longer, jnp.pad(before, ((0, 0), (0, 2))))
    np.testing.assert_allclose(padded[:, :3], logits, rtol=1e-4, atol=1e-5)
    # A later token of the target is not seen before, the source is everywhere.
    other = apply(source, before.at[0, 2].set(9))
    np.testing.assert_allclose(other[:, :2], logits[:, :2], rtol=1e-4, atol=1e-5)
    other = apply(source.at[0, 2].set(6), before)
    assert (np.abs(other - logits).max(axis=-1) > 1e-3).all()
    with pytest.raises(ValueError, match="10 tokens is longer than max_length 9"):
        apply(jnp.ones((1, 10), jnp.int32), before)


def test_cached_decoding_is_the_likeliest_token_of_the_whole_pass():
    model, params = random_model()
    source = jnp.array([[3, 4, END, PAD], [5, 6, 7, END], [9, END, PAD, PAD], [PAD] * 4], jnp.int32)
    found = np.asarray(mt.make_translate(model)(params, source))
    apply = jax.jit(lambda s, before: model.apply({"params": params}, s, before, False))
    ends = set()
    for row in range(3):
        tokens = [BEGIN]
        while len(tokens) <= 9 and tokens[-1] != END:
            before = np.full((1, 9), PAD, np.int32)
            before[0, : len(tokens)] = tokens
            logits = np.array(apply(source[row : row + 1], before))[0, len(tokens) - 1]
            logits[[PAD, BEGIN]] = -np.inf
            tokens.append(int(logits.argmax()))
        wanted = np.pad(tokens[1:], (0, 10 - len(tokens)))
        np.testing.assert_array_equal(found[row], wanted)
        ends.add(tuple(tokens))
    assert len(ends) > 1, "the sources are told apart"
    assert (found[3] == PAD).all()


def test_evaluation_is_by_tokens_over_all_buckets(pairs):
    parts = build(SMALL, dataset=pairs)
    values = parts.evaluate(parts.state)
    model = mt.Transformer(256 + SPECIAL, max_length=24, width=16, depth=1, heads=2)
    source = mt.pad(pairs.test.source, 11, pairs.longest())
    target = mt.pad(pairs.test.target, 11, pairs.longest())
    before = np.concatenate([np.full((11, 1), BEGIN), target[:, :-1]], axis=1).astype(np.int32)
    logits = model.apply({"params": parts.state.params}, source, before, train=False)
    shifted = np.asarray(logits, np.float64)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, target[..., None], -1)[..., 0]
    assert values["loss"] == pytest.approx(losses[target != PAD].mean(), rel=1e-4)
    assert values.keys() == {"loss", "token_accuracy", "bleu"}
    assert parts.evaluate_validation(parts.state).keys() == {"loss", "token_accuracy"}


def test_bleu_is_sacrebleu_s():
    references = ["the cat sat on the mat", "a dog runs"]
    score, signature = bleu(references, references)
    assert score == pytest.approx(100)
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert 0 < bleu(["the cat sat on a mat", "a dog runs"], references)[0] < 100


@pytest.mark.parametrize("method", ["imp", "gmp"])
def test_a_cycle_of_each_kind_of_method(pairs, tmp_path, method):
    config = with_method(SMALL, tmp_path, method)
    result, said = run(config, pairs)
    jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.5)
    rows = summary(config.run_dir)
    last = result.records[-1].evaluation
    assert float(rows[-1]["bleu"]) == last["bleu"]
    assert {"bleu_pruned", "token_accuracy", "sentences_per_second"} <= rows[0].keys()
    assert "test BLEU" in said
    assert "sacrebleu nrefs:1|" in said
    held = lines(config.run_dir)
    assert held[-1]["test_bleu"] == last["bleu"]
    assert (config.run_dir / "token_accuracy.png").read_bytes()[:4] == b"\x89PNG"
    document = json.loads((config.run_dir / "config.json").read_text())
    assert "nrefs:1" in document["data"]["measure"]
    assert (config.run_dir / "vocabulary.json").exists()


@pytest.mark.slow
def test_gradient_scores_have_their_batches(pairs, tmp_path):
    config = with_method(SMALL, tmp_path, "imp", score="taylor")
    parts = build(config, dataset=pairs)
    found = parts.options["scores"](parts.state.params)
    assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(found))


@pytest.mark.slow
def test_resumed_is_uninterrupted(pairs, tmp_path):
    calm = with_method(SMALL, tmp_path, "imp", run_dir=tmp_path / "calm", epochs=2)
    wanted, _ = run(calm, pairs)
    config = dataclasses.replace(calm, run_dir=tmp_path / "stopped")
    asked = itertools.chain([False, False], itertools.repeat(True))
    with pytest.raises(jp.training.Preempted):
        run(config, pairs, stop=lambda: next(asked))
    found, _ = run(dataclasses.replace(config, resume=True), pairs)
    for a, b in zip(
        jax.tree.leaves(found.state.params), jax.tree.leaves(wanted.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_small_network_learns_words(pairs, tmp_path):
    splits = {**SPLITS, "train": sentences(600, 5)}
    config = with_method(SMALL, tmp_path, "imp", epochs=40, retrain_epochs=10, width=48)
    config = dataclasses.replace(config, vocabulary=300, batch_size=32)
    result, _ = run(config, mt.make_pairs("words", splits, 300))
    assert result.records[-1].evaluation["bleu"] > 50


def test_a_prepared_set(tmp_path):
    features = {"de": text_feature(), "en": text_feature()}
    splits = {
        {"validation": "val"}.get(split, split): [
            {"de": a.encode(), "en": b.encode()} for a, b in pairs
        ]
        for split, pairs in SPLITS.items()
    }
    write_examples(tmp_path, "words", features, splits)
    config = dataclasses.replace(SMALL, data_dir=tmp_path, run_dir=tmp_path / "run")
    checks.check_here(config)
    found = mt.read(config, None)
    assert found.test.reference == [b for _, b in SPLITS["test"]]
    assert found.vocabulary.decode(found.test.source[0][:-1] - SPECIAL) == SPLITS["test"][0][0]
    turned = mt.read(dataclasses.replace(config, text_fields="en,de"), None)
    assert turned.test.reference == [a for a, _ in SPLITS["test"]]
    write_examples(tmp_path, "one", {"en": text_feature(), "i": image_feature(2, 2, 3)}, {})
    with pytest.raises(ValueError, match=r"\{'en': 'Text', 'i': 'Image'\}; this task needs 2 text"):
        checks.check_here(dataclasses.replace(config, data="one"))
    with pytest.raises(ValueError, match=r"text_fields='en'.*2 names with a comma"):
        checks.check_here(dataclasses.replace(config, text_fields="en"))


def test_sentences_that_are_too_long(pairs):
    longest = pairs.longest()
    with pytest.raises(ValueError, match=rf"sentence of {longest} tokens.*--max-length {longest}"):
        build(dataclasses.replace(SMALL, max_length=longest - 1), dataset=pairs)
    with pytest.raises(ValueError, match="no pair of sentences for test"):
        mt.make_pairs("words", {**SPLITS, "test": []}, 256)


@pytest.mark.slow
def test_multi30k(tmp_path):
    folder = real("multi30k")
    config = defaults("translation", data="multi30k", data_dir=folder.parent, run_dir=tmp_path)
    checks.check_here(config)
    found = mt.read(config, None)
    assert [len(s.source) for s in (found.train, found.validation, found.test)] == [
        29000,
        1014,
        1000,
    ]
    assert found.vocabulary.size == 4000
    assert found.longest() <= config.max_length
