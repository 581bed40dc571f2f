"""One run at a time in a folder."""

from __future__ import annotations

import os
import pathlib
import socket
import warnings
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderLock:
    """A lock on a folder, held until `release` or the end of the process, however it ends.

    The system keeps it with the open file, so a killed run leaves none behind.
    """

    def __init__(self, folder: pathlib.Path):
        """Takes the lock.

        Args:
          folder: an existing folder; it gets a file ".lock".

        Raises:
          BlockingIOError: if another run holds it, naming that.
          OSError: if the folder cannot be written.
        """
        self._file: Any = (folder / ".lock").open("a+")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise BlockingIOError(
                f"the folder {folder} is in use by another run ({holder}). Wait for it, stop it, "
                "or choose another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): see to it yourself that one run at "
                "a time uses it.",
                stacklevel=2,
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Releases the lock."""
        self._file.close()
