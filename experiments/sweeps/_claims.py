"""Who does which run: claims that several processes and machines make in one folder.

A claim is a file that only one process can create. Its owner touches it while it works. A claim
that was not touched for a while is that of a process which died, and another takes it over. All
that is shared is a folder.
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
            if self._is_ours(name):
                self._path(name).unlink(missing_ok=True)

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
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    if self._now() - path.stat().st_mtime < self._stale:
                        return False
                    # Renaming succeeds for one process only, so that two that see the same stale
                    # claim do not both take it away, the second one the new claim of the first.
                    grave = path.with_name(f".{name}.{uuid.uuid4().hex}.stale")
                    path.rename(grave)
                    if self._now() - grave.stat().st_mtime < self._stale:
                        with contextlib.suppress(FileExistsError):  # it was touched meanwhile
                            os.link(grave, path)
                        grave.unlink()
                        return False
                    grave.unlink()
                continue
            with os.fdopen(descriptor, "w") as file:
                file.write(self._owner + "\n")
            return True
        return False

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
