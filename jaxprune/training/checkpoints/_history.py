"""Arrays that grow from checkpoint to checkpoint, in one file that only grows at its end.

The metrics of a run are of all its steps. Written anew into every checkpoint they would cost bytes
that grow with the square of the run's length. Here each checkpoint adds what is new and notes where
the end of each array lies. A piece points to the piece before it::

    piece = before, crc32, bytes, the bytes themselves

``before`` is where the piece before begins, -1 at the first; ``crc32`` is of all bytes of the array
up to here. So a checkpoint needs one number and one checksum an array, however long that is.
"""

from __future__ import annotations

import os
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_HEAD = struct.Struct("<qIq")


class _Known(NamedTuple):
    """An array that is in the file: its values, where its last piece begins, its checksum."""

    values: np.ndarray
    at: int
    crc: int


class History:
    """The file of one run.

    Args:
      path: the file; it need not exist.
      writes: whether this process writes it.
    """

    def __init__(self, path: pathlib.Path, *, writes: bool):
        self._path, self._writes = path, writes
        self._known: dict[str, _Known] = {}

    def clear(self) -> None:
        """Removes the file: a new run begins."""
        self._known = {}
        if self._writes:
            self._path.unlink(missing_ok=True)

    def save(self, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """Adds what is new of some arrays.

        Args:
          arrays: all arrays of a checkpoint, by name. An array may have grown since the last time,
            and may have another name then.

        Returns:
          What `read` needs of each, as JSON can hold it.

        Raises:
          OSError: if there is no room.
        """
        known: dict[str, _Known] = {}
        pieces: list[bytes] = []
        end = self._path.stat().st_size if self._writes and self._path.exists() else 0
        for name, values in arrays.items():
            before = self._prefix(name, values)
            have = 0 if before is None else before.values.nbytes
            at, crc = (-1, 0) if before is None else (before.at, before.crc)
            if before is None or have < values.nbytes:
                data = np.ascontiguousarray(values).tobytes()[have:]
                crc = zlib.crc32(data, crc)
                piece = _HEAD.pack(at, crc, len(data)) + data
                at, end = end, end + len(piece)
                pieces.append(piece)
            known[name] = _Known(values, at, crc)
        if self._writes and pieces:
            with self._path.open("ab") as file:
                file.write(b"".join(pieces))
                file.flush()
                os.fsync(file.fileno())
        self._known = known
        return {
            name: {
                "at": held.at,
                "crc32": held.crc,
                "shape": list(held.values.shape),
                "dtype": str(held.values.dtype),
            }
            for name, held in known.items()
        }

    def read(self, places: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """The arrays of a checkpoint.

        Raises:
          ValueError: if the file is gone or damaged, or the places are not those of `save`.
        """
        known: dict[str, _Known] = {}
        if not all(isinstance(place, Mapping) for place in places.values()):
            raise ValueError("it is of an earlier jaxprune, whose checkpoints held all metrics")
        if places:
            if not self._path.exists():
                raise ValueError(f"No such file beside it: {self._path.name!r}")
            with self._path.open("rb") as file:
                for name, place in places.items():
                    data = _joined(file, place["at"], place["crc32"], name)
                    values = np.frombuffer(data, place["dtype"])
                    if values.size != np.prod(place["shape"], dtype=int):
                        raise ValueError(f"its array {name!r} has changed")
                    values = values.reshape(place["shape"])
                    known[name] = _Known(values, place["at"], place["crc32"])
        self._known = known
        return {name: held.values.copy() for name, held in known.items()}

    def _prefix(self, name: str, values: np.ndarray) -> _Known | None:
        """The longest array in the file that the values begin with, its own name first.

        At the end of a phase its metrics become those of a record, and get another name.
        """
        own = self._known.get(name)
        if own is not None and _begins_with(values, own.values):
            return own
        fits = [held for held in self._known.values() if _begins_with(values, held.values)]
        return max(fits, key=lambda held: held.values.nbytes, default=None)


def _begins_with(values: np.ndarray, start: np.ndarray) -> bool:
    same = values.dtype == start.dtype and values.shape[1:] == start.shape[1:]
    same = same and values.ndim == start.ndim and start.size <= values.size
    # Bit by bit: a NaN is equal to itself here.
    ours = np.ascontiguousarray(values).reshape(-1).view(np.uint8)[: start.nbytes] if same else None
    theirs = np.ascontiguousarray(start).reshape(-1).view(np.uint8)
    return ours is not None and np.array_equal(ours, theirs)


def _joined(file: Any, at: int, crc: int, name: str) -> bytes:
    """All bytes of an array, from its last piece back to its first.

    Raises:
      ValueError: if they are not those that were written.
    """
    parts: list[tuple[int, bytes]] = []
    place, end = at, file.seek(0, os.SEEK_END)
    while place >= 0:
        file.seek(place)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise ValueError(f"its array {name!r} is cut off")
        before, held, size = _HEAD.unpack(head)
        if not -1 <= before < place or not 0 <= size <= end:
            raise ValueError(f"its array {name!r} has changed")
        data = file.read(size)
        if len(data) < size:
            raise ValueError(f"its array {name!r} is cut off")
        parts.append((held, data))
        place = before
    found = 0
    for held, data in reversed(parts):
        found = zlib.crc32(data, found)
        if found != held:
            raise ValueError(f"its array {name!r} has changed")
    if found != crc:
        raise ValueError(f"its array {name!r} has changed")
    return b"".join(data for _, data in reversed(parts))
