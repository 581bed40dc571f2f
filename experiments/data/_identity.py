"""What data a run was made of: numbers of examples, and a hash of what they are."""

import hashlib
from pathlib import Path
from typing import TypedDict

import numpy as np

from experiments.prepared import Prepared

from ._dataset import Dataset

# Files that make up at most so many bytes are read whole, which takes about a second.
_WHOLE = 2**28
# Of larger ones, so many bytes at so many places: the hash is to be cheap beside an epoch.
_BLOCK, _PLACES = 2**14, 4


class Identity(TypedDict):
    """What tells a data set from others.

    Attributes:
        name: the name it was loaded by.
        version: such as "3.0.2"; not compared, because the hash is.
        examples: how many each split has.
        sha256: of images and labels, or of the files that they are streamed from.
    """

    name: str
    version: str | None
    examples: dict[str, int]
    sha256: str


def identity(dataset: Dataset) -> Identity:
    """The identity of a set in memory, from every pixel and label."""
    found = hashlib.sha256()
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, split in splits.items():
        for part in (split["image"], split["label"]):
            found.update(f"{name} {part.dtype} {part.shape}\n".encode())
            found.update(np.ascontiguousarray(part).data)
    counts = {name: len(split["label"]) for name, split in splits.items()}
    return Identity(
        name=dataset.name, version=dataset.version, examples=counts, sha256=found.hexdigest()
    )


def identity_of_files(name: str, prepared: Prepared, examples: dict[str, int]) -> Identity:
    """The identity of a set on the disk, without decoding it.

    Of sets larger than 256 MiB sizes and a few blocks of each file are hashed. Files that were
    prepared anew from other images or labels differ there; a single edited byte may not.

    Args:
        name: the name it was opened by.
        prepared: where it lies. That is not part of its identity.
        examples: how many there are, by split.
    """
    files = sorted(path for path in prepared.folder.iterdir() if path.is_file())
    whole = sum(path.stat().st_size for path in files) <= _WHOLE
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        _hash(path, found, whole=whole or path.suffix == ".json")
    return Identity(
        name=name, version=prepared.version, examples=examples, sha256=found.hexdigest()
    )


def _hash(path: Path, found: "hashlib._Hash", *, whole: bool) -> None:
    with path.open("rb") as file:
        if whole:
            found.update(hashlib.file_digest(file, "sha256").digest())
            return
        last = max(path.stat().st_size - _BLOCK, 0)
        for place in range(_PLACES):
            file.seek(last * place // (_PLACES - 1))
            found.update(file.read(_BLOCK))
