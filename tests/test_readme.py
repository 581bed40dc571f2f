"""What the README promises runs as written."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet):
    # Under JAX's defaults, as a reader would.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})


def test_the_first_example_is_twelve_lines_and_does_what_it_says():
    snippet = SNIPPETS[0]
    assert len([line for line in snippet.splitlines() if line.strip()]) == 12
    names = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(snippet, "README.md", "exec"), names)
        assert int(jnp.sum(names["params"]["kernel"] == 0)) == round(0.9 * 64 * 64)


def test_the_two_commands_are_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in TEXT
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_files_named_in_the_readme_exist():
    for path in re.findall(r"`((?:jaxprune|experiments|notebooks|tests)/[\w/.]*)`", TEXT):
        assert (ROOT / path).exists(), path
