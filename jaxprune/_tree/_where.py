"""Which leaves are prunable: by name, rank and dtype, or by a function of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxprune._tree._paths import (
    WRAPPER_NAMES,
    PyTree,
    is_absent,
    is_floating,
    named_leaves,
    path_string,
)
from jaxprune._tree._structure import check_untied

Where: TypeAlias = Callable[[str, Any], bool]

# Last path parts that name a weight of a product or a convolution. Frameworks: Flax (`kernel`),
# Haiku (`w`), Equinox and PyTorch (`weight`, `weight_ih`, `weight_hh`), einsum layers of Gemma-
# and LLaMA-style code (`wq` ... `gating_einsum`), plain dicts (`W1`, `kernel_0`: a trailing
# number is dropped, case is ignored).
WEIGHT_NAMES = frozenset(
    {
        "kernel", "kernels", "weight", "weights", "w", "ws",
        "weight_ih", "weight_hh", "w_i", "w_h", "wi", "wo", "wq", "wk", "wv", "wqkv", "wkv",
        "w_q", "w_k", "w_v", "w_o", "gating_einsum", "linear",
        "query_kernel", "key_kernel", "value_kernel", "out_kernel", "qkv_kernel",
        "in_proj_weight", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel",
    }
)  # fmt: skip

# Words, between underscores, that say so inside a longer name: `w_out`, `hidden_kernel`.
_WEIGHT_WORDS = frozenset({"kernel", "weight", "weights", "w"})

# Whole words of a name under which an unnamed leaf is no weight of a product.
_NO_WEIGHT = re.compile(
    r"(^|_)(bias(es)?|scales?|offsets?|embed(s|ding|dings)?|((layer|batch|group)_?)?norms?)(_|$)"
)

# Words that say of a matrix what it is instead: a low-rank adapter, or a bias for each distance.
_OTHER_WORDS = frozenset({"lora", "alibi"})

# Modules whose kernel is added, not multiplied with: biases and embeddings of positions.
_ADDED = re.compile(r"(^|_)(bias(es)?|pos(ition(al)?)?_?emb(ed(ding)?s?)?)$")


def default_where(path: str, leaf: Any) -> bool:
    """The default rule for which leaves are prunable.

    A leaf is prunable when it is floating, has rank two or more, and its name says that it is a
    weight: the last part of its path has one of the words ``kernel``, ``weight`` or ``w`` between
    underscores, or is one of a written list (``wq``, ``wk``, ``in_proj_weight``, ...; see
    ``WEIGHT_NAMES`` in this file). Case and a trailing number are ignored. Biases, norm scales and
    embeddings are therefore never taken; nor are low-rank adapters (``kernel_lora_a``), ALiBi's
    slopes, and kernels of biases or embeddings of positions (``rel_pos_bias/kernel``). Routers of
    experts (``router/kernel``, ``gate_weight``) are: they are small, and pruning them may unbalance
    the experts, so think of leaving them out, with a ``where`` as below. A leaf whose own key is an
    index, as in ``[(w, b), (w, b)]``, has no name to go by: it is taken by rank alone, unless the
    nearest name above it is that of a bias, a scale or an embedding.

    Names cannot tell in Equinox, where norms and embeddings also call their array ``weight``:
    see `jaxprune.masks.report` for what was taken, and pass ``where=`` to decide otherwise::

        where = lambda path, leaf: default_where(path, leaf) and "embed" not in path

    Args:
      path: the readable path of the leaf, parts joined by "/".
      leaf: the array, or anything with ``dtype`` and ``ndim``.

    Returns:
      Whether the leaf is prunable.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import default_where
      >>> default_where("Dense_0/kernel", jnp.ones((3, 2)))
      True
      >>> default_where("Dense_0/bias", jnp.ones((2,)))
      False
      >>> default_where("Embed_0/embedding", jnp.ones((10, 2)))
      False
    """
    if not is_floating(leaf) or leaf.ndim < 2:
        return False
    parts = [part for part in path.split("/") if part not in WRAPPER_NAMES]
    unnamed = not parts or parts[-1].isdigit()
    names = [part for part in parts if part and not part.isdigit()]
    if not names:
        return True
    name = re.sub(r"(_l\d+|_?\d+)$", "", names[-1].lower())
    if _OTHER_WORDS & set(name.split("_")):
        return False
    module = re.sub(r"_?\d+$", "", names[-2].lower()) if len(names) > 1 else ""
    if _OTHER_WORDS & set(module.split("_")) or (not unnamed and _ADDED.search(module)):
        return False
    if unnamed:
        return not _NO_WEIGHT.search(name)
    if name in WEIGHT_NAMES:
        return True
    words = set(name.split("_"))
    return bool(words & _WEIGHT_WORDS) and not _NO_WEIGHT.search(name)


def prunable(params: PyTree, where: Where | None = None) -> PyTree:
    """Returns a tree like ``params`` that keeps prunable leaves and holds `None` elsewhere.

    Args:
      params: any pytree of arrays.
      where: ``where(path, leaf) -> bool``; `default_where` if omitted.

    Returns:
      The partial tree of prunable leaves.

    Raises:
      ValueError: if no leaf is prunable, or the tree is a Flax NNX module with tied variables.
      TypeError: if ``where`` selects a leaf that is not floating.
    """
    if where is not None and not callable(where):
        raise TypeError(
            "where is a function (path, leaf) -> bool, such as lambda path, leaf: 'kernel' in "
            f"path; got {where!r}."
        )
    rule = default_where if where is None else where
    check_untied(params)

    def pick(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_string(path)
        if is_absent(leaf) or not rule(name, leaf):
            return None
        if not is_floating(leaf):
            dtype = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(
                f"only floating leaves can be pruned, but `where` selects {name!r} of dtype "
                f"{dtype}. Let `where` return False for it."
            )
        return leaf

    picked = jax.tree_util.tree_map_with_path(pick, params, is_leaf=is_absent)
    if not jax.tree.leaves(picked):
        known = [f"{p}{tuple(np.shape(x))}" for p, x in named_leaves(params)]
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise ValueError(
            f"no prunable leaf among {len(known)}: [{shown}]. By default these are floating "
            "leaves of rank >= 2 whose name has the word kernel, weight or w; to take every "
            "matrix pass where=lambda path, leaf: leaf.ndim >= 2."
        )
    return picked
