"""Matrices of a pretrained encoder with what captions put into them."""

import pathlib

import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.bench.layerwise.problems import Problem
from experiments.prepared import find_prepared, resolve_data_dir
from experiments.pretrained import minilm
from experiments.tasks._texts import read_texts

MATRICES = {
    "query": "layer_2/attention/query/kernel",
    "up": "layer_2/mlp/up/kernel",
    "down": "layer_2/mlp/down/kernel",
}
"""Name -> path of a kernel in the encoder: 384 x 384, 384 x 1536 and 1536 x 384."""

LENGTH = 32
_BATCH = 128


def encoder(captions: int, data_dir: pathlib.Path | None) -> dict[str, Problem]:
    """The kernels of MiniLM's third layer, and Gram matrices on English captions of Multi30k.

    The first captions of the training set, in the order in which it is prepared, make the first
    Gram matrix, the same number after them the other. Captions are cut to 32 tokens; padding has
    no part.

    Args:
      captions: how many, of each sample; a multiple of 128.
      data_dir: where the captions are prepared; what the commands take otherwise if `None`.

    Returns:
      Name -> problem.

    Raises:
      ModuleNotFoundError: if the package with the weights is not installed.
      FileNotFoundError: if the captions are not prepared.
    """
    network = minilm.load()
    prepared = find_prepared("multi30k", resolve_data_dir(data_dir))
    splits, found = read_texts("multi30k", prepared, ("en",))
    texts = [text for (text,) in found[splits.train][: 2 * captions]]
    tokens = jnp.asarray(minilm.tokens(texts, LENGTH))
    paths = tuple(MATRICES.values())

    def grams(first: int) -> dict[str, jp.layerwise.Statistics]:
        batches = [tokens[i : i + _BATCH] for i in range(first, first + captions, _BATCH)]
        return jp.layerwise.statistics(
            network.apply, network.params, batches, where=lambda path, leaf: path in paths
        )

    seen, others = grams(0), grams(captions)
    problems = {}
    for name, path in MATRICES.items():
        layer, half, part, leaf = path.split("/")
        kernel = network.params[layer][half][part][leaf]
        problems[name] = Problem(
            np.asarray(kernel), np.asarray(seen[path].gram), np.asarray(others[path].gram)
        )
    return problems
