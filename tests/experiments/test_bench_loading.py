"""The benchmark of the input pipeline."""

import io
import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from experiments.bench.loading import __main__ as loading
from experiments.bench.loading import problems, throughput
from tests.experiments.test_data_load import make_examples, write_set


class Clock:
    """A clock that batches move on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def batches(self, seconds, rows=8):
        for took in seconds:
            self.now += took
            yield {"label": np.zeros(rows)}


def count(clock, seconds, **options):
    return throughput.images_per_second(clock.batches(seconds), clock=clock, **options)


def test_images_are_counted_in_whole_batches_after_the_warm_up():
    clock = Clock()
    # The first batch, two to warm up, then stretches of at least 2 s: 3 x 1 s each.
    seconds = [5.0, 1e-9, 1e-9, *[0.75] * 3, *[1.5] * 2, *[2.0]]
    found = count(clock, seconds, repeats=3, min_seconds=2.0, warm_up=2)
    assert found.first_seconds == 5.0
    assert found.images == 8 * 6
    assert found.fastest == pytest.approx(24 / 2.25)
    assert found.median == pytest.approx(16 / 3.0)
    assert found.slowest == pytest.approx(8 / 2.0)


def test_a_stretch_has_at_least_one_batch():
    found = count(Clock(), itertools.repeat(0.5), repeats=2, min_seconds=0.0, warm_up=0)
    assert (found.images, found.median) == (16, 16.0)


@pytest.mark.parametrize("given", [0, 1, 3, 6])
def test_batches_that_end_too_early_are_an_error(given):
    with pytest.raises(ValueError, match=r"batches ended before .* min_seconds=2.0 or warm_up=2"):
        count(Clock(), [1.0] * given, repeats=2, min_seconds=2.0, warm_up=2)


@pytest.mark.slow
@pytest.mark.usefixtures("jax_defaults")
def test_a_run_measures_and_writes(tmp_path):
    write_set(tmp_path, {"train": make_examples(20), "test": make_examples(2)})
    settings = loading.Settings(
        data="tiny",
        data_dir=tmp_path,
        workers=(0,),
        batch_size=4,
        repeats=2,
        min_seconds=0.0,
        out=tmp_path / "new" / "loading.json",
    )
    table = loading.run(settings, console=Console(file=io.StringIO()))
    document = json.loads(settings.out.read_text())
    rows = document["results"]
    assert [row["preprocess"] for row in rows[:2]] == ["none", "crop_flip"]
    assert [(row["what"], row["workers"]) for row in rows[2:4]] == [
        ("lenet_300_100 trained on tiny, streamed", 0),
        ("lenet_300_100 trained on tiny, in memory", None),
    ]
    assert [row["images"] for row in rows[2:4]] == [2 * 20 * 4] * 2
    assert [row["preprocess"] for row in rows[4:]] == [
        "decode",
        "decode, random crop, flip",
        "decode, resize, centre crop",
    ]
    assert [row["images"] for row in (*rows[:2], *rows[4:])] == [8, 8, 2, 2, 2]
    assert all(0 < row["slowest"] <= row["median"] <= row["fastest"] for row in rows)
    assert rows[0]["what"] == "tiny, 6x5x3"
    assert settings.out.with_suffix(".md").read_text() == table + "\n"
    assert table.count("\n| tiny, 6x5x3") == 2
    assert table.count("| JPEG, 375x500x3, ") == 3
    assert "--data tiny --data-dir" in document["command"]


def test_photographs_have_the_size_of_imagenet_s():
    sizes = [len(problems.photograph(np.random.default_rng(seed))) for seed in range(4)]
    assert 100_000 < np.mean(sizes) < 125_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": ("blur",)}, r"unknown name 'blur' in preprocess. Known: none, crop_flip"),
        ({"preprocess": ()}, "preprocess is empty"),
        ({"workers": ()}, "workers is empty"),
        ({"workers": (0, -1)}, r"workers\[1\] is at least 0; got -1"),
        ({"repeats": 0}, "repeats is at least 1"),
        ({"min_seconds": -1.0}, "min_seconds is at least 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        loading.check(loading.Settings(**options))


def test_the_command_line_says_errors_in_one_line(capsys, tmp_path):
    arguments = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "loading.json")]
    assert loading.main(["--data", "cifar10", *arguments]) == 2
    assert "cifar10 is not prepared in" in capsys.readouterr().out
