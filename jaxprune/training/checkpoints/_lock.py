"""One run at a time in a folder."""

from __future__ import annotations

import os
import pathlib
import socket
import warnings

import filelock


def lock_folder(folder: pathlib.Path) -> filelock.BaseFileLock:
    """Locks a folder until ``release()`` or the end of the process, however it ends.

    Args:
      folder: an existing folder; it gets the files ".lock" and ".holder".

    Returns:
      The lock.

    Raises:
      BlockingIOError: if another run holds the lock, naming that run.
      OSError: if the folder cannot be written.
    """
    holder = folder / ".holder"
    # Any thread may release it: a run can end in another thread than the one that began it.
    lock = filelock.FileLock(folder / ".lock", timeout=0, thread_local=False)
    (folder / ".lock").touch()  # a folder that cannot be written fails here, not below
    try:
        lock.acquire()
    except filelock.Timeout as error:
        name = holder.read_text().strip() if holder.exists() else "another process"
        raise BlockingIOError(
            f"the folder {folder} is in use by another run ({name}). Wait for it, stop it, or "
            "choose another folder."
        ) from error
    except OSError as error:  # some network file systems have no locks
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it yourself that one run at a "
            "time uses it.",
            stacklevel=2,
        )
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock
