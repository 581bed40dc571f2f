"""Makes the notebooks from their text pairs, and executes them.

Each notebook is written as a script in jupytext's percent format. If the repository's address is
set in pyproject.toml (``[tool.jaxprune] repository``), a Colab badge and an install cell go first;
else they are left out.

    python notebooks/build.py
"""

import pathlib
import sys
import tomllib

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
NAMES = ("quickstart",)


def repository() -> str:
    """The public address of the repository, or an empty string while it has none."""
    text = (FOLDER.parent / "pyproject.toml").read_text()
    return tomllib.loads(text)["tool"]["jaxprune"]["repository"].rstrip("/")


def colab_cells(name: str, address: str) -> list[nbformat.NotebookNode]:
    """Badge and install cell of a notebook; none without an address."""
    if not address:
        return []
    path = address.removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    cells = [
        nbformat.v4.new_markdown_cell(f"[![Open in Colab]({badge})]({target})"),
        nbformat.v4.new_code_cell(
            f'%pip install --quiet "jaxprune @ git+{address}" scikit-learn matplotlib'
        ),
    ]
    for cell, kind in zip(cells, ("badge", "install"), strict=True):
        cell["id"] = f"colab-{kind}"
    return cells


def make(name: str, address: str | None = None) -> nbformat.NotebookNode:
    """Makes a notebook from its text pair, without outputs.

    Args:
      name: the notebook's name, without ending.
      address: the repository's address; read from pyproject.toml if omitted.

    Returns:
      The notebook.
    """
    notebook = jupytext.read(FOLDER / f"{name}.py")
    # Only what a reader needs: other metadata changes with every version of the tools.
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = nbformat.NotebookNode(
        kernelspec=kernel, language_info={"name": "python"}
    )
    for i, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{i}"
        cell["metadata"] = nbformat.NotebookNode()
    address = repository() if address is None else address
    notebook["cells"] = colab_cells(name, address) + notebook["cells"]
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs all cells (the install cell aside) and returns the notebook with its outputs."""
    cells = notebook["cells"]
    notebook["cells"] = [cell for cell in cells if cell["id"] != "colab-install"]
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for cell in notebook["cells"]:
        cell["metadata"] = nbformat.NotebookNode()  # drops the times of execution
    notebook["cells"] = cells
    return notebook


def main() -> int:
    """Makes, executes and writes every notebook."""
    for name in NAMES:
        nbformat.write(execute(make(name)), FOLDER / f"{name}.ipynb")
        print(f"wrote notebooks/{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
