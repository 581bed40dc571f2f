"""What a set must have for a task: text fields, or images and masks. Nothing here imports JAX."""

import json
import os
import pathlib

from experiments.prepared import Prepared, find_prepared, resolve_data_dir


def is_text_file(data: str) -> bool:
    """Whether `--data` names a file and not a set: names of sets have no suffix.

    Example:
      >>> is_text_file("books.txt"), is_text_file("multi30k")
      (True, False)
    """
    return bool(pathlib.PurePath(data).suffix) and ":" not in data


def fields_of(prepared: Prepared) -> dict[str, str]:
    """The features of a prepared set and their kinds, such as ``{"de": "Text"}``.

    Raises:
      ValueError: if its description is damaged.
    """
    path = prepared.folder / "features.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))["featuresDict"]["features"]
        return {k: v["pythonClassName"].rsplit(".", 1)[-1] for k, v in sorted(held.items())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); prepare the set again."
        ) from error


def check_text(
    data: str, data_dir: os.PathLike[str] | None, wanted: str | None, count: int
) -> tuple[str, ...]:
    """The text fields of a set that a task reads.

    Args:
      data: name of a prepared set, or a text file where one field is asked for.
      data_dir: where prepared sets lie.
      wanted: names of fields, with commas between them; `None` for those that the set has.
      count: how many the task needs.

    Returns:
      Their names; none of a text file.

    Raises:
      ValueError, FileNotFoundError: if the set or file is not there, is empty, or has not these
        fields; the message names those that it has.
    """
    if count == 1 and is_text_file(data):
        path = pathlib.Path(data).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"the text file {path} is not there. Check --data.")
        if not path.stat().st_size:
            raise ValueError(f"the text file {path} is empty. Give one with text in it.")
        if wanted is not None:
            raise ValueError(f"a text file has no fields; leave out text_fields={wanted!r}.")
        return ()
    prepared = find_prepared(data, resolve_data_dir(data_dir))
    kinds = fields_of(prepared)
    text = [name for name, kind in kinds.items() if kind == "Text"]
    need = "one text field" if count == 1 else f"{count} text fields"
    if wanted is None:
        if len(text) != count:
            repair = (
                f" Name {'it' if count == 1 else 'them, the source first'}, with --text-fields "
                f"{','.join(text[:count])} for instance."
                if len(text) > count
                else " Take another set."
            )
            raise ValueError(f"{data} has the fields {kinds}; this task needs {need}.{repair}")
        return tuple(text)
    names = tuple(name.strip() for name in wanted.split(","))
    if len(names) != count or len(set(names)) != count or not set(names) <= set(text):
        raise ValueError(
            f"text_fields={wanted!r}, but this task needs {need} of {data}, which has {kinds}. "
            f"Give {'one name' if count == 1 else f'{count} names with a comma'}."
        )
    return names


def check_segmentation(data: str, data_dir: os.PathLike[str] | None) -> None:
    """Raises unless a set has images and masks.

    Raises:
      ValueError, FileNotFoundError: if it is not there, or has not these fields.
    """
    kinds = fields_of(find_prepared(data, resolve_data_dir(data_dir)))
    lacking = [name for name in ("image", "segmentation_mask") if kinds.get(name) != "Image"]
    if lacking:
        raise ValueError(
            f"{data} has the fields {kinds}; segmentation needs image and segmentation_mask, both "
            f"of kind Image: there is no {' and no '.join(lacking)}. Take another set."
        )
