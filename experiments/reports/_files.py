"""Files of a run folder that are written whole or not at all."""

import contextlib
import pathlib
from collections.abc import Iterator

from jaxprune.training import Checkpoints

CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file beside ``path`` to write to, which takes its place if the block ends well.

    What lies at ``path`` stays as it was if not; nothing is left beside it.
    """
    fresh = path.with_name(f".{path.name}")
    try:
        yield fresh
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def unwritten(path: pathlib.Path, error: OSError) -> OSError:
    """The error of a file in a run folder that could not be written, with what to do."""
    saved = Checkpoints(path.parent / CHECKPOINTS).steps()
    repair = "go on with --resume" if saved else "start the run again"
    return OSError(f"{path} cannot be written ({error.strerror or error}). Make room and {repair}.")
