"""Training batches streamed from disk, for sets that do not fit in memory."""

import dataclasses
import operator
import os

import numpy as np

from ._batches import steps_per_epoch
from ._held_out import SplitName, open_split
from ._preprocess import Preprocess
from ._reader import Reader
from ._shard import Shard
from ._workers import Batches, check_workers, import_grain, iterate


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Batches of a split in random order, from any step on; made by `make_stream`.

    Attributes:
        num_examples: examples of the split.
        num_classes: number of classes.
        image_shape: (height, width, channels) of the preprocessed images.
        steps_per_epoch: full batches in an epoch.
        workers: worker processes of each iterator.
    """

    num_examples: int
    num_classes: int
    image_shape: tuple[int, ...]
    steps_per_epoch: int
    workers: int
    _indices: np.ndarray = dataclasses.field(repr=False)
    _order_seed: int = dataclasses.field(repr=False)
    _make: "_MakeBatch" = dataclasses.field(repr=False)

    def __call__(self, first_step: int = 0) -> Batches:
        """Iterate, without end, from the batch of step `first_step` on.

        Nothing is read to get there: a step's examples are found by arithmetic.

        Args:
            first_step: at least 0; where a resumed run goes on.

        Returns:
            An iterator of {"image": uint8 [rows, height, width, channels], "label": int32 [rows]}
            with rows = batch_size / process_count. `close()` it when done: that ends its workers.

        Raises:
            ValueError: a negative step. While iterating: an example that cannot be read, or that
                the preprocess does not turn into an image like the others.
        """
        first_step = operator.index(first_step)
        if first_step < 0:
            raise ValueError(f"first_step={first_step} must be 0 or a later step")
        shard = self._make.shard
        # The order is made of indices alone, so that a batch's examples are read together.
        batches = (
            import_grain()
            .MapDataset.source(self._indices)
            .shuffle(seed=self._order_seed)  # another permutation in each epoch
            .slice(slice(self.steps_per_epoch * shard.batch_size))
            .batch(shard.rows)
            .slice(slice(shard.index, None, shard.count))
            .repeat()
            .map_with_index(self._make)
        )
        return iterate(batches.slice(slice(first_step, None)), self.workers)


def make_stream(
    name: str,
    *,
    batch_size: int,
    seed: int,
    data_dir: str | os.PathLike[str] | None = None,
    split: SplitName = "train",
    preprocess: Preprocess | None = None,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    validation: float = 0.1,
    held_out_seed: int = 42,
) -> Stream:
    """Open a split of a prepared set for training: `stream(first_step)` iterates over batches.

    The batch of a step is a function of (seed, step) alone. Epoch e = step // steps_per_epoch runs
    through its own permutation of the n examples in full batches; the n mod batch_size left over
    are dropped, others in every epoch. The random numbers of an example depend on seed, step and
    row. So a batch is the same wherever the iteration started, for any number of workers, and the
    rows of P processes in order are the batch of one process. (Under other releases of grain or
    NumPy the order or the random numbers may be others: neither promises to keep them.)

    Worker processes import the main module anew: a script needs `if __name__ == "__main__":`.

    Args:
        name: an image-classification set of tensorflow-datasets, prepared as array_record.
        batch_size: examples per step, over all processes.
        seed: names order and augmentation; at least 0.
        data_dir: where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        split: "train", or "validation" or "test" as `load` makes them.
        preprocess: done to each image after decoding; `None` for nothing.
        process_index: which process this is, in [0, process_count).
        process_count: how many processes share a batch; divides batch_size.
        workers: processes that read, decode and preprocess; 0 for a thread of this one.
        validation: fraction of the training split that is held out, in [0, 1). The images are
            those that `load` holds out with the same fraction and seed.
        held_out_seed: chooses the validation examples; `load` calls it `seed`.

    Returns:
        The stream.

    Raises:
        ValueError: an argument out of range, an unknown name or split, a split without a full
            batch, or files that cannot be read.
        FileNotFoundError: the set is not prepared; the message has the command that prepares it.

    Example:
        >>> stream = make_stream("imagenet2012", batch_size=256, seed=0, workers=8,
        ...                      preprocess=RandomResizedCrop())          # doctest: +SKIP
        >>> with contextlib.closing(stream(first_step=1000)) as batches:  # doctest: +SKIP
        ...     batch = next(batches)
    """
    shard = Shard(batch_size, process_index, process_count)
    check_workers(workers)
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or larger")
    examples, indices = open_split(
        name, split, data_dir=data_dir, validation=validation, held_out_seed=held_out_seed
    )
    steps = steps_per_epoch(len(indices), batch_size)
    # grain permutes epoch e by seed + e, and so epoch 1 of seed 0 would be epoch 0 of seed 1.
    # Hashed seeds are far apart. NumPy freezes the hash.
    order_seed, *key = map(int, np.random.SeedSequence(seed).generate_state(3, np.uint64))
    reader, image_shape = Reader(examples, preprocess, (key[0], key[1])).sized_by(indices[0])
    return Stream(
        num_examples=len(indices),
        num_classes=examples.num_classes,
        image_shape=image_shape,
        steps_per_epoch=steps,
        workers=workers,
        _indices=indices,
        _order_seed=order_seed % 2**32,
        _make=_MakeBatch(reader, shard),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _MakeBatch:
    """From (step, indices of this process's rows) to the batch; a class, because it is pickled."""

    reader: Reader
    shard: Shard

    def __call__(self, step: int, indices: np.ndarray) -> dict[str, np.ndarray]:
        image, label = self.reader.read(indices, self.shard.first_row(step))
        return {"image": image, "label": label}
