"""The benchmark of training loops, at sizes that take no time."""

import csv
import io
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import models
from experiments.bench.common import pairs, timing
from experiments.bench.training import __main__ as training
from experiments.bench.training import loops, measure, peaks, problems, pytorch, report, whole_run

pytestmark = pytest.mark.usefixtures("jax_defaults")

SMALL = (8, 8, 3)


@pytest.fixture
def tiny(monkeypatch):
    """Small networks under the names of the large ones."""
    resnet = partial(models.ResNet, blocks=1, widths=(2, 5))
    for name in ("resnet20", "resnet56"):
        monkeypatch.setitem(models.MODELS, name, resnet)
        monkeypatch.setitem(problems.SHAPES, name, SMALL)
    monkeypatch.setattr(problems, "CIFAR", SMALL)
    monkeypatch.setitem(models.MODELS, "lenet_300_100", partial(models.MLP, widths=(6, 5)))
    monkeypatch.setitem(problems.SHAPES, "lenet_300_100", (4, 4, 1))
    monkeypatch.setattr(peaks, "_SIDE", 16)


def problem(name="resnet20", batch=4, images=9):
    return problems.make(name, batch, images=images, precision="float32", seed=0)


def settings(tmp_path, **options):
    small = {"models": ("resnet20",), "batches": (4,), "block_seconds": 0.0, "images": 9}
    small |= {"evaluated": 8, "pairs": 6, "out": tmp_path / "out" / "training.json"}
    return training.Settings(**{**small, **options})


def run(tmp_path, **options):
    given = settings(tmp_path, **options)
    table = training.run(given, console=Console(file=io.StringIO()))
    return table, json.loads(given.out.read_text())


# The problems.


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("lenet_300_100", 16 * 6, 6 * 5 + 5 * 10),
        # 3x3 convolutions on 8x8 and 4x4 pixels, and the last layer.
        ("resnet20", 9 * 64 * 3 * 2, 9 * (64 * 2 * 2 * 2 + 16 * (2 * 5 + 5 * 5)) + 5 * 10),
    ],
)
def test_a_step_is_three_passes_without_the_gradient_by_the_images(name, first, others):
    made = problem(name, batch=4)
    assert made.step_flops == 2 * (2 * first + 3 * others) * 4
    assert (made.augment is None) == (name == "lenet_300_100")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("name", "chunks"),
    [
        ("lenet_300_100", True),
        pytest.param("lenet_300_100", False, marks=pytest.mark.slow),
        pytest.param("resnet20", False, marks=pytest.mark.slow),
    ],
)
def test_the_dense_loops_do_what_ours_does_without_pruned_weights(name, chunks, monkeypatch):
    monkeypatch.setattr(loops, "CHUNK_STEPS", 2)
    made = problem(name)
    dense = loops.dense(made, chunks=chunks)
    ours = loops.ours(made, loops.train_loop(made), 0.0)
    t, params, _, model_state = dense.run(dense.carry, 3)
    state = ours.run(ours.carry, 3)
    assert int(t) == int(state.step) == 3
    for a, b in zip(
        jax.tree.leaves((params, model_state)),
        jax.tree.leaves((state.params, state.model_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, made.params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.usefixtures("tiny")
def test_a_weight_that_comes_back_is_found():
    made = problem("lenet_300_100")
    state = loops.masked_state(made, 0.9)
    loops.check_sparse(state, made.weights, 0.9)
    state = state._replace(params=jax.tree.map(lambda x: x + 1, state.params))
    with pytest.raises(RuntimeError, match=r"0 pruned weights are zero, and .* were to be"):
        loops.check_sparse(state, made.weights, 0.9)


@pytest.mark.usefixtures("tiny")
def test_convolutions_are_not_put_into_compiled_loops_on_a_cpu(monkeypatch):
    made = [problem(name)._replace(params={"kernel": jnp.ones(shape)}) for name, shape in CONVS]
    assert [loops.runs_chunks_well(p) for p in made] == [True, False]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert all(loops.runs_chunks_well(p) for p in made)


CONVS = (("lenet_300_100", (2, 2)), ("lenet_300_100", (3, 3, 2, 2)))


# PyTorch.


def torch_loop(made, form="channels first", sparsity=0.5):
    torch = pytest.importorskip("torch")
    options = {"form": form, "device": "cpu", "threads": torch.get_num_threads()}
    return pytorch.loop(made, sparsity, torch=torch, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["lenet_300_100", "resnet20"])
def test_the_network_in_pytorch_is_ours(name):
    torch = pytest.importorskip("torch")
    made = problem(name)
    network = pytorch._network(torch, made)
    assert sum(p.numel() for p in network.parameters()) == made.parameters
    kernels = [x for x in jax.tree.leaves(in_order(made)) if x.ndim > 1]
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    with torch.no_grad():
        for layer, kernel in zip(layers, kernels, strict=True):
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.copy_(torch.from_numpy(np.array(kernel).transpose(axes)))
            if layer.bias is not None:
                layer.bias.zero_()
    batch = made.batch_at(0)
    ours, _ = made.model.apply(
        {"params": made.params, **made.model_state}, batch["image"], True, mutable=["batch_stats"]
    )
    image = torch.from_numpy(np.array(batch["image"]).transpose(0, 3, 1, 2))
    with torch.no_grad():
        theirs = network.train()(image).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def in_order(made):
    """The layers in the order of the network; those of the tree are by name."""
    first, *rest = sorted(made.params, key=lambda name: (name.startswith("dense"), name))
    blocks = [made.params[name] for name in (first, *rest) if not name.startswith("norm")]
    return [list(block.values()) if "conv0" in block else block for block in blocks]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("form", pytorch.FORMATS)
def test_pytorch_trains_under_masks(form):
    made = problem()
    loop = torch_loop(made, form)
    assert loop.run(loop.carry, 3) == ()  # 9 images make two batches: the epoch wraps


@pytest.mark.usefixtures("tiny")
def test_pytorch_crops_flips_and_normalises():
    torch = pytest.importorskip("torch")
    made = problem(batch=4, images=8)
    batches = pytorch._batches(torch, made, "cpu", torch.channels_last)
    seen, corners = [], set()
    for _ in range(2):
        image, label = next(batches)
        assert image.is_contiguous(memory_format=torch.channels_last)
        pixels = np.rint(image.numpy() * 255 * 0.25 + 255 * 0.5).astype(np.uint8)
        for one, of in zip(pixels.transpose(0, 2, 3, 1), label.tolist(), strict=True):
            found = [
                (index, row, column, flip)
                for index in range(8)
                for row in range(9)
                for column in range(9)
                for flip in (1, -1)
                if np.array_equal(one, crop(made.images[index], row, column)[:, ::flip])
            ]
            assert len(found) == 1
            assert made.labels[found[0][0]] == of
            seen.append(found[0][0])
            corners.add(found[0][1:])
    assert sorted(seen) == list(range(8))
    assert len(corners) > 4


def crop(image, row, column):
    return np.pad(image, ((4, 4), (4, 4), (0, 0)))[row : row + 8, column : column + 8]


@pytest.mark.usefixtures("tiny")
def test_another_network_in_pytorch_is_no_comparison(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(pytorch, "_network", lambda *_: torch.nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match=r"resnet20 has 6 parameters in PyTorch and .* here"):
        torch_loop(problem())


def test_what_pytorch_cannot_do_is_said(monkeypatch):
    pytest.importorskip("torch")
    with pytest.raises(timing.Unavailable, match="no PyTorch loop for the device tpu"):
        pytorch.load(device="tpu")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(pytorch.importlib, "import_module", missing)
    with pytest.raises(timing.Unavailable, match="torch is not installed"):
        pytorch.load(device="cpu")
    assert "TF32" in pytorch.settings("cuda", 8)
    assert pytorch.settings("cpu", 8).startswith("8 threads")


# Peaks.


@pytest.mark.parametrize(
    ("kind", "precision", "tera"),
    [
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA H100 80GB HBM3", "float32", 495),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA L4", "float32", 60),
        ("NVIDIA L40S", "float32", None),
        ("Tesla T4", "bfloat16", None),
        ("TPU v5 lite", "float32", 197),
        ("TPU v5", "bfloat16", 459),
    ],
)
def test_peaks_by_data_sheet(monkeypatch, kind, precision, tera):
    class Device:
        platform, device_kind = "gpu", kind

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    found = peaks.peak(precision)
    assert (found and found.flops_per_second) == (tera and tera * 1e12)


@pytest.mark.usefixtures("tiny")
def test_the_peak_of_a_cpu_is_measured():
    found = peaks.peak("float32")
    assert found is not None
    assert found.flops_per_second > 0
    assert found.what == "float32, measured: a product of 16x16 matrices"
    assert peaks.peak("bfloat16") is None


# Whole runs.


@pytest.mark.usefixtures("tiny")
def test_a_whole_run_is_added_up_from_its_parts():
    parts = whole_run.Parts(once=20.0, prune=1.0, evaluate=2.0, validate=0.5, checkpoint=0.0)
    row = whole_run.row(problem(batch=128, images=128), 0.01, parts)
    assert row["epochs"] == 230
    assert row["steps"] == 230 * 351
    assert row["train_seconds"] == pytest.approx(807.3)
    assert row["overhead_fraction"] == pytest.approx((20 + 3 * 1 + 7 * 2 + 230 * 0.5) / 807.3)
    saved = whole_run.row(problem(batch=128, images=128), 0.01, parts._replace(checkpoint=5.0))
    assert saved["run_seconds"] - row["run_seconds"] == pytest.approx((4 + 230 // 5) * 5.0)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_parts_of_a_run_are_measured(monkeypatch):
    made = problem(batch=3)
    train = loops.train_loop(made)
    state = loops.masked_state(made, 0.5)
    sparsities = []
    right = whole_run._prune

    def prune(*args):
        sparsities.append(jp.sparsity((state := right(*args)).mask))
        return state

    monkeypatch.setattr(whole_run, "_prune", prune)
    monkeypatch.setattr(whole_run, "checkpoint_seconds", lambda state: (1000.0, 2.0))
    parts = whole_run.measure(made, train, state, compile_step=100.0, sparsity=0.9, images=8)
    assert sparsities == pytest.approx(jp.schedules.imp_sparsities(0.9, 3), abs=0.01)
    assert parts.once > 1100  # the first checkpoint and the compiled step are in it
    assert parts.checkpoint == 2.0
    assert parts.prune > 0
    assert parts.evaluate > 0
    assert parts.validate == pytest.approx(parts.evaluate / 2)


@pytest.mark.usefixtures("tiny")
def test_the_first_checkpoint_is_told_from_the_others():
    assert whole_run.first_and_others([9.0, 2.0, 1.0, 7.0, 2.0]) == (7.0, 2.0)
    assert whole_run.first_and_others([1.0, 2.0, 2.0]) == (0.0, 2.0)
    first, others = whole_run.checkpoint_seconds(loops.masked_state(problem("lenet_300_100"), 0.5))
    assert first >= 0
    assert others > 0


# The report.


def row(model="resnet56", batch=128, *, dense=1.0, torch=3.5, slower=1.0, **facts):
    known = {"parameters": 5, "weights": 4, "dense_loop": "step by step", "torch_format": None}
    known |= {"not_measured": None, "torch_not_measured": None}
    times = {}
    if dense is not None:
        times["dense"] = pairs.Pairs((2.0,) * 6, tuple(2.0 * x for x in np.broadcast_to(dense, 6)))
    if torch is not None:
        times["torch"] = pairs.Pairs((2.0 * slower,) * 6, (2.0 * slower * torch,) * 6)
    peak = peaks.Peak(1e6, "made up")
    return report.row(
        model, batch, facts={**known, **facts}, pairs=times, steps=4, flops=100_000, peak=peak
    )


def test_a_row_holds_ratios_of_images_a_second():
    r = row(slower=2.0)  # the machine, in the pairs with PyTorch
    assert r["ours_seconds"] == pytest.approx(0.5)
    assert r["ours_beside_dense_images_per_second"] == pytest.approx(256)
    assert r["dense_images_per_second"] == pytest.approx(256)
    assert r["ours_beside_torch_images_per_second"] == pytest.approx(128)
    assert r["torch_images_per_second"] == pytest.approx(128 / 3.5)
    assert (r["over_dense"], r["over_torch"]) == (1.0, 3.5)
    assert r["flops_per_second"] == pytest.approx(2e5)
    assert r["of_peak_flops"] == pytest.approx(0.2)
    assert (r["pairs"], r["block_steps"]) == (6, 4)


def test_targets_are_met_by_medians_and_intervals_say_how_surely():
    spread = (0.9, 0.9, 0.95, 0.95, 0.95, 0.98)
    rows = [row(dense=spread), row("resnet20", dense=0.96), row(batch=1024, dense=None, torch=None)]
    slow = {"model": "resnet20", "batch": 128, "epochs": 230, "overhead_fraction": 0.051}
    found = report.targets(rows, [slow], backend="gpu")
    assert [t["met"] for t in found] == [False, True, False, None, False]
    assert [t["limit"] for t in found] == [0.97, 3.0, 0.97, 0.97, 0.05]
    assert found[0]["open"] == pytest.approx([0.9, 0.98])
    assert found[2]["open"] is None  # missed for sure
    # The factor over PyTorch was aimed at on GPUs.
    assert len(report.targets(rows, [], backend="cpu")) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_files_hold_every_case_and_the_machine(tmp_path):
    pytest.importorskip("torch")
    table, document = run(tmp_path, models=("lenet_300_100", "resnet20"))
    lenet, resnet = document["results"]
    assert (lenet["model"], resnet["model"]) == ("lenet_300_100", "resnet20")
    for r in (lenet, resnet):
        assert r["pairs"] == len(r["dense_blocks"]) == len(r["torch_blocks"]) == 6
        assert r["over_dense_low"] <= r["over_dense"] <= r["over_dense_high"]
        ratios = [other / base for base, other in r["torch_blocks"]]
        assert r["over_torch"] == pytest.approx(np.median(ratios))
        assert r["torch_format"] in pytorch.FORMATS
        assert r["of_peak_flops"] > 0
    assert (lenet["parameters"], lenet["weights"]) == (16 * 6 + 6 + 6 * 5 + 5 + 60, 176)
    assert [r["model"] for r in document["runs"]] == ["resnet20"]
    assert document["runs"][0]["checkpoint_seconds"] > 0
    assert "| whole run | batch | steps of 230 epochs s |" in table
    assert document["settings"]["pairs"] == 6
    assert "torch" in document["machine"]["versions"]
    assert document["command"].startswith("python -m experiments.bench.training --models lenet")
    assert (tmp_path / "out" / "training.md").read_text() == table + "\n"
    written = list(csv.DictReader(io.StringIO((tmp_path / "out" / "training.csv").read_text())))
    assert [r["model"] for r in written] == ["lenet_300_100", "resnet20"]
    assert "dense_blocks" not in written[0]
    assert "| resnet20 | 4 |" in table
    widths = [line.count("|") for line in table.splitlines() if line.startswith("| resnet20 |")]
    assert widths == [14, 10]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_without_pytorch_the_row_says_so(tmp_path, monkeypatch):
    def missing(**_):
        raise timing.Unavailable("torch is not installed (the extra `bench`)")

    monkeypatch.setattr(pytorch, "load", missing)
    table, document = run(tmp_path, models=("lenet_300_100",))
    (r,) = document["results"]
    assert r["torch_not_measured"] == "torch is not installed (the extra `bench`)"
    assert r["over_torch"] is None
    assert "| torch is not installed (the extra `bench`) |" in table


@pytest.mark.usefixtures("tiny")
def test_a_case_that_takes_too_long_is_skipped(tmp_path, monkeypatch):
    made = []
    right = loops.train_loop
    monkeypatch.setattr(loops, "train_loop", lambda p: made.append(p.batch) or right(p))
    table, document = run(
        tmp_path, models=("lenet_300_100",), batches=(8, 4), seconds_per_side=0.0, pairs=None
    )
    assert [r["batch"] for r in document["results"]] == [4, 8]
    assert all(r["not_measured"].startswith("skipped: a step takes") for r in document["results"])
    assert made == [4]  # the first one says how long the second would take
    assert [t["met"] for t in document["targets"]] == [None, None]
    assert "of the 0 s that seconds_per_side allows" in table


def test_as_many_pairs_as_fit():
    plan = training.Settings(seconds_per_side=60.0)
    fits = measure.pairs_that_fit
    # Five untimed blocks of ours, and one in each pair with each of two sides.
    assert (fits(3.0, plan), fits(0.1, plan), fits(10.0, plan)) == (7, 12, 6)
    fixed = training.Settings(pairs=7)
    assert fits(100.0, fixed) == fits(0.1, fixed) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("vgg",)}, r"unknown name 'vgg' in models\. Known: lenet_300_100, resnet20"),
        ({"batches": ()}, "batches is empty"),
        ({"batches": (4, 0)}, r"batches\[1\] is at least 1; got 0"),
        ({"sparsity": 1.0}, r"in \(0, 1\); got 1\.0"),
        ({"pairs": 5}, "pairs is at least 6; got 5"),
        ({"block_seconds": math.nan}, "block_seconds is at least 0; got nan"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_measured(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_bad_input_from_a_wrong_network(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(training, "prefer_eigen_convolutions", lambda: asked.append(1))
    out = ["--out", str(tmp_path / "x.json")]
    assert training.main(["--models", "vgg", "--convolutions", "default", *out]) == 2
    assert "unknown name 'vgg'" in capsys.readouterr().out
    assert not asked

    def wrong(settings, *, console):
        raise RuntimeError("another network is no comparison")

    monkeypatch.setattr(training, "run", wrong)
    assert training.main(out) == 1
    assert asked
    assert "no comparison" in capsys.readouterr().out
