"""Decoded images of prepared sets, kept on the disk: decoding takes far longer than reading."""

import contextlib
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from experiments.prepared import Prepared

from ._dataset import Split, make_split

# Counted up when the same files are to be decoded to other arrays, or kept in another form.
_FORMAT = "1"
# JPEG has no exact result: other decoders, or other versions, may give other pixels.
_DECODERS = ("tensorflow-datasets", "pillow", "opencv-python", "opencv-python-headless")


class Decoded(NamedTuple):
    """A set in memory, before anything is held out.

    Attributes:
        train: the training split.
        test: the test split.
        num_classes: number of classes.
    """

    train: Split
    test: Split
    num_classes: int


def kept(
    decode: Callable[[], Decoded],
    name: str,
    prepared: Prepared,
    folder: Path,
    say: Callable[[str], object],
) -> Decoded:
    """Return what `decode` returns, from the cache if it was decoded before.

    Nothing that is wrong with the cache is an error: a damaged file is made anew, and a folder that
    cannot be written is noted.

    Args:
        decode: reads and decodes the set.
        name: name of the set.
        prepared: where it lies; the contents of its files are part of the key.
        folder: where decoded sets lie; made if missing.
        say: told what is wrong with the cache.
    """
    file = folder / f"{re.sub('[^A-Za-z0-9]+', '_', name)}-{prepared.version}-{key(prepared)}"
    if file.exists():
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            say(f"{file} is damaged ({error}); {name} is decoded again.")
    decoded = decode()
    try:
        _write(file, decoded)
    except (OSError, SafetensorError) as error:
        say(f"{name} is not kept in {folder} ({error}); it is decoded again the next time.")
    return decoded


def key(prepared: Prepared) -> str:
    """Name what decoding depends on: the files' contents, the decoders, and what is made of them.

    Contents and not times: a copy of a set is the same set, and a file that was replaced within a
    second is another. Hashing is a hundred times as fast as decoding.
    """
    found = hashlib.blake2b(digest_size=16)
    for package in _DECODERS:
        found.update(f"{package} {_version(package)}\n".encode())
    found.update(f"format {_FORMAT}\n".encode())
    for file in sorted(path for path in prepared.folder.iterdir() if path.is_file()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b")
        found.update(f"{file.name} {digest.hexdigest()}\n".encode())
    return found.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(file: Path, decoded: Decoded) -> None:
    """Write the whole file or none."""
    arrays = {
        f"{split}/{part}": values[part]
        for split, values in (("train", decoded.train), ("test", decoded.test))
        for part in ("image", "label")
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}-{os.getpid()}")
    about = {
        "num_classes": str(decoded.num_classes),
        "digest": _digest(arrays, decoded.num_classes),
    }
    try:
        save_file(arrays, fresh, metadata=about)
        fresh.replace(file)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _read(file: Path) -> Decoded:
    """Read a file that `_write` has written.

    Raises:
        ValueError: the contents are not those that were written.
        OSError, KeyError, SafetensorError: the file cannot be read.
    """
    with safe_open(file, framework="numpy") as held:
        about = held.metadata() or {}
        arrays = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    num_classes = int(about["num_classes"])
    if about["digest"] != _digest(arrays, num_classes):
        raise ValueError("its checksum is wrong")
    train, test = (
        make_split(arrays[f"{split}/image"], arrays[f"{split}/label"])
        for split in ("train", "test")
    )
    return Decoded(train, test, num_classes)


def _digest(arrays: dict[str, np.ndarray], num_classes: int) -> str:
    found = hashlib.blake2b(f"{num_classes}\n".encode(), digest_size=32)
    for name, values in sorted(arrays.items()):
        found.update(f"{name} {values.dtype} {values.shape}\n".encode())
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()
