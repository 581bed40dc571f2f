"""Find a prepared tensorflow-datasets set on disk, or say how to prepare it."""

import dataclasses
import difflib
import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments import registry

_RANDOM_ACCESS = "array_record"

KNOWN = registry.DATA
"""Names with settings of their own; other prepared image-classification sets load as well."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared version of a set.

    Attributes:
        data_dir: the directory that was searched.
        folder: where its `dataset_info.json` lies.
        version: such as "3.0.2".
        file_format: how the examples are stored, such as "array_record".
    """

    data_dir: Path
    folder: Path
    version: str
    file_format: str


def import_tfds() -> Any:
    """tensorflow-datasets, or an ImportError that says how to install it."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "reading this set needs tensorflow-datasets (but not TensorFlow):"
            " pip install tensorflow-datasets array-record pillow"
        ) from error
    return tfds


def resolve_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """The directory that is searched: the given one, $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets")
    return Path(data_dir).expanduser()


def prepared_versions(name: str, data_dir: Path) -> list[Prepared]:
    """Prepared versions of `name` under `data_dir`, oldest first."""
    found = []
    for info in (data_dir / name).glob("*/dataset_info.json"):
        version = info.parent.name
        if re.fullmatch(r"\d+\.\d+\.\d+", version):
            found.append(Prepared(data_dir, info.parent, version, _file_format(name, info)))
    return sorted(found, key=lambda one: tuple(map(int, one.version.split("."))))


def _file_format(name: str, info: Path) -> str:
    """How a prepared version is stored, from its dataset_info.json."""
    try:
        document = json.loads(info.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError(f"it holds a {type(document).__name__} and not a description")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{info} cannot be read: {error}. Prepare the set again:"
            f" {command(name, info.parents[2])} --overwrite"
        ) from error
    # Sets written before the field existed are in tfds' first format.
    return document.get("fileFormat", "tfrecord")


def find_prepared(name: str, data_dir: Path) -> Prepared:
    """The newest version of `name` that can be read without TensorFlow.

    Looking comes before asking tensorflow-datasets, which would start a download.

    Args:
        name: name of the set, such as "cifar10".
        data_dir: the directory to search.

    Returns:
        Where it lies.

    Raises:
        ValueError: its dataset_info.json is damaged.
        FileNotFoundError: a set that tensorflow-datasets knows is not prepared in `data_dir`.
        ValueError: nobody knows the name, or the set is stored in a format without random access.
    """
    versions = prepared_versions(name, data_dir)
    readable = [one for one in versions if one.file_format == _RANDOM_ACCESS]
    if readable:
        return readable[-1]
    if versions:
        raise ValueError(
            f"{name} in {versions[-1].folder} is stored as {versions[-1].file_format}, which cannot"
            f" be read without TensorFlow; prepare it as {_RANDOM_ACCESS}, replacing these files:"
            f" {command(name, data_dir)} --overwrite (preparing, unlike reading, needs TensorFlow)"
        )
    if name not in KNOWN and name.split("/")[0] not in (registered := _registered_names()):
        raise ValueError(_unknown(name, data_dir, registered))
    raise FileNotFoundError(
        f"{name} is not prepared in {data_dir} (no {data_dir / name}/VERSION/dataset_info.json)."
        f" Prepare it once: pip install tensorflow tensorflow-datasets && "
        f"{command(name, data_dir)} . Preparing, unlike reading, needs TensorFlow. If it lies"
        " elsewhere, name that directory by data_dir"
    )


def command(name: str, data_dir: Path) -> str:
    """The command that prepares a set."""
    return (
        f"tfds build {name} --data_dir {shlex.quote(str(data_dir))} --file_format {_RANDOM_ACCESS}"
    )


def _registered_names() -> list[str]:
    return import_tfds().list_builders(with_community_datasets=False)


def _unknown(name: str, data_dir: Path, registered: Iterable[str]) -> str:
    on_disk = sorted(
        {info.parent.parent.name for info in data_dir.glob("*/*.*.*/dataset_info.json")}
    )
    close = difflib.get_close_matches(name, [*KNOWN, *on_disk, *registered], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"unknown data set {name!r}{hint} Known: {', '.join(KNOWN)}, and every image-classification"
        f" set of tensorflow-datasets prepared in {data_dir} ({', '.join(on_disk) or 'none there'})"
    )
