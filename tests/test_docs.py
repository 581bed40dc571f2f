"""What the pages of docs/ show runs, their blocks one after the other."""

import re

import jax
import pytest

import jaxprune as jp
from tests import snippets

PAGES = [str(p.relative_to(snippets.ROOT)) for p in sorted(snippets.ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_in_order(page):
    _, blocks = snippets.read(page)
    names = {"__name__": "__main__"}
    for block in blocks:
        names = snippets.run(block, page, names)


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_library_exist(page):
    text, _ = snippets.read(page)
    for name in re.findall(r"\bjp\.([a-z_]+(?:\.[A-Za-z_]+)*)", text):
        found = jp
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES)
def test_files_named_on_a_page_exist(page):
    text, _ = snippets.read(page)
    for path in re.findall(r"`((?:jaxprune|experiments|notebooks|tests)/[\w/.]*)`", text):
        assert (snippets.ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w/.]+\.md)\)", text):
        assert (snippets.ROOT / "docs" / path).exists(), path


def test_every_page_is_named_in_the_readme_and_on_the_front_page():
    readme, front = (snippets.read(page)[0] for page in ("README.md", "docs/index.md"))
    for page in PAGES:
        if page != "docs/index.md":
            assert f"({page})" in readme
            assert f"\n{page.removeprefix('docs/').removesuffix('.md')}\n" in front


def test_a_fraction_of_n_is_exact_for_a_number_of_weights():
    for n in (3, 7, 126, 2**24 + 1, 2**31 + 5, 10**12 + 39):
        assert [jp.masks.count(k / n, n) for k in (1, 2, 3) if k < n] == [1, 2, 3][: n - 1]


def test_routers_are_prunable_unless_one_says_otherwise():
    like = jax.ShapeDtypeStruct((8, 4), "float32")
    params = {"router": {"kernel": like}, "moe": {"gate_weight": like}, "mlp": {"kernel": like}}

    def where(path, leaf):
        return jp.default_where(path, leaf) and "router" not in path and "gate" not in path

    assert "3 of 3 leaves" in jp.masks.report(params)
    assert "1 of 3 leaves" in jp.masks.report(params, where=where)


@pytest.mark.slow
def test_counts_and_masks_are_those_of_pytorch_where_nothing_is_equal():
    torch = pytest.importorskip("torch")
    import numpy as np
    from torch.nn.utils import prune

    layers = [torch.nn.Linear(13, 7), torch.nn.Linear(7, 5)]
    params = {str(i): {"weight": layer.weight.detach().numpy()} for i, layer in enumerate(layers)}
    mask = None
    for amount, sparsity in ((0.3, 0.3), (2, (38 + 2) / 126)):
        prune.global_unstructured(
            [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=amount
        )
        params, mask = jp.prune(params, sparsity, within=mask)
        for i, layer in enumerate(layers):
            np.testing.assert_array_equal(mask[str(i)]["weight"], layer.weight_mask.numpy() == 1)
