"""Blocks of Python in pages of Markdown, run as a reader would run them."""

import pathlib
import re

import jax

ROOT = pathlib.Path(__file__).parent.parent


def read(page):
    """The text of a page, and its blocks of Python."""
    text = (ROOT / page).read_text()
    return text, re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(block, page, names):
    """Runs a block with the names that others left behind; returns those after it."""
    # Under JAX's defaults, as a reader would.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(block, page, "exec"), names)
    return names
