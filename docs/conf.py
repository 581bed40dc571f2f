"""The documentation: pages of this folder, and the public names of the library."""

from __future__ import annotations

import re

import jaxprune

project = "jaxprune"
author = "The jaxprune developers"
release = jaxprune.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the code of the pages runs in the tests
exclude_patterns = ["_build", "build"]

autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Docstrings are written for `help()`: single backticks name code.
default_role = "code"
# "Method" is a name of two packages, and each docstring means its own.
suppress_warnings = ["myst.xref_missing", "myst.header", "ref.python"]

html_theme = "sphinx_book_theme"
html_title = "jaxprune"
html_theme_options = {
    "repository_url": "https://github.com/jaxprune/jaxprune",
    "use_repository_button": True,
    "path_to_docs": "docs",
}


def _display(found):
    indent, formula = found[1], found[2]
    body = "\n".join(f"{indent}   {line.strip()}" for line in formula.split("\n"))
    return f"{indent}.. math::\n\n{body}\n"


def _mathematics(app, what, name, obj, options, lines):
    """Formulas between dollars, as the docstrings have them, in Sphinx' words."""
    del app, what, name, obj, options
    text = re.sub(r"(?ms)^( *)\$\$(.+?)\$\$", _display, "\n".join(lines))
    text = re.sub(r"(?<![\\$`])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    lines[:] = text.split("\n")


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _mathematics, priority=400)
