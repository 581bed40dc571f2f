"""Batches of sentences of like lengths: a few shapes, whatever the lengths are."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from ._data import BEGIN, PAD, Sentences

# Names the order of an epoch, apart from other draws of the same seed.
_ORDER = int.from_bytes(b"pair")


def bounds_of(lengths: Sequence[int] | np.ndarray, buckets: int, longest: int) -> tuple[int, ...]:
    """The lengths that sentences are padded to, so that buckets hold about as many each.

    Args:
      lengths: of what is trained on.
      buckets: at most so many.
      longest: the last of them, at least the largest length.

    Example:
      >>> bounds_of([3, 4, 5, 6, 7, 8, 9, 30], buckets=2, longest=32)
      (6, 32)
    """
    ordered = np.sort(np.asarray(lengths))
    places = [len(ordered) * (i + 1) // buckets - 1 for i in range(buckets - 1)]
    return tuple(sorted({*(int(ordered[max(place, 0)]) for place in places), longest}))


def bucket_of(length: int, bounds: Sequence[int]) -> int:
    """The first bucket that a length fits into."""
    return int(np.searchsorted(bounds, length))


def pad(sentences: Sequence[np.ndarray], rows: int, length: int) -> np.ndarray:
    """Sentences as int32 [rows, length], padded with `PAD`.

    Raises:
      ValueError: if one is longer.
    """
    found = np.full((rows, length), PAD, np.int32)
    for i, one in enumerate(sentences):
        if len(one) > length:
            raise ValueError(f"a sentence of {len(one)} tokens is longer than {length}.")
        found[i, : len(one)] = one
    return found


def batch_of(
    sentences: Sentences, chosen: Sequence[int] | np.ndarray, rows: int, length: int
) -> dict[str, np.ndarray]:
    """{"source", "target_in", "target"}, int32 [rows, length] each; "target_in" is one behind."""
    target = pad([sentences.target[i] for i in chosen], rows, length)
    before = np.concatenate([np.full((rows, 1), BEGIN, np.int32), target[:, :-1]], axis=1)
    source = pad([sentences.source[i] for i in chosen], rows, length)
    return {"source": source, "target_in": before, "target": target}


class Plan:
    """Which pairs make which batch: a pure function of (seed, step).

    An epoch has an order of its own. Each bucket gives full batches; what is left over of one joins
    the next longer one, and what is left over of the last is dropped, others in every epoch.

    Args:
      sentences: what is trained on.
      bounds: the lengths of the buckets, ascending.
      batch_size: pairs a batch.
      seed: names the order.
    """

    def __init__(self, sentences: Sentences, bounds: Sequence[int], *, batch_size: int, seed: int):
        self._sentences, self._bounds = sentences, tuple(bounds)
        self._batch_size, self._seed = batch_size, seed
        pairs = zip(sentences.source, sentences.target, strict=True)
        longest = [max(len(a), len(b)) for a, b in pairs]
        self._buckets = np.array([bucket_of(length, bounds) for length in longest])
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self.steps = len(longest) // batch_size

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, of one of the shapes [batch_size, bound]."""
        epoch, place = divmod(int(step), self.steps)
        bucket, chosen = self._epoch(epoch)[place]
        return batch_of(self._sentences, chosen, len(chosen), self._bounds[bucket])

    def stream(self, first_step: int, index: int = 0, count: int = 1) -> Iterator[dict]:
        """The batches from a step on; of several processes the rows of one."""
        rows = self._batch_size // count
        step = first_step
        while True:
            batch = self.batch_at(step)
            yield {k: x[index * rows : (index + 1) * rows] for k, x in batch.items()}
            step += 1

    def _make_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        # RandomState on purpose: NumPy freezes its stream.
        random = np.random.RandomState([self._seed & 0xFFFFFFFF, epoch, _ORDER])
        order = random.permutation(len(self._buckets))
        batches, rest = [], order[:0]
        for bucket in range(len(self._bounds)):
            here = np.concatenate([rest, order[self._buckets[order] == bucket]])
            full = len(here) // self._batch_size * self._batch_size
            parts = here[:full].reshape(-1, self._batch_size)
            batches += [(bucket, part) for part in parts]
            rest = here[full:]
        return [batches[i] for i in random.permutation(len(batches))]
