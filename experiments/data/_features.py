"""What the description of a prepared set may name, and what of an image may be decoded."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_PIXELS = 80_000_000
"""An image with more is not decoded: a file of some kilobytes can claim gigabytes."""

# tensorflow-datasets imports whatever module these name.
_NAMING = ("pythonClassName", "python_class_name", "type")
_OWN = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")


def check_features(folder: Path) -> None:
    """Raises if features.json names a class that is not tensorflow-datasets' own.

    Reading such a file would import its module, also from the current folder.

    Raises:
      ValueError: with the name; also of a file that is no description.
      OSError: if it cannot be read.
    """
    document = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__} and not a description")
    for name in _class_names(document):
        if not isinstance(name, str) or not _OWN.fullmatch(name):
            raise ValueError(
                f"it names the class {name!r}, which is none of tensorflow_datasets.core.features;"
                " code is not imported for a data set"
            )


def _class_names(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (value[key] for key in _NAMING if key in value)
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _class_names(part)


def check_pixels(encoded: bytes) -> None:
    """Raises if an encoded image has more than `MAX_PIXELS`, from its header alone.

    Raises:
      ValueError: with its size.
      PIL.UnidentifiedImageError: if it is no image.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"an image of {width} x {height} pixels is not decoded; at most {MAX_PIXELS:,} are"
        )
