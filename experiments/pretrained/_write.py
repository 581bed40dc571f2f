"""A network back into the files that it came in."""

import os
import pathlib
import shutil
from typing import Any

from experiments.pretrained._network import Network

NAME = "model.safetensors"


def write(folder: pathlib.Path, network: Network, params: Any) -> pathlib.Path:
    """Writes parameters by the names and in the layouts that the network came with.

    ``safetensors.torch.load_file`` reads them, and ``load_state_dict`` takes them; of a folder of
    Hugging Face, ``from_pretrained`` reads the whole folder.

    Args:
      folder: where model.safetensors goes, with what else the network came with.
      network: the network.
      params: its parameters, pruned or not.

    Returns:
      The file.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, source in network.files.items():
        if source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)
    file = folder / NAME
    fresh = folder / f".{NAME}.{os.getpid()}.tmp"
    try:
        # transformers reads no file that does not say so.
        save_file(network.to_torch(params), fresh, metadata={"format": "pt"})
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
    return file
