"""The texts of a prepared set, read without TensorFlow."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.data import check_features
from experiments.errors import UnreadableError
from experiments.prepared import Prepared, command, import_tfds

# What sets call the split that is looked at between training and test.
_VALIDATION = ("validation", "val", "valid", "dev")


class Splits(NamedTuple):
    """The names that a set has for its splits."""

    train: str
    validation: str | None
    test: str


def splits_of(name: str, found: Sequence[str]) -> Splits:
    """Which split of a set is which.

    Args:
      name: of the set.
      found: its splits.

    Returns:
      Their names. A set that has only one beside "train" is tested on it.

    Raises:
      ValueError: if there is no "train", or nothing to test on.

    Example:
      >>> splits_of("a set", ["train", "val", "test"])
      Splits(train='train', validation='val', test='test')
      >>> splits_of("a set", ["train", "validation"])
      Splits(train='train', validation=None, test='validation')
    """
    validation = next((split for split in _VALIDATION if split in found), None)
    if "train" not in found or not (validation or "test" in found):
        raise ValueError(
            f"{name} has the splits {sorted(found)}; it needs 'train' and one of 'test', "
            f"{', '.join(map(repr, _VALIDATION))}."
        )
    if "test" in found:
        return Splits("train", validation, "test")
    assert validation is not None
    return Splits("train", None, validation)


def open_sources(name: str, prepared: Prepared) -> tuple[Splits, dict[str, Any]]:
    """Opens a prepared set: its splits, and the examples of each by the set's own name.

    Images stay encoded.

    Raises:
      ValueError: if files are damaged, or splits are missing or empty.
    """
    tfds = import_tfds()
    repair = f"{command(name, prepared.data_dir)} --overwrite"
    try:
        check_features(prepared.folder)
        info = tfds.builder_from_directory(prepared.folder).info
        sizes = {split: info.splits[split].num_examples for split in sorted(info.splits)}
        images = [k for k, v in info.features.items() if type(v).__name__ in ("Image", "Video")]
    except Exception as error:
        raise ValueError(
            f"{name}: dataset_info.json or features.json in {prepared.folder} cannot be read:"
            f" {type(error).__name__}: {error}. Prepare the set again: {repair}"
        ) from error
    splits = splits_of(name, list(sizes))
    sources = {}
    for split in filter(None, splits):
        if not sizes[split]:
            raise ValueError(f"{name} has an empty split {split!r}; prepare it again: {repair}")
        sources[split] = tfds.data_source(
            f"{name}:{prepared.version}",
            split=split,
            data_dir=prepared.data_dir,
            download=False,
            decoders={key: tfds.decode.SkipDecoding() for key in images},
        )
    return splits, sources


def read_texts(
    name: str, prepared: Prepared, fields: Sequence[str]
) -> tuple[Splits, dict[str, list[tuple[str, ...]]]]:
    """Reads the text fields of all splits.

    Returns:
      The splits' names, and by these names the examples, the text of each field in them.

    Raises:
      ValueError: as `open_sources`, or an example cannot be read or is no UTF-8.
    """
    splits, sources = open_sources(name, prepared)
    found = {}
    for split, source in sources.items():
        try:
            found[split] = [
                tuple(bytes(one[field]).decode() for field in fields)
                for one in source.__getitems__(list(range(len(source))))
            ]
        except MemoryError:
            raise  # not the file's fault
        except Exception as error:
            raise UnreadableError(
                f"{name}, split {split!r}, cannot be read: {type(error).__name__}: {error}. Prepare"
                f" it again: {command(name, prepared.data_dir)} --overwrite"
            ) from error
    return splits, found
