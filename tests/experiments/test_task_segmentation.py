"""Semantic segmentation: overlaps, batches, runs, reading, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import checks
from experiments.config import defaults
from experiments.setup import build
from experiments.tasks import segmentation as seg
from experiments.tasks.segmentation._model import _mean_over_cells
from tests.experiments._streams import real
from tests.experiments._tasks import (
    image_feature,
    lines,
    png,
    run,
    summary,
    text_feature,
    with_method,
    write_examples,
)

pytestmark = pytest.mark.usefixtures("jax_defaults")

VOID = 9
SMALL = defaults(
    "segmentation",
    data="squares",
    width=4,
    batch_size=4,
    eval_batch_size=4,
    epochs=2,
    retrain_epochs=1,
    cycles=1,
    sparsity=0.5,
)


def squares(n, seed):
    """Bright squares (class 2) on dark ground (class 0), with a border that is void between."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (n, 12, 16, 3)).astype(np.uint8)
    mask = np.zeros((n, 12, 16), np.uint8)
    for i in range(n):
        y, x = random.integers(1, 5), random.integers(1, 9)
        mask[i, y - 1 : y + 6, x - 1 : x + 6] = VOID
        mask[i, y : y + 5, x : x + 5] = 2
        image[i, y : y + 5, x : x + 5] += 180
    return image, mask


SPLITS = {"train": squares(9, 0), "validation": squares(3, 1), "test": squares(6, 2)}


@pytest.fixture(scope="module")
def scenes():
    return seg.make_scenes("squares", SPLITS, void_class=VOID)


def test_mean_iou_is_that_of_the_whole_set(scenes):
    assert scenes.num_classes == 3
    parts = build(SMALL, dataset=scenes)
    values = parts.evaluate(parts.state)  # 6 images in batches of 4
    model = seg.SegmentationNet(3, width=4)
    variables = {"params": parts.state.params, **parts.state.model_state}
    image = (SPLITS["test"][0] / 255 - np.array(scenes.mean)) / np.array(scenes.std)
    logits = model.apply(variables, jnp.asarray(image, jnp.float32), train=False)
    ours, mask = np.asarray(logits).argmax(-1), SPLITS["test"][1]
    counted = mask != VOID
    shares = []
    for c in range(3):
        union = ((ours == c) | (mask == c)) & counted
        if union.any():
            shares.append(((ours == c) & (mask == c) & counted).sum() / union.sum())
    assert values["mean_iou"] == pytest.approx(np.mean(shares), rel=1e-12)
    assert values["pixel_accuracy"] == pytest.approx((ours == mask)[counted].mean(), rel=1e-12)
    assert values.keys() == {"loss", "pixel_accuracy", "mean_iou"}


def test_mean_iou_by_hand():
    both, theirs, ours = np.array([3, 0, 0]), np.array([4, 2, 0]), np.array([5, 1, 0])
    # 3 / (4 + 5 - 3), 0 / 3, and a class that is nowhere.
    assert seg.mean_iou(both, theirs, ours) == pytest.approx((0.5 + 0) / 2)
    assert np.isnan(seg.mean_iou(*[np.zeros(2)] * 3))


def test_a_batch_mirrors_images_with_their_labels(scenes):
    options = {"batch_size": 4, "seed": 0, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    batch_at = jax.jit(seg.make_batch_at(scenes.train, **options))
    seen, flips = [], []
    for step in (0, 1):
        batch = batch_at(step)
        for image, label in zip(np.round(batch["image"]), np.asarray(batch["label"]), strict=True):
            matches = [
                (i, flipped)
                for i in range(9)
                for flipped in (False, True)
                if np.array_equal(image, SPLITS["train"][0][i][:, :: -1 if flipped else 1])
            ]
            ((i, flipped),) = matches
            wanted = scenes.train["label"][i][:, :: -1 if flipped else 1]
            np.testing.assert_array_equal(label, wanted)
            seen.append(i)
            flips.append(flipped)
    assert len({*seen}) == 8
    assert {*flips} == {False, True}


def test_means_over_cells_are_those_of_their_pixels():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)), jnp.float32)
    found = _mean_over_cells(x, 3)
    rows = ((0, 3), (2, 5), (4, 7))  # floor(i n / 3) to ceil((i + 1) n / 3)
    for i, (top, bottom) in enumerate(rows):
        for j in range(3):
            wanted = x[:, top:bottom, 2 * j : 2 * j + 2].mean(axis=(1, 2))
            np.testing.assert_allclose(found[:, i, j], wanted, rtol=1e-5, atol=1e-6)


def test_networks_have_the_size_of_the_image_whatever_it_is():
    for head in ("pspnet", "deeplab"):
        model = seg.SegmentationNet(5, head=head, width=4, depth=2)
        x = jax.ShapeDtypeStruct((2, 21, 30, 3), jnp.float32)
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, False), x)
        logits = jax.eval_shape(lambda v, x, m=model: m.apply(v, x, False), variables, x)
        assert (logits.shape, logits.dtype) == ((2, 21, 30, 5), jnp.float32)


@pytest.mark.parametrize("method", ["imp", "gmp"])
def test_a_cycle_of_each_kind_of_method(scenes, tmp_path, method):
    config = with_method(SMALL, tmp_path, method)
    result, said = run(config, scenes)
    jp.assert_sparse(result.state.params, result.state.mask, sparsity=0.5)
    rows = summary(config.run_dir)
    last = result.records[-1].evaluation
    assert float(rows[-1]["mean_iou"]) == last["mean_iou"]
    assert {"mean_iou_pruned", "pixel_accuracy", "images_per_second"} <= rows[0].keys()
    assert "Mean IoU of 3 classes" in said
    held = lines(config.run_dir)
    assert all(0 <= row["mean_iou"] <= 1 for row in held if row["kind"] == "train")
    assert (config.run_dir / "mean_iou.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_small_network_learns_squares(scenes, tmp_path):
    config = with_method(SMALL, tmp_path, "imp", epochs=30, retrain_epochs=10, width=8)
    result, _ = run(config, scenes)
    assert result.records[-1].evaluation["mean_iou"] > 0.9


def test_a_prepared_set(tmp_path):
    features = {"image": image_feature(12, 16, 3), "segmentation_mask": image_feature(12, 16, 1)}
    splits = {
        {"validation": "val"}.get(split, split): [
            {"image": png(i), "segmentation_mask": png(m)} for i, m in zip(*pair, strict=True)
        ]
        for split, pair in SPLITS.items()
    }
    write_examples(tmp_path, "squares", features, splits)
    config = dataclasses.replace(SMALL, data_dir=tmp_path, run_dir=tmp_path / "run")
    checks.check_here(config)
    found = seg.read(dataclasses.replace(config, void_class=VOID), None)
    for split in ("train", "validation", "test"):
        image, mask = SPLITS[split]
        np.testing.assert_array_equal(getattr(found, split)["image"], image)
        np.testing.assert_array_equal(
            getattr(found, split)["label"], np.where(mask == VOID, -1, mask.astype(int))
        )
    assert found.version == "1.0.0"
    write_examples(tmp_path, "texts", {"image": image_feature(2, 2, 3), "a": text_feature()}, {})
    with pytest.raises(ValueError, match=r"'a': 'Text'.*there is no segmentation_mask"):
        checks.check_here(dataclasses.replace(config, data="texts"))


def test_labels_that_training_has_not():
    image, mask = SPLITS["test"]
    with pytest.raises(ValueError, match=r"test split has the label 7.*--void-class 7"):
        seg.make_scenes(
            "x", {**SPLITS, "test": (image, np.where(mask == 2, 7, mask))}, void_class=VOID
        )
    with pytest.raises(ValueError, match="no pixel in training that counts"):
        seg.make_scenes(
            "x", {**SPLITS, "train": (image, np.full_like(mask, VOID))}, void_class=VOID
        )


@pytest.mark.slow
def test_camvid(tmp_path):
    folder = real("camvid")
    config = dataclasses.replace(SMALL, data="camvid", data_dir=folder.parent, run_dir=tmp_path)
    checks.check_here(config)
    found = seg.read(config, None)
    assert found.num_classes == 11
    assert [len(s["image"]) for s in (found.train, found.validation, found.test)] == [367, 101, 233]
