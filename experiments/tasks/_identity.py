"""What tells data in memory from others, whatever they are."""

import hashlib
from collections.abc import Mapping

import numpy as np

from experiments.data import Identity


def identity_of_arrays(
    name: str,
    version: str | None,
    splits: Mapping[str, Mapping[str, np.ndarray]],
    examples: Mapping[str, int],
) -> Identity:
    """The identity of a set, from every number in it.

    Args:
      name: the name it was loaded by.
      version: of the set; `None` if it has none.
      splits: arrays by split and name.
      examples: how many there are, by split.
    """
    found = hashlib.sha256()
    for split, arrays in splits.items():
        for part, values in arrays.items():
            found.update(f"{split} {part} {values.dtype} {values.shape}\n".encode())
            found.update(np.ascontiguousarray(values).data)
    return Identity(name=name, version=version, examples=dict(examples), sha256=found.hexdigest())
