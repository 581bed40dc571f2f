"""The weights before the last prune, kept for the histogram at the end of the run."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.reports._files import unwritten, written_whole

FILE = "weights_before.npz"


def save_before(params: Any, folder: pathlib.Path) -> None:
    """Writes the parameters into the folder of a run, whole or not at all.

    Raises:
      OSError: if there is no room; the message says what to do.
    """
    path = folder / FILE
    try:
        with written_whole(path) as fresh:
            np.savez(fresh, **{str(i): leaf for i, leaf in enumerate(jax.tree.leaves(params))})
    except OSError as error:
        raise unwritten(path, error) from error


def load_before(like: Any, folder: pathlib.Path) -> Any:
    """The parameters in the structure of others.

    Raises:
      ValueError: if they are lost, damaged, or of another network; naming the file.
    """
    path = folder / FILE
    leaves, tree = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file) as held:
            found = [held[str(i)] for i in range(len(held.files))]
    except FileNotFoundError as error:
        raise ValueError(f"{path} is gone") from error
    except Exception as error:  # zipfile has a dozen kinds of them for a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if [(x.shape, x.dtype) for x in found] != [(x.shape, x.dtype) for x in leaves]:
        raise ValueError(f"{path} holds weights of other shapes or types")
    return jax.tree.unflatten(tree, found)
