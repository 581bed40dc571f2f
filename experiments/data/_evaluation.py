"""A whole split streamed from disk once, in order, for evaluation."""

import dataclasses
import os

import numpy as np

from ._held_out import SplitName, open_split
from ._preprocess import Preprocess
from ._reader import Reader
from ._shard import Shard
from ._workers import Batches, check_workers, import_grain, iterate


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationStream:
    """All examples of a split, once and in order; made by `make_evaluation_stream`.

    Attributes:
        num_examples: examples of the split.
        num_classes: number of classes.
        image_shape: (height, width, channels) of the preprocessed images.
        steps: batches, the padded last one included.
        workers: worker processes of each iterator.
    """

    num_examples: int
    num_classes: int
    image_shape: tuple[int, ...]
    steps: int
    workers: int
    _make: "_MakeBatch" = dataclasses.field(repr=False)

    def __call__(self) -> Batches:
        """Iterate over the split once.

        Returns:
            An iterator of {"image": uint8 [rows, height, width, channels], "label": int32 [rows],
            "weight": float32 [rows]} with rows = batch_size / process_count; weight is 1, and 0
            for padding, whose image and label are zeros. `close()` it if it is not exhausted.

        Raises:
            ValueError: while iterating, an example that cannot be read or differs in size.
        """
        steps = import_grain().MapDataset.range(self.steps)
        return iterate(steps.map(self._make), self.workers)


def make_evaluation_stream(
    name: str,
    *,
    batch_size: int,
    data_dir: str | os.PathLike[str] | None = None,
    split: SplitName = "test",
    preprocess: Preprocess | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    validation: float = 0.1,
    held_out_seed: int = 42,
) -> EvaluationStream:
    """Open a split of a prepared set for evaluation: `stream()` iterates over it once.

    Every process gets the same number of batches, so that collective operations match: where the
    examples end, rows (or all rows of a process) are padding with weight 0.

    Args:
        name: an image-classification set of tensorflow-datasets, prepared as array_record.
        batch_size: examples per step, over all processes; may exceed the split.
        data_dir: where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        split: "test", "validation" or "train" as `load` makes them.
        preprocess: done to each image after decoding; `None` for nothing. If it is random, each
            example gets the same random numbers in every pass.
        process_index: which process this is, in [0, process_count).
        process_count: how many processes share a batch; divides batch_size.
        workers: processes that read, decode and preprocess; 0 for a thread of this one.
        validation: fraction of the training split that is held out, as in `make_stream`.
        held_out_seed: chooses the validation examples, as in `make_stream`.

    Returns:
        The stream.

    Raises:
        ValueError: an argument out of range, an unknown name or split, an empty split, or files
            that cannot be read.
        FileNotFoundError: the set is not prepared; the message has the command that prepares it.
    """
    shard = Shard(batch_size, process_index, process_count)
    check_workers(workers)
    examples, indices = open_split(
        name, split, data_dir=data_dir, validation=validation, held_out_seed=held_out_seed
    )
    reader, image_shape = Reader(examples, preprocess, (0, 0)).sized_by(indices[0])
    return EvaluationStream(
        num_examples=len(indices),
        num_classes=examples.num_classes,
        image_shape=image_shape,
        steps=-(-len(indices) // batch_size),
        workers=workers,
        _make=_MakeBatch(reader, shard, indices),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MakeBatch:
    """From a step to this process's rows of it; a class, because it is pickled."""

    reader: Reader
    shard: Shard
    indices: np.ndarray

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rows, first = self.shard.rows, self.shard.first_row(step)
        indices = self.indices[first : first + rows]
        image = np.zeros((rows, *(self.reader.image_shape or ())), np.uint8)
        label = np.zeros(rows, np.int32)
        if len(indices):
            image[: len(indices)], label[: len(indices)] = self.reader.read(indices, first)
        weight = (np.arange(rows) < len(indices)).astype(np.float32)
        return {"image": image, "label": label, "weight": weight}
