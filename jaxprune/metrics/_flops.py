"""Multiplications of a network, counted from its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax

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
    apply: Callable[..., Any], params: PyTree, *inputs: Any, mask: PyTree | None = None
) -> Flops:
    r"""Counts the multiply-accumulates (MACs) of ``apply(params, *inputs)``.

    Every matrix product and convolution of the jaxpr counts, whatever framework made it:

    * a product $\sum_k a_{bik} b_{bjk}$ has $|b|\,|i|\,|j|\,|k|$ MACs;
    * a convolution has (output entries) times (kernel entries an output channel), padded positions
      included; one that dilates its input (a transposed convolution) has (input entries) times
      (kernel entries an input channel).

    Additions, activations, normalizations and pooling count nothing, as in ShrinkBench and the code
    of Zimmer et al. Loops count as often as they run, each branch of a ``cond`` as if it ran.
    Inputs have a batch of their own: pass a batch of one for MACs an example. A weight that is
    used $u$ times in a pass counts $u$ MACs if it is not zero; all weights of a parameter are taken
    to be used equally often, as convolutions, dense layers and scanned layers do.

    Nothing is computed: `jax.ShapeDtypeStruct` serve as parameters (with a mask, or as dense ones)
    and as inputs.

    Args:
      apply: a function of JAX operations.
      params: any pytree of arrays.
      *inputs: further arguments of ``apply``.
      mask: bool arrays, True = kept, `None` where a leaf is not prunable and counts as dense. If
        omitted, entries of ``params`` that are zero count as removed.

    Returns:
      The counts, as exact Python integers.

    Raises:
      ValueError: if a product stands inside a ``while`` whose number of rounds is not known, or the
        mask is of another tree.

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
    if mask is not None:
        _tree.check_matches(mask, params)
    by_path: dict[str, int] = {}
    for product in _jaxpr.products(apply, params, *inputs):
        path, macs = _path(product), _macs(product)
        if product.repeats is None:
            raise ValueError(
                f"a {product.eqn.primitive.name} with {path or 'activations'!r} stands inside a "
                "while loop, whose number of rounds is not known before it runs. Use scan or "
                "fori_loop with fixed bounds, or count its body on its own."
            )
        by_path[path] = by_path.get(path, 0) + macs * product.repeats
    densities = _densities(params, mask)
    return Flops(
        tuple(
            LayerMacs(path, macs, round(macs * densities.get(path, Fraction(1))))
            for path, macs in by_path.items()
        )
    )


def _path(product: _jaxpr.Product) -> str:
    """The one parameter of a product, or "" where there is none or more than one."""
    paths = [path for leaves in product.leaves for path in leaves]
    return paths[0] if len(paths) == 1 else ""


def _macs(product: _jaxpr.Product) -> int:
    eqn = product.eqn
    lhs, rhs, out = (_shape(var) for var in (*eqn.invars, *eqn.outvars))
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


def _densities(params: PyTree, mask: PyTree | None) -> dict[str, Fraction]:
    """The fraction of each parameter that is kept; 1 where it is not known to be less."""
    if mask is None:
        known = [
            (path, leaf != 0)
            for path, leaf in _tree.named_leaves(params)
            if _tree.is_floating(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct)
        ]
    else:
        known = _tree.named_leaves(mask)
    kept = count_true([leaf for _, leaf in known])
    return {
        path: Fraction(k, _tree.size(leaf))
        for (path, leaf), k in zip(known, kept, strict=True)
        if _tree.size(leaf)
    }
