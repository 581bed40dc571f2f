"""Parameter trees: readable paths, which leaves are prunable, trees side by side, norms.

Three notions carry the whole library:

* a **path** is the readable address of a leaf, its parts joined by "/": ``"Dense_0/kernel"``;
* a leaf is **prunable** when ``where(path, leaf)`` says so; `default_where` is the rule used
  when nobody passes another;
* a **partial tree** (scores, masks) looks like the parameters and holds ``None`` where a leaf is
  not prunable. ``None`` is an empty subtree to JAX, so partial trees travel through `jit`,
  `vmap` and checkpoints without special care, but mapping one beside the full parameters needs
  `map_partial`.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxprune import _eager, _host

PyTree: TypeAlias = Any
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

# Attribute names that wrappers put around an array and that say nothing about its role:
# `nnx.Param.value`, Flax's boxed metadata, Haliax' named arrays.
_WRAPPER_NAMES = frozenset({"value", "raw_value", "array"})


def path_string(path: tuple[Any, ...]) -> str:
    """Returns the readable form of a JAX key path, e.g. ``"Dense_0/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def owner(path: str) -> str:
    """Returns the name of the module that a leaf belongs to: "query" of ``"a/query/kernel"``."""
    parts = path.split("/")
    while len(parts) > 1 and parts[-1] in _WRAPPER_NAMES:
        parts.pop()  # "query/kernel/value", as `nnx.Param` has it
    return parts[-2] if len(parts) > 1 else ""


def own_name(path: str) -> str:
    """Returns what a leaf is called: "scale" of ``"norm/scale"`` and of ``"norm/scale/value"``."""
    parts = path.split("/")
    while len(parts) > 1 and parts[-1] in _WRAPPER_NAMES:
        parts.pop()
    return parts[-1]


def is_absent(x: Any) -> bool:
    """Whether ``x`` stands for "no leaf here": `None`, or optax's `MaskedNode`."""
    return x is None or isinstance(x, optax.MaskedNode)


def is_floating(x: Any) -> bool:
    """Whether ``x`` is an array (or an abstract one) of a floating dtype."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


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
    parts = [part for part in path.split("/") if part not in _WRAPPER_NAMES]
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


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns the leaves of ``tree`` with their readable paths, in `jax.tree.leaves` order."""
    return [(path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_partial(f: Callable[..., Any], partial: PyTree, *trees: PyTree, what: str = "mask") -> Any:
    """Maps ``f`` over a partial tree and full trees of the same parameters, side by side.

    ``f`` is called at every leaf; its first argument is `None` where ``partial`` has no leaf.

    Args:
      f: ``f(partial_leaf_or_None, *leaves)``.
      partial: a tree with `None` where a leaf is not prunable, or where a whole subtree is not.
      *trees: trees of the parameters' structure.
      what: the word for ``partial`` in errors.

    Returns:
      A tree of the structure of ``trees[0]``.

    Raises:
      ValueError: if structure or shapes differ; the message names the first differing path. If a
        tree is a Flax NNX module with tied variables.
    """
    for tree in trees:
        check_untied(tree)
    # Leaf by leaf, not by jax.tree.map: equal paths in other containers (a plain dict beside a
    # FrozenDict, after a checkpoint) are the same parameters.
    if trees:
        partial = expanded(partial, trees[0])
    own, structure = jax.tree.flatten(partial, is_leaf=is_absent)
    columns, treedef = [own], None
    for tree in trees:
        leaves, other = jax.tree.flatten(tree, is_leaf=is_absent)
        treedef = other if treedef is None else treedef
        if other != structure or not _fit(own, leaves):
            check_matches(partial, tree, what=what)  # path by path
        columns.append(leaves)
    assert treedef is not None
    return treedef.unflatten(
        leaves[0] if is_absent(leaves[0]) else f(None if is_absent(m) else m, *leaves)
        for m, *leaves in zip(*columns, strict=True)
    )


def expanded(partial: PyTree, like: PyTree) -> PyTree:
    """A partial tree with each `None` that stands for a subtree of ``like`` spelled out.

    As in optax, a prefix of the tree will do. What fits no other way stays as it is, for the caller
    to complain about.
    """
    if jax.tree.structure(partial, is_leaf=is_absent) == jax.tree.structure(
        like, is_leaf=is_absent
    ):
        return partial
    if is_absent(partial):
        return jax.tree.map(lambda _: partial, like, is_leaf=is_absent)
    if jax.tree_util.all_leaves([partial]) or jax.tree_util.all_leaves([like]) or is_absent(like):
        return partial
    ours, treedef = jax.tree.flatten(partial, is_leaf=lambda x: x is not partial)
    theirs, other = jax.tree.flatten(like, is_leaf=lambda x: x is not like)
    if treedef != other:
        return partial
    return treedef.unflatten([expanded(a, b) for a, b in zip(ours, theirs, strict=True)])


def _fit(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether leaves that are in both trees have the same shapes."""
    return all(
        x is None or y is None or is_absent(x) or is_absent(y) or np.shape(x) == np.shape(y)
        for x, y in zip(ours, theirs, strict=True)
    )


def beside(
    partial: PyTree, *trees: PyTree, what: str = "mask"
) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """The leaves of a partial tree, each with what full trees of the same parameters hold there.

    By their places: two leaves may have one readable path, such as the leaf "b" of "a" and one
    whose key is "a/b".

    Args:
      partial: a tree with `None` where a leaf is not prunable.
      *trees: trees of the parameters' structure.
      what: the word for ``partial`` in errors.

    Returns:
      Path, leaf, and the leaves of ``trees``, for each leaf that ``partial`` has.

    Raises:
      ValueError: if structure or shapes differ; the message names the first differing path.
    """
    found: list[tuple[Any, tuple[Any, ...]]] = []

    def note(leaf: Any, *others: Any) -> None:
        if leaf is not None:
            found.append((leaf, others))

    map_partial(note, partial, *trees, what=what)
    paths = (path for path, _ in named_leaves(partial))
    return [(path, leaf, others) for path, (leaf, others) in zip(paths, found, strict=True)]


def first_difference(a: PyTree, b: PyTree) -> str | None:
    """The path of a leaf that only one of two partial trees has, or `None`.

    Containers may differ, and so may what stands for "no leaf here".
    """
    ours, theirs = (
        [path for path, leaf in named_leaves(tree) if not is_absent(leaf)] for tree in (a, b)
    )
    differing = sorted(set(ours) ^ set(theirs))
    differing += [x for x, y in itertools.zip_longest(ours, theirs) if x != y]
    return differing[0] if differing else None


def check_same(a: PyTree, b: PyTree, *, names: tuple[str, str]) -> None:
    """Raises if two networks are not of one architecture.

    Raises:
      ValueError: naming the first leaf that only one has, or whose shape or dtype differs.
    """
    if (path := first_difference(a, b)) is not None:
        raise ValueError(f"{names[0]} and {names[1]} are of other trees: only one has {path!r}.")
    for (path, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True):
        one, other = (f"{getattr(v, 'dtype', type(v).__name__)}{list(np.shape(v))}" for v in (x, y))
        if one != other:
            raise ValueError(
                f"{path!r} is {one} in {names[0]} and {other} in {names[1]}, which must be of one "
                "architecture."
            )


def check_untied(tree: PyTree) -> None:
    """Raises if a module of Flax NNX holds one variable in two places.

    A module is a tree to JAX, but a tree has no identity: what is computed from it has two
    variables there, which come apart. The `State` of `nnx.split` has each variable once.

    Raises:
      ValueError: naming both paths, and the repair.
    """
    variable = getattr(sys.modules.get("flax.nnx"), "Variable", None)
    if variable is None:
        return  # without Flax NNX there is no such module
    seen: dict[int, str] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, variable))
    for path, x in leaves:
        # Random streams are often shared, and have no weights.
        if not isinstance(x, variable) or not any(map(is_floating, jax.tree.leaves(x))):
            continue
        name = path_string(path)
        if id(x) in seen:
            raise ValueError(
                f"{name!r} and {seen[id(x)]!r} are one variable of a Flax NNX module, but two "
                "arrays of it as a tree: they would come apart. Split the module, which keeps the "
                "variable once: graphdef, params, rest = nnx.split(model, nnx.Param, ...); then "
                "use params, and nnx.merge(graphdef, params, rest) at the end. "
                "jp.training.from_nnx does that for training."
            )
        seen[id(x)] = name


def check_unique(paths: list[str]) -> None:
    """Raises if two leaves of a tree have the same readable path.

    Raises:
      ValueError: naming the path.
    """
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(
                f"two leaves of the tree have the same readable path {path!r}, so they "
                "could not be told apart. Rename one of their keys (a '/' inside a key looks like "
                "a nested key)."
            )
        seen.add(path)


def is_function(x: Any, like: PyTree) -> bool:
    """Whether a function was passed where a tree like ``like`` may be, too.

    Told by the structure: the model of some frameworks is a tree and can be called.
    """
    if not callable(x):
        return False
    structure = jax.tree.structure(like, is_leaf=is_absent)
    return jax.tree.structure(x, is_leaf=is_absent) != structure


def check_matches(partial: PyTree, params: PyTree, *, what: str = "mask") -> None:
    """Raises if the leaves of ``partial`` do not sit, with their shapes, in ``params``.

    Raises:
      ValueError: naming the first path that differs and both shapes, or of tied variables in a
        module.
    """
    check_untied(params)
    partial = expanded(partial, params)
    ours = jax.tree_util.tree_flatten_with_path(partial, is_leaf=is_absent)[0]
    theirs = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_absent)[0]
    ours = [(path_string(p), x) for p, x in ours]
    theirs = [(path_string(p), x) for p, x in theirs]
    repair = f"Make the {what} from these very parameters."
    for (a, x), (b, y) in zip(ours, theirs, strict=False):
        if a != b:
            raise ValueError(
                f"the {what} is of another tree: it has {a!r} where {b!r} is. {repair}"
            )
        if not is_absent(x) and not is_absent(y) and np.shape(x) != np.shape(y):
            raise ValueError(
                f"the {what} has shape {np.shape(x)} at {a!r}, the parameter {np.shape(y)}. "
                + repair
            )
    if len(ours) != len(theirs):
        longer, name = (ours, what) if len(ours) > len(theirs) else (theirs, "parameters")
        path = longer[min(len(ours), len(theirs))][0]
        raise ValueError(
            f"the {what} is of another tree: only the {name} {'have' if name != what else 'has'} "
            f"a leaf {path!r}. {repair}"
        )


def wide_dtype(*dtypes: Any) -> Any:
    """Returns float64 if one of the floating dtypes is that, else float32.

    The dtype in which values of all of them are exact. Written out, because JAX' own rule refuses
    to mix dtypes under strict promotion.
    """
    return jnp.float64 if any(np.dtype(d).itemsize == 8 for d in dtypes) else jnp.float32


def largest(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The maximum along an axis, NaN where there is one, -inf where there is nothing.

    XLA's CPU backend drops NaN from a maximum of some hundred numbers.
    """
    top = jnp.max(x, axis=axis, initial=-jnp.inf)
    return jnp.where(jnp.any(jnp.isnan(x), axis=axis), jnp.full_like(top, jnp.nan), top)


def squared_norm(tree: PyTree) -> jax.Array:
    """Returns the sum of ``|x|^2`` over all floating and complex leaves, in float32 at least."""
    total: jax.Array = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        if not has_norm(leaf):
            continue
        leaf = jnp.asarray(leaf)  # first: NumPy's float64 is float32 without x64
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for x in parts:
            part = jnp.sum(jnp.square(x.astype(wide_dtype(x.dtype))))
            out = wide_dtype(total.dtype, part.dtype)
            total = total.astype(out) + part.astype(out)
    return total


def has_norm(x: Any) -> bool:
    """Whether ``x`` is an array of floating or complex numbers."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def relative_distance(params: PyTree, pruned_params: PyTree) -> jax.Array:
    """Returns ``||params - pruned_params|| / ||params||`` over all floating and complex leaves.

    Differences and sums are taken in float32 at least. 0 where ``params`` is all zero.

    Raises:
      ValueError: if the trees differ, naming the path.
      TypeError: if a leaf of integers differs.
    """
    return _distance(*leaves_with_norm(params, pruned_params))


def leaves_with_norm(params: PyTree, pruned_params: PyTree) -> tuple[list[Any], list[Any]]:
    """The floating and complex leaves of the trees before and after pruning, side by side.

    Raises:
      ValueError: if the trees differ, naming the path.
      TypeError: if a leaf of integers differs. Counters and tables of indices have no part in a
        norm, but integers that were pruned are weights.
    """
    check_matches(pruned_params, params, what="pruned tree")
    ours = jax.tree.leaves(params, is_leaf=is_absent)
    theirs = jax.tree.leaves(pruned_params, is_leaf=is_absent)
    if [is_absent(x) for x in ours] != [is_absent(y) for y in theirs]:
        path = min(dict(named_leaves(params)).keys() ^ dict(named_leaves(pruned_params)).keys())
        raise ValueError(
            f"only one of the trees before and after pruning has a leaf at {path!r}. Pass both "
            "whole, or the same part of both."
        )
    pairs = list(zip(ours, theirs, strict=True))
    for (path, _), (x, y) in zip(
        named_leaves(params), [(x, y) for x, y in pairs if not is_absent(x)], strict=True
    ):
        if has_norm(x) or x is y or is_traced(x, y) or isinstance(x, jax.ShapeDtypeStruct):
            continue
        if not np.array_equal(x, y):
            raise TypeError(
                f"{path!r} holds {getattr(x, 'dtype', type(x).__name__)} and differs before and "
                "after pruning, but norms are of floating or complex weights. Pass the weights "
                "that it stands for, as floats."
            )
    pairs = [(x, y) for x, y in pairs if has_norm(x)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def distance(before: list[jax.Array], after: list[jax.Array]) -> jax.Array:
    """`relative_distance` of `leaves_with_norm`, to be compiled with what uses it."""

    def difference(x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
            return x - y
        wide = wide_dtype(x.dtype, y.dtype)
        return x.astype(wide) - y.astype(wide)

    whole = squared_norm(before)
    moved = squared_norm([difference(x, y) for x, y in zip(before, after, strict=True)])
    return jnp.sqrt(moved / jnp.where(whole > 0, whole, jnp.ones_like(whole)))


_distance = jax.jit(distance)


def size(tree: PyTree) -> int:
    """Returns the number of entries of all leaves, as a Python integer (exact at any size)."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(tree))


def is_traced(*trees: PyTree) -> bool:
    """Whether any leaf is a tracer, i.e. whether we are inside a transformation such as `jit`."""
    return any(isinstance(leaf, Tracer) for tree in trees for leaf in jax.tree.leaves(tree))


def known(flag: Any) -> bool:
    """Whether a condition is known now and holds; False for a traced one.

    Inside `jit` an operation on a concrete array that the function closes over is traced, too: ask
    about the outcome, not about the array.
    """
    return not is_traced(flag) and bool(flag)


def check_finite(tree: PyTree, *, what: str = "weights") -> None:
    """Raises if a floating leaf holds a NaN or an infinity. Traced leaves are not checked.

    One compiled program for all leaves and one transfer, or none where they are on the CPU.

    Raises:
      ValueError: naming the first such leaf.
    """
    named = _known_floating(tree)
    check_worst([path for path, _ in named], _asked(worst, _worst_here, named), what=what)


def check_worst(paths: Sequence[str], found: Sequence[Any], *, what: str = "weights") -> None:
    """Raises if what `worst` found in the leaves of these paths is a NaN or an infinity.

    Raises:
      ValueError: naming the first such leaf.
    """
    for path, code in zip(paths, _values(found), strict=False):
        if code:
            raise ValueError(
                f"the {what} at {path!r} hold {'NaN' if code == _NAN else 'inf'}. Prune a state "
                "from before training diverged."
            )


_INFINITE, _NAN = 1, 2


def worst(x: jax.Array) -> jax.Array:
    """Whether a floating array holds NaN (2), else infinities (1), else neither (0); uint8."""
    # A maximum of integers: one reduction, which a partitioner knows, too.
    infinite = jnp.isinf(x).astype(jnp.uint8)
    return jnp.max(jnp.where(jnp.isnan(x), jnp.uint8(_NAN), infinite), initial=0)


def _worst_here(x: np.ndarray) -> int:
    if _host.is_finite(x):
        return 0
    return _NAN if np.isnan(x).any() else _INFINITE


def negative(tree: PyTree) -> list[str]:
    """The paths of the floating leaves that hold a negative number. Traced leaves are not seen."""
    named = _known_floating(tree)
    found = _values(_asked(_is_negative, _is_negative_here, named))
    return [path for (path, _), negative in zip(named, found, strict=False) if negative]


def _is_negative(x: jax.Array) -> jax.Array:
    return jnp.any(x < 0)


def _is_negative_here(x: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # of narrow formats NumPy warns where it meets a NaN
        return bool((x < 0).any())


def _known_floating(tree: PyTree) -> list[tuple[str, Any]]:
    return [
        (path, leaf)
        for path, leaf in named_leaves(tree)
        if is_floating(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct) and not is_traced(leaf)
    ]


def _asked(
    compiled: Callable[[jax.Array], jax.Array],
    here: Callable[[np.ndarray], Any],
    named: Sequence[tuple[str, Any]],
) -> Sequence[Any]:
    """Something about each leaf: by one program for all, or on the host."""
    leaves = [leaf for _, leaf in named]
    views = _host.views(leaves)
    if views is None:
        return _eager.together(compiled, [_eager.Row(x) for x in leaves])
    return [here(x) for x in views]


def _values(found: Sequence[Any]) -> Sequence[Any]:
    # Inside `jit` an operation on a concrete array that the function closes over is traced, too.
    return [] if is_traced(found) else jax.device_get(found)
