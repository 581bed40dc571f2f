"""What yields images: a stream, a training loop, and photographs made here."""

import contextlib
import dataclasses
import io
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments import data
from experiments.config import Config
from experiments.setup import build

Batches = Iterator[dict[str, Any]]

PREPROCESS: dict[str, data.Preprocess | None] = {"none": None, "crop_flip": data.PadCropFlip()}
_PHOTOGRAPH = (375, 500)  # height and width, in pixels: ImageNet's most frequent size
_PHOTOGRAPHS = 20
_GRAIN = 12.0  # makes 112 kB, about the mean of ImageNet's training images
_STEPS = 20  # of a call of the training loop; a chunk of it


@contextlib.contextmanager
def streamed(settings: Any, preprocess: str, workers: int) -> Iterator[tuple[str, Batches]]:
    """A streamed set: what it is, and its batches."""
    stream = data.make_stream(
        settings.data,
        data_dir=settings.data_dir,
        batch_size=settings.batch_size,
        seed=settings.seed,
        preprocess=PREPROCESS[preprocess],
        workers=workers,
    )
    with contextlib.closing(stream()) as batches:
        yield f"{settings.data}, {'x'.join(map(str, stream.image_shape))}", batches


@contextlib.contextmanager
def trained(settings: Any, workers: int | None) -> Iterator[tuple[str, Batches]]:
    """A network trained on the set, streamed or, without ``workers``, in memory."""
    config = Config(
        data=settings.data,
        data_dir=settings.data_dir,
        model=settings.model,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    if workers is not None:
        preprocess: Any = settings.preprocess[0]
        config = dataclasses.replace(config, stream=True, workers=workers, preprocess=preprocess)
    parts = build(config)

    def calls() -> Batches:
        state, rates = parts.state, np.full(_STEPS, 1e-3, np.float32)
        while True:
            state, _ = parts.train(state, rates)
            yield {"label": np.empty(_STEPS * settings.batch_size)}

    where = "in memory" if workers is None else "streamed"
    try:
        yield f"{settings.model} trained on {settings.data}, {where}", calls()
    finally:
        parts.train.close()


def photographs(seed: int) -> Iterator[tuple[str, str, Batches]]:
    """ImageNet's preprocessing of one photograph after another: what, how, and the batches."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    encoded = [photograph(rng) for _ in range(_PHOTOGRAPHS)]
    height, width = _PHOTOGRAPH
    what = f"JPEG, {height}x{width}x3, {statistics.mean(map(len, encoded)) / 1000:.0f} kB"

    def one_by_one(preprocess: data.Preprocess) -> Batches:
        while True:
            for one in encoded:
                image = np.asarray(Image.open(io.BytesIO(one)))
                yield {"image": preprocess(image, rng)[None], "label": [0]}

    yield what, "decode", one_by_one(lambda image, rng: image)
    yield what, "decode, random crop, flip", one_by_one(data.RandomResizedCrop())
    yield what, "decode, resize, centre crop", one_by_one(data.ResizeCentreCrop())


def photograph(rng: np.random.Generator) -> bytes:
    """Coloured clouds with grain: about the bytes, and so the decoding time, of a photograph."""
    from PIL import Image

    height, width = _PHOTOGRAPH
    clouds = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    clouds = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grainy = np.clip(clouds + rng.normal(0, _GRAIN, (height, width, 1)), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(grainy).save(encoded, format="JPEG", quality=95)
    return encoded.getvalue()
