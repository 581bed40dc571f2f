"""Tables that are never cut: a column that has no room is left out, and said to be."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_fitting(
    console: Console,
    make: Callable[[frozenset[str]], Table],
    droppable: Sequence[str],
    *,
    folds: int = 0,
) -> None:
    """Prints a table with as many columns as fit.

    Where there is no terminal, all of it is printed: no line has to fit.

    Args:
      console: where it goes.
      make: makes the table without the columns of these names.
      droppable: names of columns, those first that are missed least.
      folds: characters by which a column may be folded before another is dropped.
    """
    wide = console.options.update(width=10_000)
    before = console.width
    gone: frozenset[str] = frozenset()
    table = make(gone)
    needed = Measurement.get(console, wide, table).maximum
    if not console.is_terminal and not console.is_jupyter:
        console.width = max(needed, before)
        try:
            console.print(table)
        finally:
            console.width = before
        return
    for name in droppable:
        if needed - folds <= before:
            break
        gone |= {name}
        table = make(gone)
        needed = Measurement.get(console, wide, table).maximum
    console.print(table)
