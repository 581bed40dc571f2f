"""What all pictures share: colours, and figures that notebooks show."""

from __future__ import annotations

import functools
from typing import Any

# By Okabe and Ito, told apart by the colour-blind, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
BLUE, ORANGE, GREEN = COLOURS[:3]
GREY, LIGHT = "#777777", "#CCCCCC"


def line_style(i: int) -> str:
    """The style of line i: of two lines that coincide the one below shows through the gaps."""
    return ("-", "--")[i % 2] if i < len(COLOURS) else ("-.", ":")[i % 2]


@functools.cache
def _picture() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "jaxprune.plots draws with matplotlib, which is not installed: "
            "pip install 'jaxprune[plots]'."
        ) from error

    class Picture(Figure):
        """A figure that a notebook shows, as it does those of pyplot."""

        def _repr_png_(self) -> bytes:
            import io

            file = io.BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return Picture


def figure(width: float = 7.5, height: float = 4.0, rows: int = 1, columns: int = 1) -> Any:
    """Makes an empty figure with ``figure.axes`` to draw into, row by row.

    Args:
      width: in inches.
      height: in inches.
      rows: of axes.
      columns: of axes.

    Returns:
      The figure. A notebook shows it; it is none of pyplot's.

    Raises:
      ImportError: if matplotlib is not installed, with what to install.
    """
    made = _picture()(figsize=(width, height), layout="constrained")
    made.subplots(rows, columns, squeeze=False)
    return made


def axes_of(axes: Any, width: float = 7.5, height: float = 4.0) -> Any:
    """These axes, or those of a new figure."""
    return figure(width, height).axes[0] if axes is None else axes
