"""Language modelling: windows, perplexity, runs, resumption, bad input."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import checks, command, report, sweep
from experiments import tasks as all_tasks
from experiments.config import Config, check_same, compared, defaults
from experiments.setup import build
from experiments.sweeps import Sweep, SweepFolder, runs
from experiments.tasks import language_modelling as lm
from experiments.tasks._vocabulary import ByteVocabulary, learn
from tests.experiments._tasks import lines, run, summary, text_feature, with_method, write_examples

pytestmark = pytest.mark.usefixtures("jax_defaults")

TEXT = "".join(f"{i} plus {j} is {i + j}.\n" for i in range(9) for j in range(9))
PARTS = (TEXT, TEXT[:200], TEXT[300:505])
SMALL = defaults(
    "language_modelling",
    data="sums.txt",
    width=16,
    depth=1,
    heads=2,
    max_length=16,
    batch_size=8,
    epochs=2,
    retrain_epochs=1,
    cycles=1,
    sparsity=0.5,
    checkpoint_epochs=1,
)


@pytest.fixture(scope="module")
def text():
    return lm.make_text("sums", PARTS, 256)


def test_every_token_but_the_first_is_predicted_once():
    for n in (2, 7, 8, 9, 15):
        tokens = np.arange(n, dtype=np.int32)
        found = lm.windows(tokens, 4)
        predicted = np.concatenate(
            [row[1 : 1 + k] for row, k in zip(found["tokens"], found["predicted"], strict=True)]
        )
        np.testing.assert_array_equal(predicted, tokens[1:])
    with pytest.raises(ValueError, match="1 tokens leaves nothing to predict"):
        lm.windows(np.zeros(1, np.int32), 4)


def test_an_epoch_goes_through_stretches_that_do_not_overlap():
    tokens = np.arange(103, dtype=np.int32)
    batch_at = jax.jit(lm.make_batch_at(tokens, batch_size=3, length=8, seed=1))
    # 103 // 8 - 1 = 11 stretches, 3 batches.
    epochs = [[np.asarray(batch_at(3 * e + i)["tokens"]) for i in range(3)] for e in range(2)]
    starts = []
    for epoch in epochs:
        rows = np.concatenate(epoch)
        assert rows.shape == (9, 9)
        np.testing.assert_array_equal(np.diff(rows, axis=1), 1)
        assert len({*rows[:, 0]}) == 9
        assert len({*(rows[:, 0] % 8)}) == 1
        starts.append(rows[:, 0].tolist())
    assert starts[0] != starts[1]
    again = lm.make_batch_at(tokens, batch_size=3, length=8, seed=1)
    np.testing.assert_array_equal(again(4)["tokens"], epochs[1][1])


def test_perplexity_is_that_of_the_whole_text(text):
    parts = build(SMALL, dataset=text)
    model = lm.create(SMALL, 256, np.float32)
    values = parts.evaluate(parts.state)
    losses, hits = [], []
    for i in range(0, len(text.test) - 1, 16):
        window = text.test[i : i + 17]
        logits = model.apply({"params": parts.state.params}, window[None, :-1], train=False)
        for row, token in zip(np.asarray(logits[0], np.float64), window[1:], strict=True):
            losses.append(np.log(np.exp(row).sum()) - row[token])
            hits.append(row.argmax() == token)
    assert len(losses) == len(text.test) - 1
    assert values["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert values["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert values["token_accuracy"] == pytest.approx(np.mean(hits))


def test_a_cycle_of_each_kind_of_method(text, tmp_path):
    for method, phases in (("imp", ["dense", "cycle 1"]), ("gmp", ["final prune"])):
        config = with_method(SMALL, tmp_path, method)
        result, said = run(config, text)
        jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.5)
        rows = summary(config.run_dir)
        assert [row["phase"] for row in rows][-len(phases) :] == phases
        last = result.records[-1].evaluation
        assert float(rows[-1]["perplexity"]) == last["perplexity"] < 256
        assert {"perplexity_pruned", "token_accuracy", "sequences_per_second"} <= rows[0].keys()
        assert "accuracy" not in rows[0]
        assert "test ppl" in said
        assert "sequences" in said
        assert "Perplexity a token, of 256 (bytes)" in said
        held = lines(config.run_dir)
        assert all(row["perplexity"] > 0 for row in held if row["kind"] == "train")
        assert held[-1]["test_perplexity"] == last["perplexity"]
        for name in ("perplexity.png", "learning_rate.png", "sparsity.png", "weights.png"):
            assert (config.run_dir / name).read_bytes()[:4] == b"\x89PNG"
        assert not (config.run_dir / "accuracy.png").exists()
        vocabulary = json.loads((config.run_dir / "vocabulary.json").read_text())
        assert vocabulary == {"model": {"type": "bytes"}}
        document = json.loads((config.run_dir / "config.json").read_text())
        assert "--task language_modelling" in document["command"]
        assert "--optimizer" not in document["command"], "it is the task's default"
        assert document["data"]["examples"] == {"train": len(TEXT), "validation": 200, "test": 205}


def test_resumed_is_uninterrupted(text, tmp_path):
    calm = with_method(SMALL, tmp_path, "gmp", run_dir=tmp_path / "calm")
    wanted, _ = run(calm, text)
    config = dataclasses.replace(calm, run_dir=tmp_path / "stopped")
    asked = iter([False, False])
    with pytest.raises(jp.training.Preempted):
        run(config, text, stop=lambda: next(asked, True))
    found, _ = run(dataclasses.replace(config, resume=True), text)
    for a, b in zip(
        jax.tree.leaves(found.state.params), jax.tree.leaves(wanted.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    timing = ("seconds", "sequences_per_second")
    strip = [{k: v for k, v in row.items() if k not in timing} for row in lines(config.run_dir)]
    assert strip == [
        {k: v for k, v in row.items() if k not in timing} for row in lines(calm.run_dir)
    ]
    other = lm.make_text("sums", (TEXT[::-1], *PARTS[1:]), 256)
    with pytest.raises(ValueError, match="data"):
        run(dataclasses.replace(config, resume=True), other)


def test_byte_pairs_lose_nothing():
    odd = "Grüße,  zwei   Räume\tund 漢字 – \U0001f600\n\n"
    for vocabulary in (ByteVocabulary(), learn([TEXT], 300)):
        (tokens,) = vocabulary.encode([odd])
        assert vocabulary.decode(tokens) == odd
        assert 0 <= tokens.min() <= tokens.max() < vocabulary.size
    assert 256 < vocabulary.size <= 300, "so short a text has few pairs"
    assert len(vocabulary.encode([TEXT])[0]) < len(TEXT)
    with pytest.raises(ValueError, match="at least 256"):
        learn([TEXT], 100)


def test_files_and_sets(tmp_path):
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    config = dataclasses.replace(SMALL, data=str(path))
    checks.check_here(dataclasses.replace(config, run_dir=tmp_path / "run"))
    found = lm.read(config, None)
    assert ByteVocabulary().decode(np.concatenate(found[1:4])) == TEXT
    assert len(found.test) == pytest.approx(len(TEXT) / 20, abs=1)
    assert config.resolved_run_dir().name == "sums-gpt-imp-allr-0.5-s0"

    examples = [{"story": f"story {i}".encode(), "other": b"x"} for i in range(3)]
    features = {"story": text_feature(), "other": text_feature()}
    splits = {"train": examples, "val": examples[:1], "test": examples[1:]}
    write_examples(tmp_path, "tales", features, splits)
    config = dataclasses.replace(SMALL, data="tales", data_dir=tmp_path, text_fields="story")
    found = lm.read(config, None)
    assert ByteVocabulary().decode(found.train) == "story 0\n\nstory 1\n\nstory 2\n\n"
    assert ByteVocabulary().decode(found.validation) == "story 0\n\n"
    assert found.version == "1.0.0"
    for wanted, said in (
        (None, r"has the fields \{'other': 'Text', 'story': 'Text'\}; this task needs one text"),
        ("storey", r"text_fields='storey', but this task needs one text field of tales"),
        ("story,other", "Give one name"),
    ):
        with pytest.raises(ValueError, match=said):
            checks.check_here(dataclasses.replace(config, text_fields=wanted))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "nowhere.txt"}, r"nowhere\.txt is not there"),
        ({"data": ""}, "needs data"),
        ({"model": "small_cnn"}, "unknown model 'small_cnn'"),
        ({"void_class": 3}, "void_class means nothing to task language_modelling"),
        ({"momentum": 0.5}, "momentum means nothing to optimizer adamw"),
        ({"max_length": 1}, "max_length is at least 2"),
        ({"stream": True}, "leave out stream"),
        ({"task": "language_modeling"}, "did you mean 'language_modelling'"),
        ({"dropout": 1.0}, "dropout is a fraction"),
        ({"width": 0}, "width is at least 1"),
    ],
)
def test_bad_input(options, said, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        checks.check_here(dataclasses.replace(SMALL, run_dir=tmp_path, **options))


def test_bad_text(text, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    for name, said in (("empty.txt", "is empty"), ("odd.txt", "no text in UTF-8")):
        with pytest.raises(ValueError, match=said):
            lm.read(dataclasses.replace(SMALL, data=str(tmp_path / name)), None)
    with pytest.raises(ValueError, match=r"fewer than two sequences of max_length=4000.*at most"):
        build(dataclasses.replace(SMALL, max_length=4000), dataset=text)
    with pytest.raises(ValueError, match="width 16 is no multiple of heads 3"):
        build(dataclasses.replace(SMALL, heads=3), dataset=text)


def test_defaults_are_those_of_the_task():
    config = command.parse(["--task=language_modelling", "--data", "a.txt", "--depth", "3"])
    assert (config.model, config.optimizer, config.depth) == ("gpt", "adamw", 3)
    assert command.parse([]) == Config() == defaults("image_classification")
    assert set(all_tasks.KINDS) == {
        "image_classification",
        "segmentation",
        "translation",
        "language_modelling",
    }


def test_folders_and_checkpoints_from_before_are_of_image_classification(tmp_path):
    later = {"task", "optimizer", "width", "vocabulary"}
    assert not later & compared(Config()).keys()
    assert "task" in compared(SMALL)
    old = {k: v for k, v in dataclasses.asdict(Config()).items() if k not in later}
    (tmp_path / "config.json").write_text(json.dumps({"config": {**old, "run_dir": None}}))
    check_same(tmp_path, Config())
    with pytest.raises(FileExistsError, match="task: 'image_classification' there"):
        check_same(tmp_path, dataclasses.replace(Config(), task="segmentation"))


def test_sweeps_have_the_defaults_of_their_task(tmp_path):
    base = {"task": "language_modelling", "data": "a/sums.txt", "schedule": ("allr", "llr")}
    found = runs(Sweep("sums", base))
    assert [run.config.optimizer for run in found] == ["adamw"] * 2
    assert len({run.dense for run in found}) == 1
    assert found[0].dense.startswith("gpt-sums-")
    assert all(run.id.startswith("gpt-sums-imp-") for run in found)
    command = SweepFolder(tmp_path, found).command(found[1])
    assert "--task language_modelling --data a/sums.txt --schedule llr --run-dir" in command


@pytest.mark.slow
def test_a_sweep(tmp_path):
    path = tmp_path / "sums.txt"
    path.write_text(TEXT * 5)
    sizes = {"width": 16, "depth": 1, "heads": 2, "max_length": 16, "epochs": 1, "cycles": 1}
    base = {"task": "language_modelling", "data": str(path), "retrain_epochs": 1, **sizes}
    (tmp_path / "grid.py").write_text(
        f"from experiments.sweeps import Sweep\nSWEEP = Sweep('sums', {base!r})\n"
    )
    out = tmp_path / "out"
    assert sweep.main([str(tmp_path / "grid.py"), "--out", str(out)]) == 0
    assert "perplexity" in report.report(report.Options(out))
