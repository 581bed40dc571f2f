"""Multiplications of a network, counted from its jaxpr."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util

from jaxprune import _jaxpr, _tree
from jaxprune._mask import count_true
from jaxprune._tree import PyTree


class LayerMacs(NamedTuple):
    """The multiply-accumulates (MACs) of all products with one parameter.

    Attributes:
      path: of the parameter; "" for products of two activations (attention), and of a parameter
        that does not reach the product by rearrangement alone.
      macs: all of them.
      nonzero_macs: those with weights that are not zero; all of them for activations.
    """

    path: str
    macs: int
    nonzero_macs: int


class Flops(NamedTuple):
    """What `flops` returns.

    Attributes:
      layers: one entry a parameter, in program order.
    """

    layers: tuple[LayerMacs, ...]

    @property
    def macs(self) -> int:
        """MACs of the dense network. One is two floating-point operations."""
        return sum(layer.macs for layer in self.layers)

    @property
    def nonzero_macs(self) -> int:
        """MACs with weights that are not zero."""
        return sum(layer.nonzero_macs for layer in self.layers)

    @property
    def theoretical_speedup(self) -> float:
        """Dense MACs over nonzero MACs: a bound that unstructured zeros seldom come near."""
        return self.macs / self.nonzero_macs if self.nonzero_macs else math.inf


def flops(
    apply: Callable[..., Any],
    params: PyTree,
    *inputs: Any,
    mask: PyTree | None = None,
    on_uncounted: Literal["error", "warn", "allow"] = "error",
) -> Flops:
    r"""Counts the multiply-accumulates (MACs) of ``apply(params, *inputs)``.

    Every matrix product and convolution of the jaxpr counts, whatever framework made it:

    * a product $\sum_k a_{bik} b_{bjk}$ has $|b|\,|i|\,|j|\,|k|$ MACs;
    * a convolution has (output entries) times (kernel entries an output channel), padded positions
      included; one that dilates its input (a transposed convolution) has (input entries) times
      (kernel entries an input channel);
    * a ragged product (`jax.lax.ragged_dot`, the experts of a mixture) of $[m, k]$ and
      $[g, k, n]$ has $m k n$: each row meets the weights of one group;
    * of complex numbers each of these has four, real multiplications (two where one side is real).

    Additions, activations, normalizations and pooling count nothing, as in ShrinkBench and the code
    of Zimmer et al., and neither do Fourier transforms (nominally $5 n \log_2 n$ operations each,
    without weights), sorts, factorizations and triangular solves. Loops count as often as they run,
    a ``while`` if a counter with known bounds ends it; each branch of a ``cond`` counts as if it
    ran. Inputs have a batch of their own: pass a batch of one for MACs an example. A weight that is
    used $u$ times in a pass (tied layers) counts $u$ MACs if it is not zero; all weights of a
    parameter are taken to be used equally often, as convolutions, dense layers and scanned layers
    do. Of a ragged product whose group sizes are constants each group counts its own rows and
    weights; otherwise the groups are taken to be equally large.

    Nothing is computed: `jax.ShapeDtypeStruct` serve as parameters (with a mask, or as dense ones)
    and as inputs.

    Args:
      apply: a function of JAX operations.
      params: any pytree of arrays.
      *inputs: further arguments of ``apply``.
      mask: bool arrays, True = kept, `None` where a leaf is not prunable and counts as dense. If
        omitted, entries of ``params`` that are zero count as removed.

      on_uncounted: what happens where products cannot be counted (see below): "error"; or "warn" or
        "allow", and they count nothing.

    Returns:
      The counts, as exact Python integers.

    Raises:
      ValueError: if a product stands inside a ``while`` whose number of rounds is not known; if a
        primitive may hide products (a Pallas kernel or `shard_map` with one in it, foreign calls,
        callbacks), naming it and its source line; if the mask is of another tree.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import metrics
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["first"]) @ params["last"]
      >>> params = {"first": jnp.ones((4, 8)), "last": jnp.zeros((8, 2)).at[0].set(1.0)}
      >>> found = metrics.flops(apply, params, jnp.ones((1, 4)))
      >>> found.macs, found.nonzero_macs, found.theoretical_speedup
      (48, 34, 1.411764705882353)
      >>> found.layers[1]
      LayerMacs(path='last', macs=16, nonzero_macs=2)

    References:
      Blalock et al., What is the State of Neural Network Pruning?, MLSys 2020 (ShrinkBench);
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    if on_uncounted not in ("error", "warn", "allow"):
        raise ValueError(f"on_uncounted is 'error', 'warn' or 'allow'; got {on_uncounted!r}.")
    if mask is not None:
        _tree.check_matches(mask, params)
    densities = _Densities(params, mask)
    by_path: dict[str, tuple[int, Fraction]] = {}
    for product in _jaxpr.products(apply, params, *inputs):
        problem = _uncounted(product)
        if problem is not None:
            if on_uncounted == "error":
                raise ValueError(f"{problem} Or pass on_uncounted='warn' to leave it out.")
            if on_uncounted == "warn":
                warnings.warn(f"{problem} It counts nothing.", stacklevel=2)
            continue
        path, (macs, nonzero) = _path(product), _macs_and_nonzero(product, densities)
        times, before = product.repeats or 0, by_path.get(path, (0, Fraction(0)))
        by_path[path] = (before[0] + macs * times, before[1] + nonzero * times)
    return Flops(
        tuple(LayerMacs(path, macs, round(nonzero)) for path, (macs, nonzero) in by_path.items())
    )


def _uncounted(product: _jaxpr.Product) -> str | None:
    """Why a product cannot be counted, or `None`."""
    name, path = product.eqn.primitive.name, _path(product) or "activations"
    where = source_info_util.summarize(product.eqn.source_info)
    if not product.is_followed:
        if name in _jaxpr.KINDS:
            name += " of several examples (vmap)"
        return (
            f"a {name} with {path!r} at {where} may multiply matrices, but nobody can look into "
            "it. Count a reference implementation in plain JAX instead."
        )
    if product.repeats is None:
        return (
            f"a {name} with {path!r} at {where} stands inside a while loop, whose number of rounds "
            "is not known before it runs. Use scan or fori_loop with fixed bounds, or count its "
            "body on its own."
        )
    return None


def _path(product: _jaxpr.Product) -> str:
    """The one parameter of a product, or "" where there is none or more than one."""
    paths = [path for leaves in product.leaves for path in leaves]
    return paths[0] if len(paths) == 1 else ""


def _macs_and_nonzero(product: _jaxpr.Product, densities: _Densities) -> tuple[int, Fraction]:
    path, sizes = _path(product), product.group_sizes
    factor = _real_products(product.eqn)
    if sizes is not None and _is_by_rows(product.eqn):
        _, k, n = _shape(product.eqn.invars[1])
        macs = factor * int(sizes.sum()) * k * n
        left = densities.of_each_first(path)
        if left is None:
            return macs, Fraction(macs)
        rows = zip(sizes.tolist(), left, strict=True)
        return macs, Fraction(factor * sum(size * kept for size, kept in rows))
    macs = factor * _macs(product)
    return macs, macs * densities.of(path)


def _real_products(eqn: Any) -> int:
    """How many real multiplications one of the equation's is: complex numbers have two parts."""
    return math.prod(
        2 for var in eqn.invars[:2] if jnp.issubdtype(var.aval.dtype, jnp.complexfloating)
    )


def _is_by_rows(eqn: Any) -> bool:
    """Whether each group takes rows of the left side, as in the layers of experts."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (taken, other), batch = numbers.dot_dimension_numbers
    dims = [*taken, *other, *numbers.lhs_ragged_dimensions, *numbers.rhs_group_dimensions]
    return [int(d) for d in dims] == [1, 1, 0, 0] and not any(map(len, batch))


def _macs(product: _jaxpr.Product) -> int:
    eqn = product.eqn
    lhs, rhs, out = (_shape(var) for var in (*eqn.invars[:2], *eqn.outvars))
    if eqn.primitive.name == "ragged_dot_general":
        numbers = eqn.params["ragged_dot_dimension_numbers"]
        (_, contracted), (_, batch) = numbers.dot_dimension_numbers
        others = {*contracted, *batch, *numbers.rhs_group_dimensions}
        return math.prod(lhs) * math.prod(n for i, n in enumerate(rhs) if i not in others)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(out) * math.prod(lhs[i] for i in contracted)
    numbers = eqn.params["dimension_numbers"]
    if any(d > 1 for d in eqn.params["lhs_dilation"]):
        # Each input entry meets, in its group, every kernel entry of its channel.
        channels = rhs[numbers.rhs_spec[0]] // eqn.params["feature_group_count"]
        spatial = math.prod(rhs[i] for i in numbers.rhs_spec[2:])
        return math.prod(lhs) * channels * spatial
    return math.prod(out) * (math.prod(rhs) // rhs[numbers.rhs_spec[0]])


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


class _Densities:
    """Which part of each parameter is kept."""

    def __init__(self, params: PyTree, mask: PyTree | None) -> None:
        if mask is None:
            known = [
                (path, leaf != 0)
                for path, leaf in _tree.named_leaves(params)
                if _tree.has_norm(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct)
            ]
        else:
            known = _tree.named_leaves(mask)
        self._flags = {path: leaf for path, leaf in known if _tree.size(leaf)}
        kept = count_true(list(self._flags.values()))
        sizes = map(_tree.size, self._flags.values())
        pairs = zip(kept, sizes, strict=True)
        self._found = dict(zip(self._flags, (Fraction(*pair) for pair in pairs), strict=True))

    def of(self, path: str) -> Fraction:
        """The fraction of it that is kept; 1 where it is not known to be less."""
        return self._found.get(path, Fraction(1))

    def of_each_first(self, path: str) -> list[int] | None:
        """How many weights are kept at each position of its first axis, if known."""
        flags = self._flags.get(path)
        if flags is None:
            return None
        return np.asarray(flags).reshape(len(flags), -1).sum(1).tolist()
