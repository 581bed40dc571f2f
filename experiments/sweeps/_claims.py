"""Who does which run: claims that several processes and machines make in one folder.

A claim is a file that names its owner, who touches it while it works. A claim that was not touched
for a while is that of a process which died, and another takes it over. Claims are made and given
back under a lock of a moment, so that a name has one owner. All that is shared is a folder.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import filelock

BEAT = 5.0
"""Seconds between touches."""

STALE = 60.0
"""Seconds without a touch after which an owner counts as dead."""


class Claims:
    """The claims in a folder.

    Args:
      folder: where they lie; made if it is not there.
      stale: seconds without a touch after which a claim can be taken over.
    """

    def __init__(self, folder: pathlib.Path, *, stale: float = STALE):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._stale = folder, stale
        self._owner = f"{os.getpid()} on {socket.gethostname()} {uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Claims a name for the length of the block; False if somebody else has it.

        Raises:
          OSError: if the folder cannot be written.
        """
        if not self._take(name):
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=self._touch, args=(name, done), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            self._release(name)

    def owners(self) -> dict[str, str]:
        """The names that are claimed by processes which are alive, and by whom."""
        now, found = self._now(), {}
        for path in self._folder.glob("*.claim"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime < self._stale:
                    found[path.name.removesuffix(".claim")] = path.read_text().strip()
        return found

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.claim"

    def _take(self, name: str) -> bool:
        path = self._path(name)
        # To look at a claim and to put one in its place is one step: else two that see the same
        # stale claim both replace it, the second one the new claim of the first.
        with self._alone(name):
            with contextlib.suppress(FileNotFoundError):
                if self._now() - path.stat().st_mtime < self._stale:
                    return False
            path.write_text(self._owner + "\n")
            return True

    def _release(self, name: str) -> None:
        with self._alone(name):
            if self._is_ours(name):
                self._path(name).unlink(missing_ok=True)

    def _alone(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Only one at a time: the system ends the lock of a process that dies."""
        return filelock.FileLock(self._folder / f".{name}.lock").acquire(poll_interval=0.01)

    def _is_ours(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return self._path(name).read_text().strip() == self._owner
        return False

    def _touch(self, name: str, done: threading.Event) -> None:
        while not done.wait(min(BEAT, self._stale / 4)):
            with contextlib.suppress(OSError):
                if self._is_ours(name):
                    os.utime(self._path(name))

    def _now(self) -> float:
        """The time as the folder's file system has it: clocks of machines differ."""
        probe = self._folder / f".now-{os.getpid()}-{threading.get_ident()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
