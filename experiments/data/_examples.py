"""The examples of one prepared split, read by index; what cannot be read is named."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.errors import UnreadableError

from ._features import check_pixels

_OTHER_FILES = 512  # that a process of JAX and its workers' pipes may need


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one split on disk, in the order of its files.

    Attributes:
        name: name of the set.
        split: the set's own name of the split.
        source: what `tfds.data_source` opened: examples by index, their images still encoded; it
            can be pickled.
        files: (path, examples in it), in their order.
        num_classes: labels lie in [0, num_classes).
        repair: the command that prepares the set again.
    """

    name: str
    split: str
    source: Any
    files: tuple[tuple[str, int], ...]
    num_classes: int
    repair: str

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.source)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Read and decode some examples.

        All are asked for at once, because the reader then opens and reads the files in parallel.

        Args:
            indices: which ones, each in [0, n).

        Returns:
            [(image [height, width, channels], label), ...] in the order asked for.

        Raises:
            ValueError: an example cannot be read or decoded, or its label is outside the classes;
                the message names the example, its file and the repair.
        """
        _prepare_process(len(self.files))
        indices = [int(index) for index in indices]
        try:
            found = [self._decoded(one) for one in self.source.__getitems__(indices)]
        except MemoryError:
            raise  # not the file's fault
        except Exception as error:
            raise self._unreadable(indices, error) from error
        for index, example in zip(indices, found, strict=True):
            if not 0 <= example["label"] < self.num_classes:
                raise UnreadableError(
                    f"{self.name}: example {index} of split {self.split!r} has the label"
                    f" {example['label']}, outside [0, {self.num_classes}): the split is published"
                    " without labels, or its files are damaged; take another split, or prepare it"
                    f" again: {self.repair}"
                )
        return [(example["image"], int(example["label"])) for example in found]

    def _decoded(self, example: dict[str, Any]) -> dict[str, Any]:
        encoded = example["image"]
        check_pixels(encoded)
        image = self.source.dataset_info.features["image"].decode_example_np(encoded)
        return {"image": image, "label": example["label"]}

    def has_labels(self) -> bool:
        """Whether the split is labelled; one published without labels (ImageNet's test) has -1."""
        _prepare_process(len(self.files))
        try:
            return int(self.source[0]["label"]) >= 0
        except Exception as error:
            raise self._unreadable([0], error) from error

    def file_of(self, index: int) -> str:
        """The file that example `index` lies in."""
        left = index
        for path, count in self.files:
            if left < count:
                return path
            left -= count
        raise IndexError(f"{self.name} has no example {index} beyond its split {self.split!r}")

    def _unreadable(self, indices: Sequence[int], error: Exception) -> UnreadableError:
        """Which of `indices` it was: the error of a joint read does not say."""
        place = f"one of the examples {indices[:3]}..."
        for index in indices:
            try:
                self._decoded(self.source[index])
            except Exception as first:
                error, place = first, f"example {index}, in {self.file_of(index)},"
                break
        # The error is printed, not only chained: a worker process hands over its message alone.
        return UnreadableError(
            f"{self.name}, split {self.split!r}: {place} cannot be read:"
            f" {type(error).__name__}: {error}. If the file is damaged or incomplete, prepare it"
            f" again: {self.repair}"
        )


@functools.cache  # once in every process, workers included, for a number of files
def _prepare_process(files: int) -> None:
    _silence_opencv_advice()
    _allow_open_files(files)


@functools.cache  # a filter is never removed
def _silence_opencv_advice() -> None:
    """It warns that OpenCV would decode faster; Pillow is what we install, and fast enough."""
    logging.getLogger("absl").addFilter(lambda record: "OpenCV" not in record.getMessage())


def _allow_open_files(files: int) -> None:
    """Raise the number of files that this process may have open, where the system lets it.

    The reader keeps every file open that it has touched. ImageNet has 1,024 files, which alone are
    the limit that most systems set at first; what they allow on request is far more.
    """
    try:
        import resource
    except ImportError:  # there is no such limit on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Twice: a training split is opened along with another, for evaluation.
    wanted = 2 * files + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
