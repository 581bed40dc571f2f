"""The weights at the end of dense training, kept for the histogram at the end of the run."""

import pathlib
import zipfile
from typing import Any

import jax
import numpy as np

_FILE = "dense_weights.npz"


def save_dense(params: Any, folder: pathlib.Path) -> None:
    """Writes the parameters into the folder of a run, whole or not at all.

    Raises:
      OSError: if there is no room; the message says what to do.
    """
    path, fresh = folder / _FILE, folder / f".{_FILE}"
    try:
        np.savez(fresh, **{str(i): leaf for i, leaf in enumerate(jax.tree.leaves(params))})
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}). Make room and go on with "
            "--resume."
        ) from error


def load_dense(like: Any, folder: pathlib.Path) -> Any:
    """The parameters in the structure of others; `None` if they are lost or damaged."""
    try:
        with (folder / _FILE).open("rb") as file, np.load(file) as held:
            leaves = [held[str(i)] for i in range(len(held.files))]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
